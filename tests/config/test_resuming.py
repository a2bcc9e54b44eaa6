"""The table of what a resumed run does with a new setting."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from hyperinverter import config
from hyperinverter.contracts import UserError

PHASE2 = ("phase=2", "data=folder", "data.root=photos")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("seed=1", r"seed was 0 when this run was saved and is 1 now, but the order of the photos"),
        ("fusion=add", r"fusion\._target_ was .*ConcatFusion when .* is .*AddFusion now, but the weights"),
        ("coverage=fine", r"coverage\.include was \[convs_torgb\] when .* is \[fine\] now"),
        ("encoder.features_backbone=null", r"features_backbone.* is null now, but the weights"),
        ("phase/optimizer=adam", r"optimizer\._target_ was .*Muon when .* is .*Adam now"),
        ("loss.adv=0.1", r"loss\.adv was 0\.0 .* is 0\.1 now, but the checkpoint holds no discriminator"),
        ("phase=1", r"phase\.number was 2 .* is 1 now"),
    ],
)
def test_a_setting_that_must_stay_is_refused_with_both_values(typed: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config.changes(config.compose(PHASE2), config.compose([*PHASE2, typed]))


def test_every_key_that_must_stay_is_refused_with_both_values() -> None:
    before = config.compose(PHASE2)
    values = config.flat(config.to_dict(before))
    kept = [key for key in values if (config.rule(key) or config.Rule("takes")).kind == "keeps"]
    assert len(kept) > 20
    for key in kept:
        now = config.compose(PHASE2)
        old, new = values[key], {int: 77, float: 0.77, list: ["other"]}.get(type(values[key]), "other")
        node, _, name = key.rpartition(".")
        (config.given(now, node) if node else now)[name] = new
        with pytest.raises(UserError) as told:
            config.changes(before, now)
        assert f"{key} was {config.quote(old)} when" in str(told.value)
        assert f"is {config.quote(new)} now" in str(told.value)


def test_a_setting_that_acts_is_taken_and_one_without_effect_is_named() -> None:
    new = [
        "phase.kimg=7",
        "phase.optimizer.lr=0.5",
        "data.val_fraction=0.2",
        "hypernet.init=paper",
        "debug=true",
    ]
    found = config.changes(config.compose(PHASE2), config.compose([*PHASE2, *new]))
    assert found.taken == {"phase.kimg": (33, 7), "phase.optimizer.lr": (0.005, 0.5)}
    assert len(found.idle) == 2
    assert any("data.val_fraction was 0.05" in line and "is 0.2 now" in line for line in found.idle)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("features='8'", "features.places"),
        ("method=e4e", "method.name"),
        ("encoder.initial=half", "encoder.initial"),
    ],
)
def test_a_setting_that_did_not_exist_yet_counts_as_its_default(typed: str, key: str) -> None:
    before = config.compose(PHASE2)
    OmegaConf.set_struct(before, False)
    del before["features"], before["method"], before.encoder["initial"]
    assert config.changes(before, config.compose(PHASE2)).taken == {}
    with pytest.raises(UserError, match=rf"{key} was .* when this run was saved and is .* now, but"):
        config.changes(before, config.compose([*PHASE2, typed]))


def test_what_a_run_settled_and_what_another_version_does_not_know_are_no_changes() -> None:
    before, now = config.compose(PHASE2), config.compose(PHASE2)
    for cfg in (before, now):
        OmegaConf.set_struct(cfg, False)
    before.domain.resolution, before.phase.from_run = 64, "packaged"  # as assembly.settle does
    del before["features"], before.data["flip"]
    del now.trainer["timeout"]
    found = config.changes(before, now)
    assert (found.taken, found.idle) == ({}, [])
