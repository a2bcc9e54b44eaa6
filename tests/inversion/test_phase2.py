from __future__ import annotations

import io
import itertools

import pytest
import torch
from tiny import make_generator
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.inversion.editing import interpolate
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.backbones import Backbone, ResNet34, TinyBackbone
from hyperinverter.networks.coverage import select
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.fusion import (
    AddFusion,
    AttentionFusion,
    ConcatFusion,
    DifferenceFusion,
    FilmFusion,
    Fusion,
    GatedFusion,
    MultiplyFusion,
    PhotoOnlyFusion,
)
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hypernets import HyperNetwork

FUSIONS = [
    ConcatFusion,
    AddFusion,
    DifferenceFusion,
    MultiplyFusion,
    GatedFusion,
    AttentionFusion,
    FilmFusion,
    PhotoOnlyFusion,
]
COVERAGES = ["convs", "convs_torgb", "torgb", "coarse", "medium", "all", "b8.conv?"]


class SmallBackbone(TinyBackbone):
    """Quicker still: pictures of 32 pixels."""

    input_size = 32
    strides = (1, 2, 4)

    def __init__(self) -> None:
        super().__init__((8, 8, 8), (1, 1, 1))
        self.stem = torch.nn.Conv2d(3, 8, 3, 1, 1)


def make_inverter(
    generator: Generator,
    fusion: type[Fusion] = ConcatFusion,
    coverage: str = "convs_torgb",
    backbone: type[Backbone] = SmallBackbone,
) -> HyperInverter:
    first = WInverter(generator, WEncoder(backbone(), generator.w_dim))
    kernels = select(generator.kernels(), [coverage])
    hypernet = HyperNetwork(
        kernels, channels=8, hidden_dim=4, fusion=fusion, extractor_channels=8, init="fan_in"
    )
    features = FeatureEncoder(backbone(), generator.num_ws, channels=8, used=hypernet.used_styles)
    return HyperInverter(first, features, hypernet)


@pytest.fixture
def inverter(generator: Generator) -> HyperInverter:
    return make_inverter(generator)


def test_zero_residuals_give_the_phase_one_image(inverter: HyperInverter, photos: Tensor) -> None:
    inversion = inverter.invert(photos)
    zeros = {name: torch.zeros_like(delta) for name, delta in inversion.residuals.items()}
    assert_close(inverter.render(inversion.w, zeros), inversion.w_image, rtol=0, atol=1e-5)
    assert_close(inverter.w_inverter.invert(photos).image, inversion.w_image, rtol=0, atol=1e-5)


def test_batch_equals_one_by_one(inverter: HyperInverter, photos: Tensor) -> None:
    together = inverter.invert(photos)
    alone = [inverter.invert(photo[None]) for photo in photos]
    assert_close(together.image, torch.cat([one.image for one in alone]), rtol=1e-4, atol=1e-4)
    for name, delta in together.residuals.items():
        assert_close(delta, torch.cat([one.residuals[name] for one in alone]), rtol=1e-4, atol=1e-5)


def test_image_is_what_a_plain_generator_with_those_weights_draws(
    inverter: HyperInverter, photos: Tensor
) -> None:
    inversion = inverter.invert(photos[:1])
    plain = make_generator()
    state = inverter.generator.state_dict()
    for name, delta in inversion.residuals.items():
        state[f"synthesis.{name}"] = state[f"synthesis.{name}"] + delta[0]
    plain.load_state_dict(state)
    assert_close(inversion.image, plain.synthesis(inversion.w), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("fusion", "coverage"), list(itertools.product(FUSIONS, COVERAGES)))
def test_every_option_composes_and_teaches_all_its_parameters(fusion: type[Fusion], coverage: str) -> None:
    inverter = make_inverter(make_generator(), fusion, coverage).train()
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    inversion = inverter(photo)
    assert inversion.image.shape == photo.shape
    assert list(inversion.residuals) == [s.name for s in select(inverter.generator.kernels(), [coverage])]
    (inversion.image - photo).square().mean().backward()
    for name, parameter in inverter.named_parameters():
        taught = parameter.grad is not None
        assert taught is not name.startswith("w_inverter."), name
    assert {id(p) for p in inverter.trainable_parameters()} == {
        id(p) for part in (inverter.feature_encoder, inverter.hypernet) for p in part.parameters()
    }


def test_frozen_parts_do_not_move_while_training() -> None:
    inverter = make_inverter(make_generator(), backbone=ResNet34)
    for encoder in (inverter.w_inverter.encoder, inverter.feature_encoder):
        encoder.backbone.input_size = 64  # the paper's 256, smaller and quicker
    inverter.feature_encoder.styles.clear()
    inverter.train()
    assert inverter.feature_encoder.training
    assert not any(part.training for part in inverter.w_inverter.modules())
    frozen = inverter.w_inverter.state_dict() | dict(inverter.generator.state_dict())
    before = {name: tensor.clone() for name, tensor in frozen.items()}
    statistics = inverter.feature_encoder.backbone.bn1.running_mean.clone()
    photo = torch.rand(2, 3, 16, 16)
    inverter.w_inverter(photo)
    inverter.feature_encoder.backbone(photo)
    assert_close(frozen, before, rtol=0, atol=0)
    assert not torch.equal(inverter.feature_encoder.backbone.bn1.running_mean, statistics)


