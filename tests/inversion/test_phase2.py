from __future__ import annotations

import io
import itertools
import math

import pytest
import torch
from tiny import make_generator
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.mark.parametrize("coverage", ["convs_torgb", "all"])
def test_factors_and_checkpointing_change_neither_image_nor_gradients(
    generator: Generator, photos: Tensor, coverage: str
) -> None:
    inverter = make_inverter(generator, coverage=coverage).train()
    results = []
    for factors, again in ((False, False), (True, False), (True, True)):
        inverter.use_checkpointing(again)
        image = inverter.reconstruct(photos, 0.7) if factors else inverter(photos, 0.7).image
        (image - photos).square().mean().backward()
        gradients = {n: p.grad.clone() for n, p in inverter.named_parameters() if p.grad is not None}
        inverter.zero_grad()
        results.append((image, gradients))
    for image, gradients in results[1:]:
        assert_close(image, results[0][0], rtol=1e-4, atol=1e-4)
        for name, gradient in gradients.items():
            size = results[0][1][name].abs().max().item()
            assert_close(gradient, results[0][1][name], rtol=1e-3, atol=1e-4 * size + 1e-7)


def test_an_inversion_to_factors_is_the_same_without_residuals_that_have_factors(
    inverter: HyperInverter, photos: Tensor
) -> None:
    whole, found = inverter.invert(photos, 0.5), inverter.invert_to_factors(photos, 0.5)
    assert found.factors.keys() == whole.factors.keys() == whole.residuals.keys() - found.residuals.keys()
    assert found.factors
    assert found.residuals
    for name, residual in whole.residuals.items():
        made = found.factors[name].materialise() if name in found.factors else found.residuals[name]
        assert_close(made, residual)
    assert_close(found.image, whole.image, atol=1e-5, rtol=0)


def test_factors_and_checkpointing_keep_less_for_the_backward_pass(
    generator: Generator, photos: Tensor
) -> None:
    def kept(factors: bool, again: bool) -> int:
        seen: dict[int, Tensor] = {}
        inverter.use_checkpointing(again)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: seen.setdefault(t.untyped_storage()._cdata, t), lambda t: t
        )
        with hooks:
            inverter.reconstruct(photos) if factors else inverter(photos)
        return sum(t.untyped_storage().nbytes() for t in seen.values())

    inverter = make_inverter(generator).train()
    kernels = 4 * len(photos) * sum(math.prod(s.shape) for s in inverter.hypernet.kernels)
    whole, factored = kept(False, False), kept(True, False)
    assert factored < whole - kernels / 2
    assert kept(True, True) < factored - kernels / 4


def test_frozen_parts_get_no_gradient_bookkeeping(inverter: HyperInverter, photos: Tensor) -> None:
    """Counted in the backward pass: no convolution asks for a gradient nobody wants."""
    asked: list[tuple[bool, ...]] = []
    recorded = {"first": 0, "second": 0}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.ops.aten.convolution_backward.default:
                asked.append(tuple(args[-1]))
            return func(*args, **(kwargs or {}))

    inverter.train()
    inverter.w_inverter.register_forward_hook(
        lambda *called: recorded.update(
            first=int(called[-1].w.requires_grad or called[-1].w_image.requires_grad)
        )
    )
    image = inverter.reconstruct(photos)
    with Watch():
        image.square().mean().backward()
    assert recorded["first"] == 0
    assert image.requires_grad
    # the photo's first convolution and the constant's need no input gradient, FIR filters no weight gradient
    filters = sum(1 for _, weight, *_ in asked if not weight)
    assert filters == len(inverter.generator.config.resolutions) - 1
    assert all(parameter.grad is None for parameter in inverter.generator.parameters())


def test_one_photo_prepared_draws_all_its_edits_in_one_batch(inverter: HyperInverter, photos: Tensor) -> None:
    inversion = inverter.invert(photos[:1], strength=1.0)
    codes = inversion.w + torch.randn(4, inversion.w.shape[1])
    draw = inverter.prepare(inversion.residuals, strength=0.5)
    one_by_one = [inverter.render(w[None], inversion.residuals, strength=0.5) for w in codes]
    assert_close(draw(codes), torch.cat(one_by_one), rtol=1e-4, atol=1e-4)
    synthesis = inverter.generator.synthesis.with_residuals(inversion.residuals)
    untouched = dict(inverter.generator.synthesis.named_parameters())
    for name, weight in synthesis.named_parameters():
        assert (weight is untouched[name]) is (name not in inversion.residuals), name
    several = inverter.invert(photos).residuals
    with pytest.raises(
        ValueError, match=r"one photo's residual for b4.conv1.weight must be \(1, 16, 16, 3, 3\)"
    ):
        inverter.prepare(several)
    with pytest.raises(ValueError, match="tensors the generator does not have: b32.conv0.weight"):
        inverter.prepare({"b32.conv0.weight": torch.zeros(1)})


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


@pytest.mark.slow
def test_overfits_one_photo(generator: Generator, photos: Tensor) -> None:
    inverter = make_inverter(generator).train()
    optimizer = torch.optim.Adam(inverter.trainable_parameters(), lr=1e-2)
    for _ in range(300):
        loss = (inverter(photos[:1]).image - photos[:1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # pure noise is the hardest photo there is: a grey picture leaves its whole power
    assert loss.item() < 0.2 * photos[:1].square().mean().item()


def test_a_compiler_can_follow_a_training_step(inverter: HyperInverter, photos: Tensor) -> None:
    compiled = torch.compile(inverter.reconstruct, backend="eager", fullgraph=True)
    gradients = []
    for draw in (compiled, inverter.reconstruct):
        image = draw(photos)
        inverter.zero_grad()
        image.square().mean().backward()
        gradients.append([parameter.grad for parameter in inverter.trainable_parameters()])
    assert_close(gradients[0], gradients[1])
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients[1])


def test_half_precision_is_close_and_returns_single_precision(inverter: HyperInverter) -> None:
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    exact = inverter.invert(photo)
    half = inverter.half_precision().invert(photo)
    for found, wanted in ((half.w, exact.w), (half.w_image, exact.w_image), (half.image, exact.image)):
        assert found.dtype == torch.float32
        error = (found - wanted).abs().mean()
        assert 0 < error < 0.03 * wanted.std()
    assert {residual.dtype for residual in half.residuals.values()} == {torch.float32}
    one = {name: residual[:1] for name, residual in exact.residuals.items()}
    with torch.no_grad():
        edited = inverter.prepare(one)(exact.w[:1])
    assert 0 < (edited - exact.image[:1]).abs().mean() < 0.03 * exact.image.std()
    assert torch.equal(inverter.half_precision(False).invert(photo).image, exact.image)


def test_half_precision_leaves_training_alone(inverter: HyperInverter) -> None:
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    images = [inverter.half_precision(half)(photo).image for half in (False, True)]
    assert images[1].requires_grad
    residuals = inverter(photo).residuals
    assert {residual.dtype for residual in residuals.values()} == {torch.float32}
    assert_close(*images, rtol=0.05, atol=0.05)
