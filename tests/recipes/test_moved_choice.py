"""Where moved details are let go of is chosen by a rule, from numbers that are those of the product's own edits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperinverter import load_inverter
from hyperinverter.editing import catalogue
from hyperinverter.inversion.easing import MOVED, Change
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter_recipes.edit_strengths import validation_faces
from hyperinverter_recipes.moved_choice import (
    FIRST,
    HEAD,
    SECOND,
    Last,
    Remembering,
    Stage,
    Trial,
    chosen,
    goes_on,
    shortfall,
    table,
)

OTHER = Change(0.08, 0.5, 0)


@pytest.fixture(scope="module")
def model() -> HyperInverter:
    return load_inverter("digiface_best")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return validation_faces(2)


def test_a_trial_edits_as_the_model_with_that_setting(
    model: HyperInverter, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    smile, shared = catalogue.for_generator(model.generator)["smile"], Remembering(model)
    inversion = model.invert(faces)
    monkeypatch.setattr(model, "edit_gain", 1.0)  # there was none when settings were tried
    for setting in (MOVED, OTHER):
        monkeypatch.setattr("hyperinverter.inversion.drawing.MOVED", setting)
        trial = Trial(shared, setting)
        assert torch.equal(trial.edit(trial.invert(faces), smile, 2.0), model.edit(inversion, smile, 2.0))
    assert not torch.equal(
        Trial(shared, MOVED).edit(inversion, smile, 2.0), Trial(shared, OTHER).edit(inversion, smile, 2.0)
    )


def test_settings_share_inversions_and_movements(
    model: HyperInverter, faces: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    inverted: list[Any] = []
    own = model.invert
    monkeypatch.setattr(model, "invert", lambda images: inverted.append(1) or own(images))
    yaw, shared = catalogue.for_generator(model.generator)["yaw"], Remembering(model)
    for setting in (MOVED, OTHER):
        trial = Trial(shared, setting)
        for power in (1.0, -1.0):
            trial.edit(trial.invert(faces), yaw, power)
    assert len(inverted) == 1
    assert len(shared.moved.found) == 2


def test_only_the_last_results_are_kept() -> None:
    last, made = Last[int](2), []
    for number in (1, 2, 1, 3, 1, 2):
        last(lambda number=number: made.append(number) or number, torch.tensor([number]))  # type: ignore[misc]
    assert made == [1, 2, 3, 2]


def test_what_is_missed_counts_in_parts_of_what_must_be() -> None:
    assert shortfall(np.array([0.95, 1.2, 0.75, 1.0])) == 0  # more than asked for is no credit
    assert shortfall(np.array([0.855, 0.76, 0.9, 2.2])) == pytest.approx(0.1 + 0.2 + 0.2 + 1.0)


def stage(smiles: dict[Change, float], identity: list[float], noise: float = 0.0, count: int = 40) -> Stage:
    """Settings that differ in smiles alone, by ``noise`` more or less from photo to photo."""
    rows = np.ones((len(smiles), count, 5))
    rows[..., 2] = 0.5
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(len(smiles), count))
    rows[..., 1] = np.array(list(smiles.values()))[:, None] + noise * signs
    return Stage(list(smiles), rows, np.ones((count, 3)), [(x, x) for x in identity])


def test_a_clear_winner_needs_no_identity() -> None:
    found = stage({SECOND: 0.8, FIRST: 0.7, OTHER: 0.9}, [0.5, 0.9, 0.1], noise=0.01)
    assert chosen(found) == OTHER
    more, half = found.more()
    assert more[1] == pytest.approx(0.2 / 0.95, abs=0.01)
    assert 0 < half[1] < 0.02
    assert half[2] == 0


def test_of_equals_identity_decides_and_then_what_is_in_use() -> None:
    smiles = {SECOND: 0.80, FIRST: 0.81, OTHER: 0.5}
    assert chosen(stage(smiles, [0.5, 0.6, 0.9], noise=0.2)) == FIRST
    assert chosen(stage(smiles, [0.6, 0.5, 0.9], noise=0.2)) == SECOND
    assert chosen(stage(smiles, [0.5, 0.5, 0.9], noise=0.2)) == SECOND


def test_the_best_three_go_on_and_both_that_were_in_use() -> None:
    settings = {Change(0.1 * i, 0.5, 0): 0.9 - 0.1 * i for i in range(1, 5)}
    assert goes_on(stage({SECOND: 0.1, **settings}, [])) == [*list(settings)[:3], SECOND, FIRST]
    assert goes_on(stage({SECOND: 0.9, **settings}, [])) == [SECOND, *list(settings)[:2], FIRST]


def test_the_table_names_the_winner() -> None:
    found = stage({SECOND: 0.855, OTHER: 0.95}, [0.5, 0.6])
    rows = [dict(zip(HEAD, row, strict=True)) for row in table(found, OTHER)]
    assert [row["chosen"] for row in rows] == ["", "yes"]
    assert rows[0]["smile_effect"] == "0.855"
    assert rows[0]["shortfall"] == rows[0]["more_than_smallest"] == "0.100"
    assert rows[1]["identity_yaw"] == "0.600"
