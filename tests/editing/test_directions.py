"""Directions add up in any order, come back exactly, and say when they do not fit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hyperinverter.contracts import Inversion, UserError
from hyperinverter.editing import catalogue
from hyperinverter.editing.directions import Direction, orthogonal, parse_power
from hyperinverter.inversion.drawing import Drawing, scale_residuals, strength_of
from hyperinverter.inversion.shifting import shifted
from hyperinverter.networks.generator import Generator

SMILE = Direction("smile", torch.randn(16, generator=torch.Generator().manual_seed(1)))
YAW = Direction("yaw", torch.randn(16, generator=torch.Generator().manual_seed(2)))
FINE = Direction("fine", torch.randn(16, generator=torch.Generator().manual_seed(3))).in_layers(4, 6, 6)


def test_power_zero_gives_the_code_itself() -> None:
    w = torch.randn(2, 16)
    assert shifted(w, [(SMILE, 0.0), (FINE, 0)]) is w


def test_the_order_of_edits_does_not_matter_to_the_last_bit() -> None:
    w = torch.randn(2, 16)
    edits = [(SMILE, 1.3), (YAW, -0.7), (FINE, 2.0)]
    assert torch.equal(shifted(w, edits), shifted(w, edits[::-1]))


def test_there_and_back() -> None:
    w = torch.randn(2, 16)
    assert_close(shifted(shifted(w, [(SMILE, 2.0)]), [(SMILE, -2.0)]), w, rtol=0, atol=1e-6)


@pytest.mark.parametrize("codes", [(2, 16), (2, 6, 16)])
def test_a_power_per_photo_equals_one_by_one(codes: tuple[int, ...]) -> None:
    w, powers = torch.randn(codes), torch.tensor([0.5, -2.0])
    for direction in (SMILE, FINE):
        together = shifted(w, [(direction, powers)])
        alone = [shifted(w[i : i + 1], [(direction, float(powers[i]))]) for i in range(2)]
        assert_close(together, torch.cat(alone))


def test_a_direction_for_some_layers_leaves_the_others() -> None:
    w = torch.randn(3, 16)
    moved = shifted(w, [(FINE, 1.0)])
    assert moved.shape == (3, 6, 16)
    assert torch.equal(moved[:, :4], w[:, None].expand(-1, 4, -1))
    assert_close(moved[:, 4], w + FINE.shift[4])


def test_as_many_photos_as_layers_are_not_mistaken_for_layers() -> None:
    w = torch.randn(6, 16)
    assert shifted(w, [(FINE, 1.0)]).shape == (6, 6, 16)
    assert shifted(w, [(SMILE, torch.arange(6.0))]).shape == (6, 16)


def test_a_direction_that_does_not_fit_names_both_sizes(generator: Generator) -> None:
    with pytest.raises(UserError, match="width 8, the generator has w of width 16 and 6 style layers"):
        Direction("d", torch.ones(8)).fit_for(generator.w_dim, generator.num_ws)
    with pytest.raises(UserError, match="width 16 and 5 layers"):
        Direction("d", torch.ones(5, 16)).fit_for(generator.w_dim, generator.num_ws)
    with pytest.raises(ValueError, match="does not fit codes"):
        shifted(torch.randn(2, 8), [(SMILE, 1.0)])
    with pytest.raises(ValueError, match="does not fit codes"):
        shifted(torch.randn(2, 5, 16), [(FINE, 1.0)])
    with pytest.raises(UserError, match="layers 4-8 are not within 0-5"):
        SMILE.in_layers(4, 9, 6)


@pytest.mark.parametrize("shift", [torch.zeros(16), torch.full((16,), torch.nan), torch.ones(2, 3, 4)])
def test_what_is_no_direction(shift: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a direction"):
        Direction("d", shift)
    with pytest.raises(ValueError, match="needs a name"):
        Direction("../d", torch.ones(3))


def test_orthogonal_takes_away_what_others_move() -> None:
    d, others = torch.randn(16), [SMILE.shift, YAW.shift]
    left = orthogonal(d, others)
    assert_close(left.norm(), d.norm())
    assert max(float((left @ o).abs()) for o in others) < 1e-5
    with pytest.raises(UserError, match="nothing of it is left"):
        orthogonal(SMILE.shift + 2 * YAW.shift, others, name="both")


def test_powers_as_typed() -> None:
    assert parse_power("smile=-1.5") == ("smile", -1.5)
    assert parse_power("smile") == ("smile", 1.0)
    for bad in ("smile=much", "=2", "smile=nan", "smile=inf"):
        with pytest.raises(UserError, match="NAME=POWER"):
            parse_power(bad)


def test_strength_per_group_of_layers() -> None:
    names = ["b4.conv1.weight", "b16.conv0.weight", "b16.torgb.weight", "b64.conv1.affine.weight"]
    residuals = {name: torch.ones(2, 3) for name in names}
    scaled = scale_residuals(residuals, {"medium": 0.5, "torgb": 0.25, "b64": 0.0})
    assert [float(scaled[name].flatten()[0]) for name in names] == [1.0, 0.5, 0.25, 0.0]  # type: ignore[union-attr]
    assert strength_of("b8.conv0.weight", {"coarse": 0.1}) == 0.1
    with pytest.raises(ValueError, match="no group of layers is called 'eyes'"):
        scale_residuals(residuals, {"eyes": 1.0})


def test_edits_of_other_things_are_named() -> None:
    w, edit, image = torch.zeros(1, 16), partial(Drawing.edit, None), torch.zeros(1, 3, 8, 8)
    inversion = Inversion(w=w, w_image=image, residuals={}, image=image)
    for direction in ("smile", None, torch.ones(16), np.ones(16), [SMILE], [("smile", 1)], {"smile": 1}):
        with pytest.raises(
            TypeError, match="expected a direction, such as .* or pairs of direction and power"
        ):
            edit(inversion, direction)
    with pytest.raises(TypeError, match="expected an inversion, as invert returns it, got Tensor"):
        edit(w, SMILE)
    with pytest.raises(TypeError, match="expected a power as a number, .*got str"):
        edit(inversion, SMILE, "1")
    with pytest.raises(ValueError, match="expected a power as a finite number, got nan"):
        edit(inversion, SMILE, float("nan"))


def test_a_name_that_there_is_not_is_answered_with_those_there_are() -> None:
    found = catalogue.load("digiface")
    with pytest.raises(UserError, match="there is no direction 'smlie'; there are: .*smile"):
        found["smlie"]
    assert found.get("smlie") is None
    assert "smlie" not in found
