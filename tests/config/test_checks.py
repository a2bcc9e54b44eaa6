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
        ("loss.mirror=-1", "loss.mirror must be at least 0"),
        ("loss.mirror_share=2", "loss.mirror_share must be a part of the batch"),
        ("features.places=3", "features.places must be a list of layers"),
        ("features.places=[[1]]", "features.places must be a list of layers"),
        ("loss.adv_batch_size=0", "loss.adv_batch_size must be a whole number of at least 1"),
        (
            "encoder.start=publishd",
            "encoder.start must be one of phase1, published, random.*did you mean 'published'",
        ),
        ("encoder.heads=levels", "encoder.heads must be one of layer, .*did you mean 'level'"),
        ("encoder.initial=0.5", "encoder.initial must be one of full, half, quarter, joint, got 0.5"),
        ("domain.resolution=48", "power of two"),
        (
            "trainer.precision=fp16",
            "trainer.precision must be one of 32-true, bf16-mixed, 16-mixed, got 'fp16'",
        ),
        ("trainer.precision=64-true", "trainer.precision must be one of 32-true"),
        ("trainer.precision=null", "trainer.precision must be one of 32-true"),
        ("trainer.strategy=dpp", "trainer.strategy must be one of auto, ddp, got 'dpp', did you mean 'ddp'"),
        ("trainer.strategy=fsdp", "trainer.strategy must be one of auto, ddp"),
        ("trainer.accelerator=gpus", "trainer.accelerator must be one of cpu, gpu.*did you mean 'gpu'"),
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


@pytest.mark.parametrize(
    ("typed", "name"),
    [("16", "16-mixed"), ("bf16", "bf16-mixed"), ("32", "32-true"), ("16-mixed", "16-mixed")],
)
def test_short_names_of_precisions(typed: str, name: str) -> None:
    assert config.precision(config.compose([f"trainer.precision={typed}"])) == name


def test_a_filter_that_no_photo_is_resized_with() -> None:
    with pytest.raises(UserError, match="data.resize must be one of bilinear, bicubic, lanczos, box"):
        config.validate(config.compose(["data.root=x", "data.resize=nearest"]))


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
