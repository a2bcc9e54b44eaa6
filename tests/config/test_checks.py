"""Values that cannot work, and values that are probably not meant."""

import pytest

from hyperinverter import config
from hyperinverter.contracts import UserError


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("phase.kimg=0", "phase.kimg must be above 0, got 0"),
        ("phase.kimg=many", "phase.kimg must be a number, got 'many'"),
        ("phase.kimg=nan", "phase.kimg must be a number"),
        ("phase.batch_size=0", "phase.batch_size must be a whole number of at least 1, got 0"),
        ("phase.batch_size=1.5", "phase.batch_size must be a whole number"),
        (
            "phase.schedule=cosin",
            r"phase.schedule must be one of cosine, constant, got 'cosin', did you mean 'cosine'\?",
        ),
        ("loss.l2=-1", "loss.l2 must be at least 0"),
        ("loss.edit_share=[[[1]]]", "loss.edit_share must be a part of the batch"),
        ("loss.edit_share=0", "loss.edit_share must be a part of the batch"),
        ("features.places=3", "features.places must be a list of layers"),
        ("features.places=[[1]]", "features.places must be a list of layers"),
        ("loss.adv_batch_size=0", "loss.adv_batch_size must be a whole number of at least 1"),
        (
            "encoder.start=publishd",
            "encoder.start must be one of phase1, published, random.*did you mean 'published'",
        ),
        ("encoder.heads=levels", "encoder.heads must be one of layer, .*did you mean 'level'"),
        ("encoder.initial=0.5", "encoder.initial must be one of full, half, quarter, got 0.5"),
        ("domain.resolution=48", "power of two"),
        ("phase.monitor=train/l2", "must be a validation number"),
        ("phase.kimg=0.001", "less than one batch"),
        ("data.num_train=2", "do not fill one batch"),
        ("coverage=custom", "coverage.include has no value"),
        ("data=folder", "data.root has no value: add data.root="),
    ],
)
def test_values_that_cannot_work(typed: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config.validate(config.compose(["phase=2", typed]))


def test_values_that_do_not_fit_each_other() -> None:
    with pytest.raises(UserError, match="the discriminator would join after loss.adv_from_kimg=50"):
        config.validate(config.compose(["phase=2", "loss.adv=0.1", "loss.adv_from_kimg=50"]))
    with pytest.raises(
        UserError, match="loss.id=0.1 needs a network that compares: use judges.identity=id_moco"
    ):
        config.validate(config.compose(["generator=x.pkl", "data.root=x", "loss.id=0.1"]))
    with pytest.raises(UserError, match="nothing compares the image with the photo"):
        config.validate(config.compose(["loss.l2=0", "loss.lpips=0", "loss.id=0"]))


def test_a_face_loss_where_there_are_no_faces_is_a_caution() -> None:
    faceless = ["domain=churches", "data.root=x", "judges.identity=id_arcface", "loss.id=0.1"]
    (caution,) = config.cautions(config.compose(faceless))
    assert "compares churches with id_arcface, a network for faces" in caution
    assert "judges.identity=id_moco" in caution
    assert config.cautions(config.compose([*faceless, "domain.faces=true"])) == []
    assert config.cautions(config.compose([*faceless, "loss.id=0"])) == []
    assert config.cautions(config.compose(["domain=churches", "data.root=x", "loss.id=0.5"])) == []
    assert config.cautions(config.compose(["loss.id=0.1"])) == []
