"""Feature residuals: where they are added, what edits do with them, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_generator
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.contracts import Inversion
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.files import load_inversion, save_inversion
from hyperinverter.inversion.carrying import CARRYING, RULES, Carrier, carried, moved, movement
from hyperinverter.inversion.drawing import scale_residuals
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.features import FeatureResiduals
from hyperinverter.networks.generator import Generator

NAME = "b8.conv1.features"


@pytest.fixture(scope="module")
def v0() -> Generator:
    torch.manual_seed(0)
    return make_generator(32)


@pytest.fixture(scope="module")
def model(v0: Generator) -> HyperInverter:
    torch.manual_seed(0)
    maps = v0.synthesis.feature_maps()
    backbone = TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))
    encoder = FeatureEncoder(backbone, v0.num_ws, 8, used=(), sides=[8, 16])
    first = WInverter(v0, WEncoder(TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1)), v0.w_dim))
    added = FeatureResiduals(maps, ["b8.conv1", "b16.conv0"], channels=8, width=4, scale=1.0)
    return HyperInverter(first, encoder, None, added).eval()


@pytest.fixture(scope="module")
def inversion(model: HyperInverter) -> Inversion:
    torch.manual_seed(1)
    return model.invert(torch.rand(2, 3, 32, 32) * 2 - 1)


def turn(size: float = 2.0) -> Direction:
    return Direction("turn", size * torch.ones(16) / 4)


def test_maps_are_named_with_their_shapes(v0: Generator) -> None:
    assert v0.synthesis.feature_maps()["b8.conv0"] == (16, 8, 8)
    assert list(v0.synthesis.feature_maps())[:3] == ["b4.conv1", "b8.conv0", "b8.conv1"]


@pytest.mark.parametrize("name", ["b4.conv1", "b8.conv0", "b32.conv1"])
def test_zeros_change_nothing_bit_for_bit(v0: Generator, name: str) -> None:
    w = torch.randn(2, 16)
    zeros = torch.zeros(2, *v0.synthesis.feature_maps()[name])
    assert torch.equal(v0.synthesis(w, {f"{name}.features": zeros}), v0.synthesis(w))


def test_a_residual_is_added_before_torgb_and_the_next_layer(v0: Generator) -> None:
    w, delta = torch.randn(2, 16), torch.randn(2, 16, 32, 32)[:, : v0.config.channels(32)]
    block = v0.synthesis.get_submodule("b32")
    codes = w[:, None].expand(-1, v0.num_ws, -1)
    before = block.torgb(v0.synthesis.map_of(w, "b32.conv1"), codes[:, -1], None, None)
    after = block.torgb(v0.synthesis.map_of(w, "b32.conv1") + delta, codes[:, -1], None, None)
    change = v0.synthesis(w, {"b32.conv1.features": delta}) - v0.synthesis(w)
    assert_close(change, after - before, atol=1e-4, rtol=1e-4)
    small = v0.synthesis.map_of(w, "b16.conv0", {NAME: torch.ones(2, 16, 8, 8)})
    assert not torch.allclose(small, v0.synthesis.map_of(w, "b16.conv0"))  # the next layer reads it


def test_wrong_places_and_shapes_are_refused(v0: Generator) -> None:
    w = torch.randn(1, 16)
    with pytest.raises(ValueError, match=r"does not have: b8\.torgb\.features"):
        v0.synthesis(w, {"b8.torgb.features": torch.zeros(1, 16, 8, 8)})
    with pytest.raises(ValueError, match=r"must be \(1, 16, 8, 8\), got \(1, 16, 4, 4\)"):
        v0.synthesis(w, {NAME: torch.zeros(1, 16, 4, 4)})
    with pytest.raises(ValueError, match=r"no layer is called 'b9'"):
        FeatureResiduals(v0.synthesis.feature_maps(), ["b9"], channels=8)
    with pytest.raises(ValueError, match="needs a hypernetwork, feature residuals, or both"):
        HyperInverter.__init__(HyperInverter.__new__(HyperInverter), None, None, None)  # type: ignore[arg-type]


def test_prepare_draws_what_render_draws(model: HyperInverter, inversion: Inversion) -> None:
    one = Inversion(
        inversion.w[:1],
        {name: delta[:1] for name, delta in inversion.residuals.items()},
        *(image[:1] for image in (inversion.w_image, inversion.image)),
    )
    assert_close(model.prepare(one)(one.w), inversion.image[:1], atol=1e-5, rtol=1e-5)
    assert_close(model.prepare(one.residuals)(one.w), inversion.image[:1], atol=1e-5, rtol=1e-5)
    assert_close(model.prepare(one, 0.0)(one.w), inversion.w_image[:1], atol=1e-5, rtol=1e-5)


def test_strength_tells_features_from_weights_and_blocks() -> None:
    residuals = {NAME: torch.ones(1, 1, 8, 8), "b8.conv1.weight": torch.ones(1, 1, 1, 3, 3)}

    def sizes(strength: dict[str, float]) -> tuple[float, float]:
        scaled = scale_residuals(residuals, strength)
        return float(scaled[NAME].mean()), float(scaled["b8.conv1.weight"].mean())

    assert sizes({"features": 0.5}) == (0.5, 1.0)
    assert sizes({"weights": 0.25}) == (1.0, 0.25)
    assert sizes({"coarse": 0.5, "features": 0.5}) == (0.25, 0.5)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), {"coarse": float("nan")}])
def test_a_strength_that_is_not_finite_is_refused(strength: float | dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a strength as a finite number"):
        scale_residuals({NAME: torch.ones(1, 1, 8, 8)}, strength)


@pytest.mark.parametrize("rule", RULES)
def test_no_edit_is_the_inversion_and_an_edit_is_the_same_in_both_ways(
    model: HyperInverter, inversion: Inversion, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "rule", rule)
    assert torch.equal(model.edit(inversion, turn(), 0.0), inversion.image)
    edited = model.edit(inversion, turn(), 1.0)
    one = Inversion(
        inversion.w[:1],
        {name: delta[:1] for name, delta in inversion.residuals.items()},
        *(image[:1] for image in (inversion.w_image, inversion.image)),
    )
    both = model.prepare(one)(torch.cat([one.w, one.w + turn().shift]))
    assert_close(both, torch.cat([inversion.image[:1], edited[:1]]), atol=1e-4, rtol=1e-4)
    plain = model.render(inversion.w + turn().shift, inversion.residuals)
    assert torch.allclose(edited, plain, atol=1e-5) == (rule == "add")


@pytest.mark.parametrize("rule", CARRYING)
def test_one_photo_is_prepared_once_and_its_maps_are_not_drawn_twice(v0: Generator, rule: str) -> None:
    w = torch.randn(1, 16)
    after = w + torch.randn(3, 16)
    delta = {"b8.conv0.features": torch.randn(1, v0.config.channels(8), 8, 8)}
    carry = Carrier(rule, v0.synthesis, delta, w)  # type: ignore[arg-type]
    features, drawn = carry(after)
    wanted = carried(rule, v0.synthesis, delta, w, after)  # type: ignore[arg-type]
    assert_close(features["b8.conv0.features"], wanted["b8.conv0.features"], atol=1e-5, rtol=1e-5)
    assert list(drawn) == (
        [] if rule == "add" else ["b4.conv1", "b8.conv0"]
    )  # what the residual leaves as it is
    assert torch.equal(v0.synthesis(after, features, drawn=drawn), v0.synthesis(after, features))
    seen: list[str] = []
    layers = [(place, v0.synthesis.get_submodule(place)) for place in ("b8.conv0", "b8.conv1")]
    hooks = [
        layer.register_forward_hook(lambda *_, place=place: seen.append(place)) for place, layer in layers
    ]
    v0.synthesis(after, features, drawn=drawn)
    for hook in hooks:
        hook.remove()
    assert seen == (["b8.conv0"] if rule == "add" else []) + ["b8.conv1"]


def test_fading_takes_away_where_the_map_changed(v0: Generator) -> None:
    w = torch.randn(1, 16)
    delta = {NAME: torch.ones(1, 16, 8, 8)}
    near = carried("fade", v0.synthesis, delta, w, w + 0.01)[NAME]
    far = carried("fade", v0.synthesis, delta, w, w + 10)[NAME]
    assert near.min() > 0.9
    assert far.mean() < 0.5
    with pytest.raises(ValueError, match="rule must be one of add, fade, warp"):
        carried("bend", v0.synthesis, delta, w, w)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-2, 0), (0, 2), (1, -1)])
def test_a_moved_picture_is_found_and_followed(dx: int, dy: int) -> None:
    torch.manual_seed(0)
    old = torch.nn.functional.interpolate(torch.randn(1, 16, 10, 10), (32, 32), mode="bicubic")
    new = old.roll((dy, dx), (2, 3))
    flow = movement(old, new)
    inside = flow[..., 6:-6, 6:-6].mean((0, 2, 3))
    assert_close(inside, torch.tensor([-float(dx), -float(dy)]), atol=0.35, rtol=0)
    assert torch.equal(movement(old, old), torch.zeros_like(flow))
    shift = torch.tensor([-float(dx), -float(dy)]).view(1, 2, 1, 1).expand(1, 2, 32, 32)
    assert_close(moved(old, shift)[..., 4:-4, 4:-4], new[..., 4:-4, 4:-4], atol=1e-4, rtol=0)


def test_a_flow_is_of_the_picture_and_not_of_the_map() -> None:
    small = torch.arange(8.0).expand(1, 1, 8, 8)
    flow = torch.zeros(1, 2, 32, 32)
    flow[:, 0] = 4  # an eighth of the side: one position of the small map
    assert_close(moved(small, flow)[0, 0, 3, :7], small[0, 0, 3, 1:], atol=1e-5, rtol=0)


def test_features_travel_through_a_file(model: HyperInverter, inversion: Inversion, tmp_path: Path) -> None:
    one = Inversion(
        inversion.w[:1],
        {name: delta[:1] for name, delta in inversion.residuals.items()},
        *(image[:1] for image in (inversion.w_image, inversion.image)),
    )
    assert set(one.features) == {NAME, "b16.conv0.features"}
    assert not one.weights
    save_inversion(one, tmp_path / "a.inversion.safetensors")
    again, _ = load_inversion(tmp_path / "a.inversion.safetensors")
    assert torch.equal(model.render(again.w, again.residuals), model.render(one.w, one.residuals))


def test_movement_is_read_in_full_where_training_computes_in_bfloat16(v0: Generator) -> None:
    old, new = v0.synthesis.maps_to(v0.sample_codes(2), "b16.conv1")["b16.conv1"].detach().chunk(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = movement(old, new)
    assert_close(found, movement(old, new), rtol=0, atol=0)
    assert found.dtype == torch.float32


def test_training_moves_every_parameter(v0: Generator, model: HyperInverter) -> None:
    photo: Tensor = torch.rand(2, 3, 32, 32) * 2 - 1
    model.reconstruct(photo).square().mean().backward()
    assert model.feature_residuals is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.feature_residuals.parameters())
    model.zero_grad()
