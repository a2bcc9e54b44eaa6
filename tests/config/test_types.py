"""Values of another kind than their key takes are refused with what it must be."""

import pytest

from hyperinverter import config
from hyperinverter.contracts import UserError


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("data.flip=maybe", "data.flip must be true or false, got 'maybe'"),
        ("debug=maybe", "debug must be true or false"),
        ("phase.from_run=[a]", "phase.from_run must be a path"),
        ("generator.path=null", "generator.path must have a value, got null"),
        ("judges.lpips=null", "judges.lpips must have a value"),
        ("judges.identity=3", "judges.identity must be a name, got 3"),
        ("name=[a]", "name must be a name"),
        ("trainer.accelerator=3", "trainer.accelerator must be a name"),
        ("trainer.num_nodes=0", "trainer.num_nodes must be a whole number of at least 1"),
        ("trainer.max_epochs=-1", "trainer.max_epochs must be a whole number"),
        ("trainer.limit_train_batches=2.5", "must be a whole number, or a share from 0.0 to 1.0, got 2.5"),
        ("trainer.save_every_kimg=nan", "trainer.save_every_kimg must be a number of at least 0"),
        ("loss.lpips_share=2", "loss.lpips_share must be above 0 and at most 1"),
        ("phase.kimg=inf", "phase.kimg must be a finite number"),
        ("phase.accumulate=null", "phase.accumulate must have a value"),
        ("coverage.include=b16", r"coverage.include must be a list such as \[b16,b32\], got 'b16'"),
        ("trainer.timeout=" + "1" * 400, r"trainer.timeout must be a number below 2\*\*63, got 1+\.\.\."),
        ("phase.batch_size=1" + "0" * 30, r"phase.batch_size must be a number below"),
        ("phase.kimg=" + "9" * 5000, "an override holds a number that is too long"),
        ("panels=3", "panels must be a group of options, got 3"),
        ("paths=null", "paths must be a group of options, got None"),
    ],
)
def test_another_kind_of_value_is_refused(typed: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        config.validate(config.compose(["phase=2", typed]))


def test_every_option_there_is_fits() -> None:
    for typed in (
        ["trainer=smoke"],
        ["trainer=ddp"],
        ["evaluation=full"],
        ["logger=wandb"],
        ["name=3", "features=8"],
    ):
        config.validate(config.compose(["phase=2", *typed]))


def test_a_folder_may_be_called_by_a_number() -> None:
    assert config.compose(["paths.outputs=3", "generator.path=1.5"]).paths.outputs == "3"
