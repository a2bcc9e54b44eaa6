"""Residuals of the generator's own maps: its constant and its stored noise, which a plain StyleGAN2 keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_generator
from torch.testing import assert_close

from hyperinverter.contracts import Inversion
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.files import load_inversion, save_inversion
from hyperinverter.inversion.carrying import CARRYING, RULES, Carrier, Carrying, Rule, moved, movement
from hyperinverter.inversion.drawing import scale_residuals
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.specification import ModelSpec, build, describe
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.features import FeatureResiduals
from hyperinverter.networks.generator import Generator

PLACES = ["b4.const", "b4.conv1.noise", "b8.conv0.noise", "b16.conv1.noise"]


@pytest.fixture(scope="module")
def v0() -> Generator:
    torch.manual_seed(0)
    made = make_generator(32)
    for name, parameter in made.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.3)
    return made


@pytest.fixture(scope="module")
def model(v0: Generator) -> HyperInverter:
    torch.manual_seed(0)
    maps = v0.synthesis.feature_maps() | v0.synthesis.own_maps()
    backbone = TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))
    encoder = FeatureEncoder(backbone, v0.num_ws, 8, used=(), sides=[4, 8, 16])
    first = WInverter(v0, WEncoder(TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1)), v0.w_dim))
    added = FeatureResiduals(maps, PLACES, channels=8, width=4, scale=1.0)
    return HyperInverter(first, encoder, None, added).eval()


def drawn_residuals(v0: Generator, count: int) -> dict[str, torch.Tensor]:
    return {
        "b4.const": torch.randn(count, *v0.synthesis.own_maps()["b4.const"]),
        "b8.conv0.noise": torch.randn(count, 8, 8),
        "b32.conv1.noise": torch.randn(count, 32, 32),
    }


def like(v0: Generator, silent: bool) -> Generator:
    """A copy; ``silent``: one layer takes nothing of its noise."""
    plain = make_generator(32)
    plain.load_state_dict(v0.state_dict())
    if silent:
        torch.nn.init.zeros_(plain.synthesis.get_parameter("b8.conv0.noise_strength"))
    return plain


def test_own_maps_are_named_with_their_shapes(v0: Generator) -> None:
    maps = v0.synthesis.own_maps()
    assert maps["b4.const"] == (16, 4, 4)
    assert maps["b8.conv0.noise"] == (1, 8, 8)
    assert list(maps)[:3] == ["b4.const", "b4.conv1.noise", "b8.conv0.noise"]


@pytest.mark.parametrize("silent", [False, True])
def test_zeros_change_nothing_bit_for_bit(v0: Generator, silent: bool) -> None:
    plain = like(v0, silent)
    w = torch.randn(2, 16)
    zeros = {name: torch.zeros_like(found) for name, found in drawn_residuals(v0, 2).items()}
    assert torch.equal(plain.synthesis(w, zeros), plain.synthesis(w))


@pytest.mark.parametrize("silent", [False, True])
def test_a_plain_generator_with_the_new_tensors_draws_the_same(v0: Generator, silent: bool) -> None:
    """What is predicted per sample equals a StyleGAN2 whose constant, noise and strengths were changed by hand."""
    plain = like(v0, silent)
    w, found = torch.randn(1, 16), drawn_residuals(v0, 1)
    wanted = plain.synthesis(w, found)
    assert not torch.allclose(wanted, plain.synthesis(w), atol=0.1)
    prepared = plain.synthesis.with_residuals(found)
    assert_close(prepared(w), wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        plain.synthesis.get_parameter("b4.const").add_(found["b4.const"][0])
        for name in ("b8.conv0", "b32.conv1"):
            strength = plain.synthesis.get_parameter(f"{name}.noise_strength")
            noise = plain.synthesis.get_buffer(f"{name}.noise_const")
            noise.copy_(strength * noise + found[f"{name}.noise"][0])
            strength.fill_(1)
    assert_close(plain.synthesis(w), wanted, rtol=1e-4, atol=1e-4)


def test_preparing_one_photo_leaves_the_generator_alone(v0: Generator) -> None:
    w = torch.randn(1, 16)
    before = v0.synthesis(w)
    v0.synthesis.with_residuals(drawn_residuals(v0, 1))
    assert torch.equal(v0.synthesis(w), before)


def test_residuals_are_added_without_stored_noise_and_to_random_noise(v0: Generator) -> None:
    w, found = torch.randn(2, 16), {"b32.conv1.noise": torch.randn(2, 32, 32)}
    assert not torch.allclose(v0.synthesis(w, found, "none"), v0.synthesis(w, None, "none"), atol=1e-3)
    torch.manual_seed(1)
    changed = v0.synthesis(w, found, "random")
    torch.manual_seed(1)
    assert not torch.allclose(changed, v0.synthesis(w, None, "random"), atol=1e-3)


def test_wrong_shapes_are_refused(v0: Generator) -> None:
    w = torch.randn(1, 16)
    with pytest.raises(ValueError, match=r"residual for b8.conv0.noise must be \(1, 8, 8\)"):
        v0.synthesis(w, {"b8.conv0.noise": torch.zeros(1, 1, 8, 8)})
    with pytest.raises(ValueError, match=r"residual for b4.const must be \(1, 16, 4, 4\)"):
        v0.synthesis(w, {"b4.const": torch.zeros(1, 16, 8, 8)})
    with pytest.raises(ValueError, match="b6.conv1.noise"):
        v0.synthesis(w, {"b6.conv1.noise": torch.zeros(1, 8, 8)})


def test_a_model_predicts_them_and_its_inversion_edits_saves_and_scales(
    model: HyperInverter, tmp_path: Path
) -> None:
    inversion = model.invert(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert {name: tuple(found.shape[1:]) for name, found in inversion.residuals.items()} == {
        "b4.const": (16, 4, 4),
        "b4.conv1.noise": (4, 4),
        "b8.conv0.noise": (8, 8),
        "b16.conv1.noise": (16, 16),
    }
    assert not inversion.features  # they are the generator's own tensors: weights
    w = inversion.w + 0.5
    assert_close(model.prepare(inversion)(w), model.render(w, inversion.residuals), rtol=1e-4, atol=1e-4)
    half = scale_residuals(inversion.residuals, {"coarse": 0.0})
    assert not half["b8.conv0.noise"].any()
    assert torch.equal(half["b16.conv1.noise"], inversion.residuals["b16.conv1.noise"])
    file = tmp_path / "one.safetensors"
    save_inversion(inversion, file)
    again, _ = load_inversion(file)
    for name, found in inversion.residuals.items():
        assert torch.equal(again.residuals[name], found)


@pytest.mark.parametrize("rule", RULES)
def test_no_edit_is_the_inversion_and_an_edit_is_the_same_in_both_ways(
    model: HyperInverter, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "rule", rule)
    photos = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    inversion, turn = model.invert(photos), Direction("turn", 0.5 * torch.ones(16))
    assert torch.equal(model.edit(inversion, turn, 0.0), inversion.image)
    edited = model.edit(inversion, turn)
    one: Inversion = inversion.one(0)
    both = model.prepare(one)(torch.cat([one.w, one.w + turn.shift]))
    assert_close(both, torch.cat([inversion.image[:1], edited[:1]]), atol=1e-4, rtol=1e-4)
    where_they_were = model.render(inversion.w + turn.shift, inversion.residuals)
    assert torch.allclose(edited, where_they_were, atol=1e-4) == (rule == "add")


@pytest.mark.parametrize("rule", CARRYING)
def test_noise_and_constant_keep_their_shapes_and_no_map_behind_them_is_drawn_once(
    v0: Generator, rule: Carrying
) -> None:
    w = torch.randn(1, 16)
    after, found = w + torch.randn(3, 16), drawn_residuals(v0, 1)
    del found["b4.const"]
    carried, drawn = Carrier(rule, v0.synthesis, found, w)(after)
    assert {name: tuple(x.shape) for name, x in carried.items()} == {
        "b8.conv0.noise": (3, 8, 8),
        "b32.conv1.noise": (3, 32, 32),
    }
    assert list(drawn) == ([] if rule == "add" else ["b4.conv1"])  # the next layer has other noise
    assert_close(v0.synthesis(after, carried, drawn=drawn), v0.synthesis(after, carried))
    const, drawn = Carrier(rule, v0.synthesis, drawn_residuals(v0, 1), w)(after)
    assert const["b4.const"].shape == (3, *v0.synthesis.own_maps()["b4.const"])
    assert not drawn


def test_following_moves_noise_and_takes_away_what_the_movement_does_not_explain(v0: Generator) -> None:
    w = torch.randn(1, 16)
    after, name = w + 0.5, "b16.conv1.noise"
    found = {name: torch.rand(1, 16, 16) + 1}

    def carried(rule: Carrying) -> torch.Tensor:
        return Carrier(rule, v0.synthesis, found, w)(after)[0][name]

    old, new = (v0.synthesis.maps_to(code, "b32.conv1") for code in (w, after))
    flow = movement(old["b32.conv1"], new["b32.conv1"])
    assert flow.abs().max() > 0.1
    there = moved(found[name][:, None], flow)
    assert_close(carried("warp"), there[:, 0])
    left = moved(old["b16.conv1"], flow) - new["b16.conv1"]
    change = left.square().mean(1) / moved(old["b16.conv1"], flow).square().mean((1, 2, 3))
    assert_close(carried("follow"), there[:, 0] * torch.exp(-change / 0.25))
    still = Carrier("follow", v0.synthesis, found, w)(w)[0][name]
    assert_close(still, found[name])


@pytest.mark.parametrize("rule", [rule for rule in CARRYING if rule != "add"])
def test_gradients_reach_residuals_and_not_the_maps_that_rules_compare(v0: Generator, rule: Carrying) -> None:
    w, after = torch.randn(1, 16, requires_grad=True), torch.randn(1, 16, requires_grad=True)
    found = {name: delta.requires_grad_() for name, delta in drawn_residuals(v0, 1).items()}
    carried, _ = Carrier(rule, v0.synthesis, found, w)(after)
    torch.stack([delta.square().sum() for delta in carried.values()]).sum().backward()
    assert all(delta.grad is not None and delta.grad.abs().max() > 0 for delta in found.values())
    assert w.grad is None
    assert after.grad is None


@pytest.mark.parametrize(("first", "learns"), [("b4.const", False), ("b8.conv0.noise", True)])
def test_maps_that_are_looked_at_alone_are_drawn_without_gradients(
    v0: Generator, monkeypatch: pytest.MonkeyPatch, first: str, learns: bool
) -> None:
    found, modes, maps_to = {first: drawn_residuals(v0, 1)[first]}, [], v0.synthesis.maps_to

    def noted(*given: object) -> dict[str, torch.Tensor]:
        modes.append(torch.is_grad_enabled())
        return maps_to(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(v0.synthesis, "maps_to", noted)
    _, drawn = Carrier("follow", v0.synthesis, found, torch.randn(1, 16))(torch.randn(1, 16))
    assert modes == [False, learns]
    assert bool(drawn) == learns


def test_what_edits_do_with_residuals_is_no_part_of_the_change_by_an_edit(
    model: HyperInverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, shift = torch.rand(2, 3, 32, 32) * 2 - 1, 0.5 * torch.ones(1, 16)
    first, residuals = model.predict(photo, factored=True)
    image = model.draw_unseen(first.w, residuals).detach()

    def changes() -> tuple[torch.Tensor, torch.Tensor]:
        change, wanted = model.change_by_edit(first, residuals, image, shift)
        return change.detach(), wanted

    change, wanted = changes()
    mine = {name: found[:1] for name, found in residuals.items()}
    assert_close(change, (model.render(first.w[:1] + shift, mine) - image[:1]).detach(), atol=1e-5, rtol=1e-5)
    assert_close(wanted, model.render(first.w[:1] + shift) - first.w_image[:1], atol=1e-5, rtol=1e-5)
    for rule in RULES:
        for name, value in (("rule", rule), ("edit_strength", 0.5), ("edit_gain", 1.5)):
            monkeypatch.setattr(model, name, value)
        assert torch.equal(changes()[0], change)


@pytest.mark.parametrize("rule", RULES)
def test_moved_to_the_mirror_image_is_the_edit_to_its_code(
    model: HyperInverter, monkeypatch: pytest.MonkeyPatch, rule: Rule
) -> None:
    for name, value in (("rule", rule), ("edit_strength", 0.5), ("edit_gain", 1.5)):
        monkeypatch.setattr(model, name, value)
    model.zero_grad()
    photo = torch.rand(3, 3, 32, 32) * 2 - 1
    mirrored = photo[1:].flip(-1)
    first, residuals = model.predict(photo, factored=True)
    moved = model.moved_to_mirror(first, residuals, mirrored)
    moved.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.trainable_parameters())
    inversion = model.invert(photo[1:])
    monkeypatch.setattr(model, "edit_gain", 1.0)  # where the edit ends is known: it is not gone beyond
    for i in range(2):
        step = model.invert(mirrored[i : i + 1]).w - inversion.w[i : i + 1]
        edited = model.edit(inversion.one(i), Direction("mirror", step[0]))
        assert_close(moved[i : i + 1].detach(), edited, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_heads(model: HyperInverter) -> None:
    model.train()
    model.reconstruct(torch.rand(2, 3, 32, 32) * 2 - 1).square().mean().backward()
    assert model.feature_residuals is not None
    for parameter in model.feature_residuals.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    model.eval()


def test_a_model_is_built_again_from_its_description(model: HyperInverter, v0: Generator) -> None:
    spec = ModelSpec.from_plain(describe(model).plain())
    assert spec.feature_residuals is not None
    assert list(spec.feature_residuals.places) == PLACES
    again = build(spec, v0)
    again.load_state_dict(model.state_dict())
    photo = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(again.invert(photo).image, model.invert(photo).image)
