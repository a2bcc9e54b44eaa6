"""What an edit leaves of residuals is chosen on validation photos, and the model is left as it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hyperinverter.contracts import UserError
from hyperinverter.data.digiface import split_indices
from hyperinverter.evaluation.editability import PARTS, Edits, Way
from hyperinverter.inversion.drawing import Drawing
from hyperinverter_recipes.edit_strengths import edit_strengths, markdown, validation_faces


class Phase1(Drawing):
    generator = None  # type: ignore[assignment]

    def invert(self, images: Any, strength: Any = 1.0) -> Any:
        raise NotImplementedError


def edits(effect: float) -> Edits:
    numbers = {
        "effect_yaw": [effect, effect],
        "flip_l2": [0.1],
        "flip_id_descriptor": [0.2],
        "back_l2": [0.3],
    }
    return Edits(numbers, {"yaw": Way(list(PARTS), [0.0] * 6, [0.4, 0, 0, 0, 0, 0.6])})


def test_every_strength_is_measured_and_the_models_own_is_put_back() -> None:
    model = SimpleNamespace(edit_strength=0.7, w_inverter=Phase1())
    seen: list[Any] = []

    def measure(models: Any, advance: Any, asked: Any) -> dict[str, Edits]:
        ((label, one),) = models.items()
        seen.append("phase I" if one is model.w_inverter else model.edit_strength)
        return {label: edits(2.0 if one is model.w_inverter else 1.0)}

    editing = SimpleNamespace(steps=lambda: 1, measure_together=measure)
    found = edit_strengths(model, editing, (1.0, 0.5))  # type: ignore[arg-type]
    assert seen == ["phase I", 1.0, 0.5]
    assert model.edit_strength == 0.7
    assert "| 0.5 | 0.500 | 0.500 | 0.1000 | 0.2000 | 0.3000 |" in markdown(found)
    assert "| phase I | 1.000 |" in markdown(found)


def test_gains_are_measured_against_the_true_edit_too() -> None:
    model = SimpleNamespace(edit_gain=1.0, w_inverter=Phase1())

    def measure(models: Any, advance: Any, asked: Any) -> dict[str, Edits]:
        assert "truth" in asked
        ((label, _),) = models.items()
        found = edits(2.0 * model.edit_gain)
        found.numbers |= {"truth_l2_yaw_plain": [0.01 * model.edit_gain], "truth_l2_smile_plain": [0.02]}
        found.ways["yaw"].change[:] = [-1, -0.6, -0.3, 0.3, 0.6, 1]
        return {label: found}

    editing = SimpleNamespace(steps=lambda: 1, measure_together=measure)
    found = edit_strengths(model, editing, (1.0, 1.5), "edit_gain")  # type: ignore[arg-type]
    assert model.edit_gain == 1.0
    table = markdown(found, "edit_gain")
    assert "| edit_gain | yaw effect | identity at the ends, yaw | at the same change, yaw |" in table
    assert "| 1.5 | 1.500 | 0.500 | 0.500 | 0.1000 | 0.2000 | 0.3000 | 0.0150 | 0.0200 |" in table


def test_a_model_without_residuals_has_nothing_to_let_go_of() -> None:
    with pytest.raises(UserError, match="name a model of phase II"):
        edit_strengths(Phase1(), SimpleNamespace())  # type: ignore[arg-type]


def test_the_choice_does_not_see_test_photos() -> None:
    assert validation_faces(2).shape == (2, 3, 64, 64)
    splits = split_indices()
    assert not set(splits["val"]) & set(splits["test"])