def test_one_step_changes_what_learns_and_only_that(inverter: HyperInverter, photos: Tensor) -> None:
    inverter.train()
    optimizer = torch.optim.SGD(inverter.trainable_parameters(), lr=0.1)
    generator = {name: tensor.clone() for name, tensor in inverter.generator.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in inverter.state_dict().items()}
    (inverter(photos).image - photos).square().mean().backward()
    optimizer.step()
    assert_close(dict(inverter.generator.state_dict()), generator, rtol=0, atol=0)
    moved = {
        name.split(".")[0] for name, t in inverter.state_dict().items() if not torch.equal(t, state[name])
    }
    assert moved == {"feature_encoder", "hypernet"}


def test_checkpoint_holds_both_phases_but_no_generator(inverter: HyperInverter, photos: Tensor) -> None:
    state = inverter.state_dict()
    assert {name.split(".")[0] for name in state} == {"w_inverter", "feature_encoder", "hypernet"}
    assert {name.split(".")[1] for name in state if name.startswith("w_inverter")} == {"encoder"}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    twin = make_inverter(inverter.generator)
    twin.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(twin.invert(photos).image, inverter.invert(photos).image)


def test_strength_goes_from_phase_one_to_full(inverter: HyperInverter, photos: Tensor) -> None:
    full = inverter.invert(photos)
    none = inverter.invert(photos, strength=0)
    assert_close(none.image, full.w_image, rtol=0, atol=1e-5)
    assert not torch.allclose(full.image, full.w_image, atol=1e-5)
    assert_close(none.residuals, full.residuals)  # those returned are whole
    each = inverter.render(full.w, full.residuals, torch.tensor([0.0, 0.5, 1.0]))
    assert_close(each[[0, 2]], torch.stack([full.w_image[0], full.image[2]]), rtol=1e-4, atol=1e-4)
    half = {name: delta / 2 for name, delta in full.residuals.items()}
    assert_close(each[1], inverter.render(full.w, half)[1], rtol=1e-4, atol=1e-4)


def test_invert_takes_no_gradient_and_keeps_the_mode(inverter: HyperInverter, photos: Tensor) -> None:
    inverter.train()
    inversion = inverter.invert(photos)
    assert not inversion.image.requires_grad
    assert inverter.training
    assert inverter.hypernet.training
    assert not inverter.w_inverter.training


def test_other_shapes_are_refused(inverter: HyperInverter) -> None:
    with pytest.raises(ValueError, match=r"expected photos \(B, 3, H, W\)"):
        inverter(torch.zeros(1, 4, 16, 16))


def test_photos_may_have_any_size(inverter: HyperInverter) -> None:
    photo = torch.rand(2, 3, 90, 40) * 2 - 1
    side = inverter.feature_encoder.backbone.input_size
    seen = torch.nn.functional.interpolate(photo, (side, side), mode="bilinear", align_corners=False)
    inversion, expected = inverter.invert(photo), inverter.invert(seen)
    assert inversion.image.shape == (2, 3, 16, 16)
    assert_close(inversion.image, expected.image)


def test_interpolation_is_linear_in_code_and_residuals(inverter: HyperInverter, photos: Tensor) -> None:
    start, end = inverter.invert(photos[:1]), inverter.invert(photos[1:2])
    for t, inversion in ((0.0, start), (1.0, end)):
        w, residuals = interpolate(start, end, t)
        assert_close(inverter.render(w, residuals), inversion.image, rtol=1e-4, atol=1e-4)
    w, residuals = interpolate(start, end, 0.25)
    assert_close(w, 0.75 * start.w + 0.25 * end.w)
    for name, delta in residuals.items():
        assert_close(delta, 0.75 * start.residuals[name] + 0.25 * end.residuals[name])


def test_inversions_of_different_coverage_do_not_mix(generator: Generator, photos: Tensor) -> None:
    start = make_inverter(generator, coverage="convs").invert(photos)
    end = make_inverter(generator, coverage="convs_torgb").invert(photos)
    with pytest.raises(ValueError, match=r"different coverage: only one has b16.torgb.weight"):
        interpolate(start, end, 0.5)


@pytest.mark.slow
def test_overfits_one_photo(generator: Generator, photos: Tensor) -> None:
    inverter = make_inverter(generator).train()
    optimizer = torch.optim.Adam(inverter.trainable_parameters(), lr=3e-3)
    for _ in range(300):
        loss = (inverter(photos[:1]).image - photos[:1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # pure noise is the hardest photo there is: a grey picture leaves its whole power
    assert loss.item() < 0.2 * photos[:1].square().mean().item()
