"""The sentence each mistake gets."""

import pytest

from hyperinverter import config
from hyperinverter.contracts import UserError


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            "fusion=conct",
            r"fusion has no option 'conct', did you mean 'concat'\? there are: add, attention, concat",
        ),
        ("fuson=add", r"there is no 'fuson'; did you mean fusion\?"),
        ("phase.kmig=3", r"there is no 'phase.kmig'; did you mean phase.kimg\?"),
        (
            "loss.zzz=1",
            r"there is no 'loss.zzz'.*loss has: adv, adv_batch_size, adv_from_kimg, (edit, edit_share, )?id, l2, lpips",
        ),
        ("kimg=3", r"there is no 'kimg'; did you mean phase.kimg\?"),
        ("phase=3", r"phase has no option '3'; there are: 1, 2"),
        ("+sweep=fuson", r"sweep has no option 'fuson', did you mean 'fusion'\?"),
        ("+sweep=litelp", r"sweep has no option 'litelp', did you mean 'lite_lpips'\?"),
        ("+sweep=savings_", r"did you mean 'savings'\?"),
        ("+swep=fusion", r"there is no 'swep'; did you mean sweep\?"),
        ("+loss.idd=1", r"there is no 'loss.idd'; did you mean loss.id\?"),
        ("+fusion=add", r"has one plus too many: write fusion=add"),
        ("fusion=add,gated", r"gives several values to fusion.*\+sweep"),
        ("~phase", r"'~phase' takes out what every run needs: write phase=VALUE"),
        ("~loss.l3", r"there is no 'loss.l3'"),
        ("~los", r"there is no 'los'; did you mean loss\?"),
        ("foo", r"cannot read the override 'foo': write KEY=VALUE"),
    ],
)
def test_a_typo_gets_the_nearest_name(typed: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as told:
        config.compose([typed])
    assert "\n" not in str(told.value)


def test_arguments_of_a_class_can_be_added() -> None:
    assert config.compose(["+phase.optimizer.weight_decay=0.01"]).phase.optimizer.weight_decay == 0.01
