"""StyleGAN2's generator: sizes, styles, noise, residuals, and the pictures it has to draw again."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_generator
from torch import Tensor, nn
from torch.testing import assert_close

from hyperinverter.checkpoints import load_generator
from hyperinverter.networks.generator import Generator, GeneratorConfig, MappingNetwork
from hyperinverter.ops.factored import FactoredResidual
from hyperinverter.ops.policy import policy

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

# Parameters, and tensors in the state dict of the published files (which hold three constant filters per block).
PUBLISHED = {
    32: (21_523_475, 87),
    64: (27_032_600, 106),
    128: (29_328_669, 125),
    256: (30_034_338, 144),
    512: (30_276_583, 163),
    1024: (30_370_060, 182),
}

# Layers of the published 1024 px model: (out, in, side), which code modulates, which feature map predicts.
LAYERS = {
    "b4.conv1": ((512, 512, 3), 0, 0),
    "b4.torgb": ((3, 512, 1), 1, 1),
    "b8.conv0": ((512, 512, 3), 1, 2),
    "b8.conv1": ((512, 512, 3), 2, 3),
    "b8.torgb": ((3, 512, 1), 3, 3),
    "b16.conv0": ((512, 512, 3), 3, 4),
    "b16.conv1": ((512, 512, 3), 4, 5),
    "b16.torgb": ((3, 512, 1), 5, 5),
    "b32.conv0": ((512, 512, 3), 5, 6),
    "b32.conv1": ((512, 512, 3), 6, 7),
    "b32.torgb": ((3, 512, 1), 7, 7),
    "b64.conv0": ((512, 512, 3), 7, 8),
    "b64.conv1": ((512, 512, 3), 8, 9),
    "b64.torgb": ((3, 512, 1), 9, 9),
    "b128.conv0": ((256, 512, 3), 9, 10),
    "b128.conv1": ((256, 256, 3), 10, 11),
    "b128.torgb": ((3, 256, 1), 11, 11),
    "b256.conv0": ((128, 256, 3), 11, 12),
    "b256.conv1": ((128, 128, 3), 12, 13),
    "b256.torgb": ((3, 128, 1), 13, 13),
    "b512.conv0": ((64, 128, 3), 13, 14),
    "b512.conv1": ((64, 64, 3), 14, 15),
    "b512.torgb": ((3, 64, 1), 15, 15),
    "b1024.conv0": ((32, 64, 3), 15, 16),
    "b1024.conv1": ((32, 32, 3), 16, 17),
    "b1024.torgb": ((3, 32, 1), 17, 17),
}


def on_paper(resolution: int) -> Generator:
    """A published architecture without its weights."""
    with torch.device("meta"):
        return Generator(img_resolution=resolution)


@pytest.mark.parametrize("resolution", PUBLISHED)
def test_as_many_parameters_as_the_published_files(resolution: int) -> None:
    generator = on_paper(resolution)
    parameters, tensors = PUBLISHED[resolution]
    assert sum(p.numel() for p in generator.parameters()) == parameters
    later_blocks = len(GeneratorConfig(img_resolution=resolution).resolutions) - 1
    assert len(generator.state_dict()) == tensors - 3 * later_blocks - 2


@pytest.mark.parametrize("resolution", PUBLISHED)
def test_kernels_follow_the_published_layer_table(resolution: int) -> None:
    table = {name: row for name, row in LAYERS.items() if int(name.split(".")[0][1:]) <= resolution}
    kernels = on_paper(resolution).kernels()
    weights, affines = kernels[: len(table)], kernels[len(table) :]
    assert [spec.name for spec in weights] == [f"{name}.weight" for name in table]
    assert [spec.shape for spec in weights] == [(o, i, k, k) for (o, i, k), _, _ in table.values()]
    assert [spec.style_index for spec in weights] == [feature for _, _, feature in table.values()]
    assert [spec.name for spec in affines] == [f"{name}.affine.weight" for name in table]
    assert [spec.shape for spec in affines] == [(i, 512) for (_, i, _), _, _ in table.values()]
    assert [spec.style_index for spec in affines] == [feature for _, _, feature in table.values()]


def test_every_layer_is_modulated_by_its_own_code(generator: Generator) -> None:
    codes = torch.arange(generator.num_ws).float()[None, :, None].expand(1, -1, generator.w_dim)
    heard: dict[str, int] = {}
    for name, module in generator.synthesis.named_modules():
        if name.endswith(".affine"):
            layer = name.removesuffix(".affine")
            module.register_forward_pre_hook(
                lambda _, given, layer=layer: heard.update({layer: int(given[0][0, 0])})
            )
    generator.synthesis(codes)
    assert heard == {name: LAYERS[name][1] for name in heard}
    assert len(heard) == 8


def test_every_named_kernel_is_a_parameter(generator: Generator) -> None:
    for spec in generator.kernels():
        assert tuple(generator.synthesis.get_parameter(spec.name).shape) == spec.shape


def residuals_for(generator: Generator, batch: int, size: float = 0.5) -> dict[str, Tensor]:
    return {spec.name: size * torch.randn(batch, *spec.shape) for spec in generator.kernels()}


def test_zero_residuals_change_nothing(generator: Generator) -> None:
    w = torch.randn(2, 16)
    zeros = residuals_for(generator, 2, size=0.0)
    assert_close(generator.synthesis(w, zeros), generator.synthesis(w), rtol=0, atol=1e-5)


def test_batch_of_residuals_equals_one_by_one(generator: Generator) -> None:
    w, residuals = torch.randn(3, 16), residuals_for(generator, 3)
    together = generator.synthesis(w, residuals)
    alone = [
        generator.synthesis(w[i : i + 1], {name: delta[i : i + 1] for name, delta in residuals.items()})
        for i in range(3)
    ]
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["conv0.weight", "conv1.weight", "torgb.weight", "affine.weight", ""])
def test_residuals_act_like_other_weights(generator: Generator, kind: str) -> None:
    w = torch.randn(1, 16)
    residuals = {name: delta for name, delta in residuals_for(generator, 1).items() if name.endswith(kind)}
    drawn = generator.synthesis(w, residuals)
    changed = make_generator()
    state = generator.state_dict()
    for name, delta in residuals.items():
        state[f"synthesis.{name}"] = state[f"synthesis.{name}"] + delta[0]
    changed.load_state_dict(state)
    assert_close(drawn, changed.synthesis(w), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drawn, generator.synthesis(w), atol=1e-3)


def test_every_residual_reaches_the_image_and_gets_a_gradient(generator: Generator) -> None:
    residuals = {
        name: delta.requires_grad_() for name, delta in residuals_for(generator, 2, size=0.0).items()
    }
    generator.synthesis(torch.randn(2, 16), residuals).square().mean().backward()
    for name, delta in residuals.items():
        assert delta.grad is not None, name
        assert all(delta.grad[i].any() for i in range(2)), name


@pytest.mark.parametrize("way", ["cheapest", "mixing", "kernels"])
def test_factored_residuals_draw_the_same_image(generator: Generator, way: str) -> None:
    w = torch.randn(3, 16)
    factored = {
        spec.name: FactoredResidual(
            *(0.3 * torch.randn(size) for size in ((3, spec.shape[1], 4), (4, columns), (columns,))),
            spec.shape,
        )
        for spec in generator.kernels()
        if ".affine." not in spec.name
        for columns in [math.prod(spec.shape) // spec.shape[1]]
    }
    whole = {name: residual.materialise() for name, residual in factored.items()}
    with policy(factored=way):
        image = generator.synthesis(w, factored)
    assert_close(image, generator.synthesis(w, whole), rtol=1e-4, atol=1e-4)
    wrong = dataclasses.replace(factored["b4.conv1.weight"], u=torch.zeros(2, 16, 4))
    with pytest.raises(ValueError, match=r"b4.conv1.weight must be \(3, 16, 16, 3, 3\), got \(2, 16"):
        generator.synthesis(w, factored | {"b4.conv1.weight": wrong})


def test_large_images_are_drawn_in_parts(generator: Generator) -> None:
    synthesis, w = generator.synthesis, torch.randn(5, generator.w_dim)
    residuals: dict[str, Tensor | FactoredResidual] = {
        spec.name: 0.1 * torch.randn(5, *spec.shape) for spec in generator.kernels()[:3]
    }
    name = "b8.conv1.weight"
    shape = tuple(synthesis.get_parameter(name).shape)
    residuals[name] = FactoredResidual(
        torch.randn(5, shape[1], 2), 0.1 * torch.randn(2, shape[0] * 9), torch.zeros(shape[0] * 9), shape
    )
    sizes: list[int] = []
    synthesis.b4.conv1.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    with torch.no_grad():
        at_once = synthesis(w, residuals)
    with policy(largest_map=2 * synthesis.largest_map + 1):
        with torch.no_grad():
            assert_close(synthesis(w, residuals), at_once)
            with pytest.raises(ValueError, match="residual for"):  # the sixth is not cut off
                synthesis(w, {name: torch.zeros(6, *shape)})
        assert sizes == [5, 2, 2, 1]
        sizes.clear()
        synthesis(w, residuals)  # gradients may be asked for: all at once
        assert sizes == [5]


def test_a_compiler_can_follow(generator: Generator) -> None:
    w = torch.randn(2, generator.w_dim)
    compiled = torch.compile(generator.synthesis, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(w), generator.synthesis(w))
        exported = torch.export.export(generator.synthesis, (w,)).module()
        assert_close(exported(w), generator.synthesis(w))


def test_unknown_or_misshapen_residuals_are_refused(generator: Generator) -> None:
    w = torch.randn(2, 16)
    with pytest.raises(ValueError, match=r"does not have: b16.conv9.weight, b32.conv0.weight"):
        generator.synthesis(w, {"b32.conv0.weight": torch.zeros(1), "b16.conv9.weight": torch.zeros(1)})
    shape = generator.kernels()[0].shape
    for wrong in (shape, (1, *shape), (3, *shape), (2, 1, 1, 1, 1), (2, *shape[:2])):
        with pytest.raises(ValueError, match=r"residual for b4.conv1.weight must be \(2, 16, 16, 3, 3\)"):
            generator.synthesis(w, {"b4.conv1.weight": torch.zeros(wrong)})


def test_noise_modes(generator: Generator) -> None:
    w = torch.randn(1, 16)
    const, none = generator.synthesis(w, noise_mode="const"), generator.synthesis(w, noise_mode="none")
    assert torch.equal(const, generator.synthesis(w))
    assert not torch.allclose(const, none, atol=1e-3)
    torch.manual_seed(1)
    first, second = (generator.synthesis(w, noise_mode="random") for _ in range(2))
    torch.manual_seed(1)
    again = generator.synthesis(w, noise_mode="random")
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, atol=1e-3)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.zero_()
    assert_close(generator.synthesis(w, noise_mode="const"), none)
    with pytest.raises(ValueError, match="noise_mode must be const, random or none, got 'off'"):
        generator.synthesis(w, noise_mode="off")


def test_random_noise_differs_between_the_samples_of_a_batch(generator: Generator) -> None:
    image = generator.synthesis(torch.randn(1, 16).expand(2, -1), noise_mode="random")
    assert not torch.allclose(image[0], image[1], atol=1e-3)


def test_one_code_for_all_layers_or_one_each(generator: Generator) -> None:
    w = torch.randn(2, 16)
    assert_close(generator.synthesis(w), generator.synthesis(w[:, None].repeat(1, generator.num_ws, 1)))
    with pytest.raises(ValueError, match="expected 6 codes per sample, got 5"):
        generator.synthesis(torch.randn(2, 5, 16))


@pytest.mark.parametrize("shape", [(16,), (2, 7), (2, 6, 7), (1, 2, 6, 16)])
def test_codes_and_z_of_another_shape(generator: Generator, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected codes \(B, 16\) or \(B, L, 16\), got"):
        generator.synthesis(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"expected z \(B, \d+\), got"):
        generator.mapping(torch.zeros(shape[:1] if len(shape) == 1 else (*shape[:-1], 99)))


def test_mapping(generator: Generator) -> None:
    z = torch.randn(3, 12)
    ws = generator.mapping(z)
    assert ws.shape == (3, 6, 16)
    assert torch.equal(ws[:, 0], ws[:, 5])
    assert_close(generator.mapping(5 * z), ws, rtol=1e-4, atol=1e-5)  # only the direction of z counts
    assert_close(generator.mapping(z, truncation_psi=0), generator.w_avg.expand(3, 6, -1))
    half = generator.w_avg + 0.5 * (ws - generator.w_avg)
    assert_close(generator.mapping(z, truncation_psi=0.5), half, rtol=1e-4, atol=1e-5)


def test_mapping_equals_its_formula() -> None:
    mapping = MappingNetwork(GeneratorConfig(z_dim=5, w_dim=7, img_resolution=8, mapping_layers=2))
    z = torch.randn(3, 5, dtype=torch.double)
    x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i, width in enumerate((5, 7)):
        layer = mapping.get_submodule(f"fc{i}")
        with torch.no_grad():
            layer.bias.normal_()
        x = x @ layer.weight.double().T * (0.01 / width**0.5) + layer.bias.double() * 0.01
        x = torch.where(x < 0, 0.2 * x, x) * 2**0.5
    assert_close(mapping(z.float())[:, 0], x.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resolution", [4, 48, 0])
def test_resolutions_are_powers_of_two(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"power of two of at least 8, got {resolution}"):
        Generator(img_resolution=resolution)


def test_half_precision_draws_nearly_the_same(generator: Generator) -> None:
    w, residuals = torch.randn(2, 16), residuals_for(generator, 2, size=0.1)
    exact = generator.synthesis(w, residuals)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = generator.synthesis(w, residuals)
    assert image.dtype == torch.float32
    assert (image - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_clamp_keeps_features_small() -> None:
    clamped = make_generator(conv_clamp=1)
    biggest: list[float] = []

    def watch(_: nn.Module, __: object, out: Tensor) -> None:
        biggest.append(out.abs().max().item())

    for name, module in clamped.synthesis.named_modules():
        if name.endswith(("conv0", "conv1", "torgb")):
            module.register_forward_hook(watch)
    clamped.synthesis(5 * torch.randn(2, 16))
    assert len(biggest) == 8
    assert max(biggest) == 1


@pytest.fixture(scope="module")
def v0(v0_file: Path) -> Generator:
    return load_generator(v0_file)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "digiface_golden.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def test_draws_the_golden_images(v0: Generator, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        ws = v0.mapping(golden["z"])
        assert_close(ws[:, 0], golden["w"], rtol=0, atol=1e-4)
        assert_close(v0.synthesis(ws, noise_mode="const"), golden["image_const"], rtol=0, atol=1e-4)
        assert_close(v0.synthesis(ws, noise_mode="none"), golden["image_none"], rtol=0, atol=1e-4)
        tamer = v0.mapping(golden["z"], truncation_psi=0.7)
        assert_close(tamer[:, 0], golden["w_psi07"], rtol=0, atol=1e-4)
        assert_close(v0(golden["z"], 0.7), golden["image_psi07"], rtol=0, atol=1e-4)
    assert not torch.allclose(golden["image_const"], golden["image_none"], atol=1e-2)


@pytest.mark.parametrize("own", [False, True])
def test_colours_in_parts_are_the_colours(generator: Generator, own: bool) -> None:
    layer = generator.synthesis.get_submodule("b16.torgb")
    x = torch.randn(2, layer.weight.shape[1], 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    delta = torch.randn(2, *layer.weight.shape) if own else None
    w = torch.randn(2, generator.w_dim, requires_grad=True)
    results = []
    for pixels in (None, 64, 100):  # which does not divide 256: one part
        with policy(colour_pixels=pixels):
            image = layer(x, w, delta, None)
        weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        results.append((image, *torch.autograd.grad((image * weights).sum(), (x, w, layer.weight))))
    assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
    assert_close(results[2], results[0], rtol=1e-4, atol=1e-4)
