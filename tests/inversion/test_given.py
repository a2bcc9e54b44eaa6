"""What people pass from Python: what is meant works, everything else is a sentence, and nothing is drawn from NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_generator

from hyperinverter.contracts import Inversion
from hyperinverter.editing.directions import Direction
from hyperinverter.inversion.given import check_drawn
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.encoders import WEncoder

NAME = "b8.conv0.weight"
NAN = float("nan")


@pytest.fixture(scope="module")
def model() -> WInverter:
    generator = make_generator()
    return WInverter(generator, WEncoder(TinyBackbone(), generator.w_dim)).eval()


@pytest.fixture(scope="module")
def inversion(model: WInverter) -> Inversion:
    """Of two photos, with one residual."""
    found = model.invert(torch.rand(2, 3, 16, 16) * 2 - 1)
    kernel = dict(model.generator.synthesis.named_parameters())[NAME]
    return replace(found, residuals={NAME: torch.randn(2, *kernel.shape) * 0.01})


TURN = Direction("turn", torch.ones(16))
TYPES = "expected residuals as a mapping"


@pytest.mark.parametrize(
    ("residuals", "error", "said"),
    [
        ([torch.zeros(2)], TypeError, f"{TYPES} .* got list"),
        (torch.zeros(2), TypeError, f"{TYPES} .* got Tensor"),
        ("b8", TypeError, f"{TYPES} .* got str"),
        (3, TypeError, f"{TYPES} .* got int"),
        ({NAME: [[1.0]]}, TypeError, f"{TYPES} .* got list for {NAME}"),
        ({NAME: np.zeros((2, 3))}, TypeError, f"{TYPES} .* got ndarray for {NAME}"),
        ({NAME: torch.zeros(2).int()}, TypeError, f"{TYPES} .* got torch.int32 for {NAME}"),
        ({3: torch.zeros(2)}, TypeError, f"{TYPES} .* got the name 3"),
        ({None: torch.zeros(2)}, TypeError, f"{TYPES} .* got the name None"),
        ({"b99.x": torch.zeros(2)}, ValueError, "the generator does not have: b99.x"),
        ({NAME: torch.zeros(2, 1)}, ValueError, f"residual for {NAME} must be"),
    ],
)
def test_what_are_no_residuals(
    residuals: Any, error: type[Exception], said: str, model: WInverter, inversion: Inversion
) -> None:
    for draw in (
        lambda: model.render(inversion.w, residuals),
        lambda: model.prepare(residuals)(inversion.w),
        lambda: model.edit(replace(inversion, residuals=residuals), TURN),
    ):
        with pytest.raises(error, match=said):
            draw()


DRAWN: dict[str, tuple[Callable[[WInverter, Inversion], Any], str]] = {
    "w": (lambda m, i: m.render(i.w * NAN, i.residuals), "codes w hold numbers that are not finite"),
    "one number of w": (
        lambda m, i: m.render(torch.where(torch.arange(16) == 3, torch.inf, i.w)),
        "codes w hold numbers that are not finite",
    ),
    "w of an edit": (lambda m, i: m.edit(replace(i, w=i.w * NAN), TURN), "codes w hold numbers"),
    "w of prepared edits": (
        lambda m, i: m.prepare(i.one(0))(i.one(0).w * NAN),
        "codes w hold numbers that are not finite",
    ),
    "a residual": (
        lambda m, i: m.render(i.w, {NAME: i.residuals[NAME] * NAN}),
        f"residual of {NAME} holds numbers that are not finite",
    ),
    "an edit too far": (lambda m, i: m.edit(i, TURN, 1e300), "codes w hold numbers that are not finite"),
    "a code too far": (lambda m, i: m.render(i.w.sign() * 1e38), "w reaches 1e.38, too far"),
    "powers": (lambda m, i: m.edit(i, TURN, torch.tensor([1.0, NAN])), "a power of finite numbers"),
    "strengths": (
        lambda m, i: m.render(i.w, i.residuals, torch.tensor([1.0, NAN])),
        "a strength of finite numbers",
    ),
    "strengths of a group": (
        lambda m, i: m.render(i.w, i.residuals, {"coarse": NAN}),
        "a strength as a finite number, got nan",
    ),
}


@pytest.mark.parametrize("given", DRAWN)
def test_nothing_is_drawn_from_what_is_not_finite(given: str, model: WInverter, inversion: Inversion) -> None:
    draw, said = DRAWN[given]
    with pytest.raises(ValueError, match=said):
        draw(model, inversion)


def test_weights_that_are_not_finite_are_found_where_they_draw(inversion: Inversion) -> None:
    with pytest.raises(ValueError, match="or its weights are damaged"):
        check_drawn(torch.full((1, 3, 4, 4), NAN), inversion.w, inversion.residuals)


def test_values_are_not_looked_at_where_something_learns(model: WInverter, inversion: Inversion) -> None:
    assert not model.render((inversion.w * NAN).requires_grad_()).isfinite().any()
    with torch.inference_mode():  # a validation: what trains says it in its own way
        assert not model.render(inversion.w * NAN).isfinite().any()


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda m, i: m.edit(i, TURN, torch.ones(3)), ValueError, r"one power per photo \(2,\), got \(3,\)"),
        (lambda m, i: m.edit(i, TURN, [1.0, 2.0]), TypeError, "expected a power as a number, .* got list"),
        (
            lambda m, i: m.render(i.w, i.residuals, torch.ones(3)),
            ValueError,
            r"one strength per photo \(2,\), got \(3,\)",
        ),
        (lambda m, i: m.render(i.w, i.residuals, {3: 1.0}), ValueError, "no group of layers is called 3"),
        (lambda m, i: m.render(i.w, i.residuals, {"coarse": None}), TypeError, "strength .* got NoneType"),
        (lambda m, i: m.render(i.w[:0]), ValueError, r"expected codes w .* got \(0, 16\)"),
        (lambda m, i: m.render(i.w.to("meta")), TypeError, "expected codes w"),
        (lambda m, i: m.edit(replace(i, w=i.w.tolist()), TURN), TypeError, "expected codes w .* got list"),
        (lambda m, i: m.prepare(None), TypeError, f"{TYPES} .* got NoneType"),
        (
            lambda m, i: m.edit("me.inversion.safetensors", TURN),
            TypeError,
            "expected an inversion, .* got str",
        ),
    ],
)
def test_what_cannot_be_meant_is_said(
    call: Callable[[Any, Any], Any],
    error: type[Exception],
    said: str,
    model: WInverter,
    inversion: Inversion,
) -> None:
    with pytest.raises(error, match=said):
        call(model, inversion)


def test_what_is_meant_works_in_the_types_people_have(model: WInverter, inversion: Inversion) -> None:
    w = inversion.w.half().float()
    for kind in (torch.float16, torch.float64):
        assert torch.equal(model.render(w.to(kind)), model.render(w))
    for number in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        assert torch.equal(
            model.render(w, inversion.residuals, number), model.render(w, inversion.residuals, 0.5)
        )
        assert torch.equal(model.edit(inversion, TURN, number), model.edit(inversion, TURN, 0.5))
