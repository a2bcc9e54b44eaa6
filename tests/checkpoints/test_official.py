"""Other people's files give the numbers they always gave: against a slow version written from the papers."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import official
import pytest
import reference
import torch
from official import Shape
from torch import Tensor
from torch.testing import assert_close

from hyperinverter import assembly, config
from hyperinverter.checkpoints import (
    find_discriminator,
    load_critic,
    load_discriminator,
    load_generator,
    load_hyperinverter,
    load_w_encoder,
    load_w_inverter,
    save_generator,
    save_hyperinverter,
)
from hyperinverter.contracts import UserError
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.specification import describe
from hyperinverter.networks.generator import Generator

SMALL = Shape()
LARGER = Shape(resolution=64, z_dim=8, w_dim=24, layers=3, widths=(12, 12, 8, 8, 4), clamp=2.0)


def off(ours: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest number."""
    assert ours.shape == expected.shape
    return float((ours.detach().double() - expected).abs().max() / expected.abs().max())


# The files are what they claim to be ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "tensors", "discriminator"), [(32, 87, 37), (256, 144, 64), (1024, 182, 82)]
)
def test_the_files_hold_as_many_tensors_as_published(
    resolution: int, tensors: int, discriminator: int
) -> None:
    widths = tuple(2 for r in range(2, resolution.bit_length()))
    shape = Shape(resolution, layers=8, widths=widths)
    assert len(official.generator_state(shape)) == tensors
    assert len(official.discriminator_state(shape)) == discriminator


@pytest.mark.parametrize(("kind", "w_encoder", "features"), [("ir_se50", 387, 417), ("resnet34", 219, 249)])
def test_the_encoders_hold_as_many_tensors_as_published(kind: str, w_encoder: int, features: int) -> None:
    with torch.device("meta"):
        assert len(official.w_encoder_state(kind, 16)) == w_encoder
        assert len(official.feature_encoder_state(kind, num_styles=8)) == features


# Generators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SMALL, LARGER], ids=["32", "64"])
def test_generator_equals_the_reference(shape: Shape, tmp_path: Path) -> None:
    generator = load_generator(official.write_nvidia(tmp_path / "net.pkl", shape))
    state = reference.double(official.generator_state(shape))
    z = torch.randn(5, shape.z_dim)
    ws = generator.mapping(z)
    assert ws.shape == (5, shape.num_ws, shape.w_dim)
    expected = torch.stack([reference.mapping(state, shape, code.double()) for code in z])
    assert off(ws[:, 0], expected) < 1e-4
    images = torch.stack([reference.synthesis(state, shape, w) for w in expected])
    assert off(generator.synthesis(ws, noise_mode="const"), images) < 1e-4
    assert torch.equal(generator.w_avg, official.generator_state(shape)["mapping.w_avg"])
    assert len(generator.kernels()) == 2 * (3 * len(shape.blocks) - 1)


def random_shape(draw: random.Random) -> Shape:
    resolution = 2 ** draw.randint(4, 8)
    blocks = resolution.bit_length() - 2
    most, base = draw.randint(1, 24), draw.randint(64, 1024)
    widths = tuple(max(1, min(base // (4 << i), most)) for i in range(blocks))
    if draw.random() < 0.5:  # widths that follow no rule
        widths = tuple(draw.randint(1, 12) for _ in range(blocks))
    return Shape(resolution, draw.randint(1, 40), draw.randint(1, 40), draw.randint(1, 8), widths)


@pytest.mark.parametrize("seed", range(20))
def test_three_formats_of_the_same_weights_draw_the_same_image(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    shape = random_shape(draw)
    nvidia = load_generator(
        official.write_nvidia(tmp_path / "net.pkl", shape, protocol=draw.choice([3, 4, 5]))
    )
    zipped = draw.random() < 0.5
    rosinality = load_generator(official.write_rosinality(tmp_path / "net.pt", shape, zipped=zipped))
    save_generator(nvidia, tmp_path / "net.safetensors", {}, half=False)
    ours = load_generator(tmp_path / "net.safetensors")
    assert nvidia.config.same_network(ours.config)
    assert nvidia.config.same_network(rosinality.config)
    assert [nvidia.config.channels(r) for r in shape.blocks] == list(shape.widths)
    state = reference.double(official.generator_state(shape))
    w = torch.randn(1, shape.w_dim)
    expected = reference.synthesis(state, shape, w[0].double())[None]
    z = torch.randn(2, shape.z_dim)
    for generator in (nvidia, rosinality, ours):
        assert off(generator.synthesis(w), expected) < 1e-4
        assert torch.equal(generator.w_avg, nvidia.w_avg)
        assert_close(generator(z), nvidia(z))
        assert not any(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"synthesis_kwargs": {"conv_clamp": 0.7}}, {}),
        ({"conv_clamp": 0.7}, {}),  # the stylegan3 repository does not nest them
        (
            {},
            {
                f"synthesis.b{r}.{layer}": {"conv_clamp": 0.7}
                for r in (4, 8, 16, 32)
                for layer in ("conv1", "torgb")
            },
        ),
    ],
)
def test_clamps_are_found_wherever_they_are_said(options: Any, more: Any, tmp_path: Path) -> None:
    given = {**official.nvidia_options(SMALL), "synthesis_kwargs": {}} | options
    generator = load_generator(official.write_nvidia(tmp_path / "net.pkl", SMALL, options=given, more=more))
    assert generator.config.conv_clamp == 0.7
    w = torch.randn(16)
    state = reference.double(official.generator_state(SMALL))
    expected = reference.synthesis(state, replace(SMALL, clamp=0.7), w.double())
    assert off(generator.synthesis(w[None])[0], expected) < 1e-4


def test_mapping_speed_is_read(tmp_path: Path) -> None:
    options = official.nvidia_options(SMALL) | {"mapping_kwargs": {"num_layers": 2, "lr_multiplier": 1.0}}
    generator = load_generator(official.write_nvidia(tmp_path / "net.pkl", SMALL, options=options))
    assert generator.config.mapping_lr_multiplier == 1.0


def test_generator_without_noise_draws_none(tmp_path: Path) -> None:
    state = {n: t for n, t in official.generator_state(SMALL).items() if "noise" not in n}
    options = official.nvidia_options(SMALL) | {"synthesis_kwargs": {"use_noise": False}}
    generator = load_generator(
        official.write_nvidia(tmp_path / "net.pkl", SMALL, options=options, state=state)
    )
    silent = {n: t * 0 if "noise" in n else t for n, t in official.generator_state(SMALL).items()}
    w = torch.randn(16)
    expected = reference.synthesis(reference.double(silent), SMALL, w.double())
    for mode in ("const", "random"):
        assert off(generator.synthesis(w[None], noise_mode=mode)[0], expected) < 1e-4


def test_mean_of_w_is_measured_where_a_file_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = official.write_rosinality(tmp_path / "net.pt", SMALL, latent_avg=None)
    with caplog.at_level(logging.WARNING):
        generator = load_generator(path)
    assert "has no latent_avg" in caplog.text
    codes = generator.mapping(torch.randn(20_000, 12))[:, 0]
    assert_close(generator.w_avg, codes.mean(dim=0), rtol=0, atol=4 * float(codes.std()) / 100)
    assert torch.equal(generator.w_avg, load_generator(path).w_avg)


def test_training_arguments_in_a_file_are_passed_over(tmp_path: Path) -> None:
    import argparse

    path = official.write_rosinality(tmp_path / "net.pt", SMALL, args=argparse.Namespace(lr=0.1, path="x"))
    assert load_generator(path).img_resolution == 32


# Discriminators ----------------------------------------------------------------------------------------------------


def write_discriminator(kind: str, path: Path, shape: Shape) -> Path:
    if kind == "nvidia":
        return official.write_nvidia(path, shape)
    if kind == "rosinality":
        return official.write_rosinality(path, shape)
    state = {f"discriminator.{name}": tensor for name, tensor in official.discriminator_state(shape).items()}
    torch.save({"state_dict": state, "opts": {}}, path)
    return path


@pytest.mark.parametrize("shape", [SMALL, replace(LARGER, clamp=None)], ids=["32", "64"])
@pytest.mark.parametrize("kind", ["nvidia", "rosinality", "hyperinverter"])
def test_discriminator_equals_the_reference(kind: str, shape: Shape, tmp_path: Path) -> None:
    discriminator = load_discriminator(write_discriminator(kind, tmp_path / "file", shape))
    images = torch.rand(8, 3, shape.resolution, shape.resolution) * 2 - 1
    state = reference.double(official.discriminator_state(shape))
    assert (
        off(discriminator(images)[:, 0], reference.discriminator(state, shape, images.double(), group=4))
        < 1e-4
    )
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_the_name_of_version_0_1_loads_it_too(tmp_path: Path) -> None:
    path = write_discriminator("nvidia", tmp_path / "file", SMALL)
    old, new = load_critic(path).state_dict(), load_discriminator(path).state_dict()
    torch.testing.assert_close(old, new, rtol=0, atol=0)


def test_clamp_and_group_of_a_discriminator_are_read(tmp_path: Path) -> None:
    shape = replace(LARGER, clamp=0.4)
    more = {"b4.mbstd": {}, "b4": {}}
    path = official.write_nvidia(tmp_path / "net.pkl", shape, discriminator_more=more)
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    state = reference.double(official.discriminator_state(shape))
    assert (
        off(
            load_discriminator(path)(images)[:, 0],
            reference.discriminator(state, shape, images.double(), group=4),
        )
        < 1e-4
    )


# Both phases ------------------------------------------------------------------------------------------------


def write_all(folder: Path, shape: Shape, kind: str, **options: Any) -> dict[str, Path]:
    return {
        "generator": official.write_nvidia(folder / "generator.pkl", shape),
        "w_encoder": official.write_w_encoder(folder / "w_encoder.pt", kind, shape.w_dim),
        "hyper": official.write_hyper(folder / "hyper.pt", shape, kind, **options),
    }


def check_against_reference(
    folder: Path, shape: Shape, kind: str, photos: list[Tensor], batches: list[int], **options: Any
) -> HyperInverter:
    model = load_hyperinverter(**write_all(folder, shape, kind, **options))
    target = options.get("target", "conv_without_bias")
    layers = official.layer_shapes(shape, target)
    states = [
        reference.double(state)
        for state in (
            official.generator_state(shape),
            official.w_encoder_state(kind, shape.w_dim),
            official.feature_encoder_state(kind, shape.num_ws),
            official.hypernet_state(shape, options.get("hidden", 8), target),
        )
    ]
    generator, w_encoder, features, hypernet = states
    expected = [
        reference.invert(generator, shape, w_encoder, features, hypernet, kind, layers, photo.double())
        for photo in photos
    ]
    for count in batches:
        found = model.invert(torch.stack(photos[:count]))
        w, w_image, deltas, image = zip(*expected[:count], strict=True)
        assert off(found.w, torch.stack(w)) < 1e-4
        assert off(found.w_image, torch.stack(w_image)) < 1e-4
        assert list(found.residuals) == list(layers)
        for name in layers:
            assert off(found.residuals[name], torch.stack([delta[name] for delta in deltas])) < 1e-4
        assert off(found.image, torch.stack(image)) < 1e-4
        assert off(found.image, torch.stack(w_image)) > 1e-2  # phase II does something
    return model


@pytest.mark.parametrize(
    ("kind", "shape", "size"), [("resnet34", SMALL, (48, 40)), ("ir_se50", SMALL, (32, 32))]
)
def test_one_photo_equals_the_reference(
    kind: str, shape: Shape, size: tuple[int, int], tmp_path: Path
) -> None:
    photo = torch.rand(3, *size) * 2 - 1
    model = check_against_reference(tmp_path, shape, kind, [photo], [1])
    image = model(photo[None]).image
    image.mean().backward()
    learning = dict(model.hypernet.named_parameters()) | dict(model.feature_encoder.named_parameters())
    assert all(parameter.grad is not None for parameter in learning.values())
    assert not any(parameter.requires_grad for parameter in model.w_inverter.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["conv_without_bias", "conv_without_bias_without_torgb", "all_without_bias"]
)
@pytest.mark.parametrize("shape", [SMALL, LARGER], ids=["32", "64"])
@pytest.mark.parametrize("kind", ["ir_se50", "resnet34"])
def test_every_combination_equals_the_reference(kind: str, shape: Shape, target: str, tmp_path: Path) -> None:
    sizes = {"conv_without_bias": (300, 200), "all_without_bias": (64, 64)}
    photos = [torch.rand(3, *sizes.get(target, (20, 30))) * 2 - 1 for _ in range(5)]
    batches = [1, 5] if target == "conv_without_bias" else [1]
    model = check_against_reference(
        tmp_path, shape, kind, photos[: batches[-1]], batches, hidden=4, target=target
    )
    if target == "all_without_bias":
        save_hyperinverter(model, tmp_path / "whole.safetensors")
        again = load_hyperinverter(tmp_path / "whole.safetensors")
        assert torch.equal(
            again.invert(torch.stack(photos[:1])).image, model.invert(torch.stack(photos[:1])).image
        )


@pytest.fixture(scope="module")
def parts(module_folder: Path) -> dict[str, Path]:
    """The four files of one model, ResNet-34 at 32 px."""
    return write_all(module_folder, SMALL, "resnet34", half=True)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.rand(1, 3, 50, 60, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_copy_of_the_w_encoder_in_the_file_is_used_by_default(
    parts: dict[str, Path], photo: Tensor
) -> None:
    given = load_hyperinverter(**parts)
    copied = load_hyperinverter(parts["hyper"], parts["generator"])
    assert torch.equal(given.invert(photo).image, copied.invert(photo).image)
    inverter = load_w_inverter(parts["w_encoder"], load_generator(parts["generator"]))
    assert torch.equal(inverter.invert(photo).image, given.invert(photo).w_image)
    assert torch.equal(load_w_encoder(parts["hyper"])(photo), load_w_encoder(parts["w_encoder"])(photo))


def test_another_w_encoder_than_the_copy_is_used_and_said(
    parts: dict[str, Path], photo: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first = load_hyperinverter(**parts).invert(photo)
    assert not caplog.records
    state = {f"encoder.{n}": t for n, t in official.w_encoder_state("resnet34", 16).items()}
    state["encoder.linear.bias"] = state["encoder.linear.bias"] + 1
    other = official.write_w_encoder(tmp_path / "other.pt", "resnet34", 16, state_dict=state)
    with caplog.at_level(logging.WARNING):
        second = load_hyperinverter(**parts | {"w_encoder": other}).invert(photo)
    assert "was trained on another W encoder" in caplog.text
    assert_close(second.w, first.w + 1)


def test_self_contained_file_gives_everything_back(
    parts: dict[str, Path], photo: Tensor, tmp_path: Path
) -> None:
    model = load_hyperinverter(**parts)
    path = tmp_path / "folder" / "whole.safetensors"
    save_hyperinverter(model, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    again = load_hyperinverter(path)
    assert describe(again) == describe(model)
    for one, other in ((again, model), (again.generator, model.generator)):
        assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=0, atol=0)
    expected, found = model.invert(photo), again.invert(photo)
    assert torch.equal(found.image, expected.image)
    assert torch.equal(found.w, expected.w)
    assert not again.training
    assert again.generator.sha256 == model.generator.sha256
    assert torch.equal(load_generator(path).synthesis(found.w), expected.w_image)
    assert torch.equal(load_w_encoder(path)(photo), load_w_encoder(parts["w_encoder"])(photo))
    assert torch.equal(load_hyperinverter(path, parts["generator"]).invert(photo).image, expected.image)
    with pytest.raises(UserError, match="another generator .*leave generator out"):
        load_hyperinverter(path, "digiface")
    other = load_w_encoder(parts["w_encoder"])
    other.linear.bias += 1
    with pytest.raises(UserError, match="another W encoder .*leave w_encoder out"):
        load_hyperinverter(path, w_encoder=other)


# Parts that do not belong together ---------------------------------------------------------------------------


def test_model_and_generator_of_different_resolution(parts: dict[str, Path], tmp_path: Path) -> None:
    for shape in (
        replace(SMALL, resolution=16, widths=(8, 8, 8)),
        replace(SMALL, resolution=64, widths=(8, 8, 8, 4, 4)),
    ):
        generator = official.write_nvidia(tmp_path / "other.pkl", shape)
        told = rf"hyper.pt was trained for 8 style layers \(32 px\), the generator has .*\({shape.resolution} px\); give the generator"
        with pytest.raises(UserError, match=told):
            load_hyperinverter(**parts | {"generator": generator})


def test_model_and_generator_of_different_widths(parts: dict[str, Path], tmp_path: Path) -> None:
    generator = official.write_nvidia(tmp_path / "other.pkl", replace(SMALL, widths=(8, 8, 4, 4)))
    with pytest.raises(
        UserError, match=r"predicts b16.conv0.weight in another shape than the generator's \(4, 8, 3, 3\)"
    ):
        load_hyperinverter(**parts | {"generator": generator})


def test_encoder_and_generator_of_different_w(parts: dict[str, Path], tmp_path: Path) -> None:
    generator = official.write_nvidia(tmp_path / "other.pkl", replace(SMALL, w_dim=20))
    with pytest.raises(UserError, match="gives codes of 16 numbers, the generator .* takes 20"):
        load_hyperinverter(**parts | {"generator": generator})


def test_layers_the_generator_does_not_have(parts: dict[str, Path], tmp_path: Path) -> None:
    content = torch.load(parts["hyper"], weights_only=True)
    state = {n: t if n.startswith("hypernet.") else torch.zeros(1) for n, t in content["state_dict"].items()}
    content["state_dict"] = state | {"hypernet.weight_regressors.b99_conv0_weight.w1": torch.zeros(1)}
    torch.save(content, tmp_path / "hyper.pt")
    with pytest.raises(
        UserError, match="predicts b99_conv0_weight, which the generator of 32 px does not have"
    ):
        load_hyperinverter(**parts | {"hyper": tmp_path / "hyper.pt"})


def test_what_a_model_needs_is_said(parts: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="holds no generator; add generator=PATH"):
        load_hyperinverter(hyper=parts["hyper"])
    with pytest.raises(UserError, match="name one model"):
        load_hyperinverter()
    with pytest.raises(UserError, match="name one model"):
        load_hyperinverter("digiface", hyper=parts["hyper"])
    with pytest.raises(UserError, match="is a torch file without a generator"):
        load_generator(parts["w_encoder"])
    with pytest.raises(UserError, match="holds no W encoder"):
        load_w_encoder(official.write_rosinality(parts["hyper"].with_name("net.pt"), SMALL, state_dict={}))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s.pop("encoder.body.3.bn1.weight"), r"1 missing \(first: backbone.body.3.bn1.weight\)"),
        (lambda s: s.update({"encoder.more": torch.zeros(1)}), r"1 unexpected \(first: backbone.more\)"),
        (lambda s: s.update({"encoder.conv1.weight": torch.zeros(1, 2)}), r"1 of another shape"),
        (lambda s: s.pop("encoder.linear.weight"), "no linear.weight"),
        (lambda s: s.pop("encoder.conv1.weight"), "neither IR-SE-50 nor ResNet-34"),
        (lambda s: s.update({"encoder.styles.0.weight": torch.zeros(1)}), r"is an encoder for W\+"),
        (lambda s: s.update({"encoder.conv1.weight": 3}), "holds no tensor called conv1.weight"),
    ],
)
def test_w_encoder_that_is_not_whole(
    change: Callable[[dict[str, Tensor]], Any], problem: str, parts: dict[str, Path], tmp_path: Path
) -> None:
    content = torch.load(parts["w_encoder"], weights_only=True)
    change(content["state_dict"])
    torch.save(content, tmp_path / "broken.pt")
    with pytest.raises(UserError, match=problem) as told:
        load_w_encoder(tmp_path / "broken.pt")
    assert "\n" not in str(told.value)
    assert ";" in str(told.value)


# Variants that draw other images -----------------------------------------------------------------------------


def variant(path: Path, *, state: Any = None, more: Any = None, **options: Any) -> Path:
    held = official.generator_state(SMALL)
    for name, tensor in (state or {}).items():
        held.pop(name, None)
        if tensor is not None:
            held[name] = tensor
    return official.write_nvidia(
        path, SMALL, options=official.nvidia_options(SMALL) | options, state=held, more=more
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"c_dim": 10}, r"is a conditional network .*10 numbers.*without --cond"),
        ({"state": {"mapping.embed.weight": torch.zeros(16, 3)}}, "is a conditional network"),
        ({"state": {"synthesis.input.weight": torch.zeros(3)}}, "StyleGAN3 network.*--cfg=stylegan2"),
        ({"state": {"synthesis.L0_36_512.weight": torch.zeros(3)}}, "StyleGAN3 network"),
        ({"synthesis_kwargs": {"architecture": "resnet"}}, "without skip connections"),
        ({"more": {"synthesis.b8": {"architecture": "orig"}}}, "without skip connections"),
        ({"synthesis_kwargs": {"activation": "relu"}}, "another activation than lrelu"),
        ({"more": {"synthesis.b8.conv0": {"activation": "swish"}}}, "the activation swish"),
        (
            {"state": {"synthesis.b8.conv0.resample_filter": torch.ones(4, 4) / 16}},
            "resamples with another filter",
        ),
        ({"state": {"synthesis.b8.resample_filter": torch.ones(2)}}, "resamples with another filter"),
        ({"state": {"mapping.fc0.weight": torch.zeros(20, 12)}}, "mapping network wider than w"),
        ({"state": {"synthesis.b32.torgb.weight": torch.zeros(1, 4, 1, 1)}}, "images of 1 channels"),
        ({"state": {"mapping.w_avg": None}}, "mapping.w_avg is missing"),
        ({"state": {"synthesis.b8.conv1.weight": None}}, "no StyleGAN2 network of a usual resolution"),
        ({"state": {"synthesis.b8.conv0.bias": None}}, r"1 missing \(first: synthesis.b8.conv0.bias\)"),
        ({"state": {"synthesis.b8.conv0.bias": torch.zeros(9)}}, "1 of another shape"),
        ({"state": {"synthesis.b8.conv2.bias": torch.zeros(9)}}, "1 unexpected"),
        ({"synthesis_kwargs": {"conv_clamp": "much"}}, "its conv_clamp is no positive number"),
        (
            {"more": {"synthesis.b8.conv0": {"conv_clamp": 1.0}, "synthesis.b8.conv1": {"conv_clamp": 2.0}}},
            "layers of G_ema that differ in conv_clamp",
        ),
    ],
)
def test_other_generators_are_named_and_refused(change: Any, problem: str, tmp_path: Path) -> None:
    path = variant(tmp_path / "net.pkl", **change)
    with pytest.raises(UserError, match=problem) as told:
        load_generator(path)
    assert "\n" not in str(told.value)
    assert ";" in str(told.value)
    assert str(path) in str(told.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda g: g.pop("noises.noise_3"), "tensors 1 missing .*noises.noise_3"),
        (lambda g: g.update(extra=torch.zeros(1)), "tensors 1 unexpected .*extra"),
        (lambda g: g.update({"convs.0.conv.blur.kernel": torch.ones(4, 4)}), "another filter"),
        (lambda g: g.update({"convs.0.conv.weight": torch.zeros(2, 8, 8, 3, 3)}), "1 of another shape"),
        (lambda g: g.pop("style.1.bias"), "style.1.bias is missing"),
        (lambda g: g.update({"convs.0.conv.weight": torch.zeros(1, 8, 0, 3, 3)}), "1 of another shape"),
        (
            lambda g: (
                g.update({f"style.{i}.weight": torch.zeros(16, 16) for i in range(3, 80)})
                or g.update({f"style.{i}.bias": torch.zeros(16) for i in range(3, 80)})
            ),
            "is not a possible network .*79 mapping layers",
        ),
    ],
)
def test_rosinality_file_that_is_not_whole(
    change: Callable[[Any], Any], problem: str, tmp_path: Path
) -> None:
    state = official.rosinality_state(SMALL)
    change(state)
    path = official.write_rosinality(tmp_path / "net.pt", SMALL, g_ema=state)
    with pytest.raises(UserError, match=problem) as told:
        load_generator(path)
    assert "\n" not in str(told.value)


def test_discriminators_of_other_shape_are_refused(tmp_path: Path) -> None:
    for more, problem in (
        ({"b8": {"architecture": "skip"}}, "D without residual blocks"),
        ({"b4": {}, "b16.conv0": {"activation": "swish"}}, "the activation swish"),
        ({"": {"_init_kwargs": {"c_dim": 3}}}, "conditional"),
        ({"": {"_init_kwargs": {"epilogue_kwargs": {"mbstd_num_channels": 2}}}}, "2 minibatch channels"),
    ):
        path = official.write_nvidia(tmp_path / "net.pkl", SMALL, discriminator_more=more)
        with pytest.raises(UserError, match=problem):
            load_discriminator(path)
    with pytest.raises(UserError, match="there is no file"):
        load_discriminator(tmp_path / "absent.pkl")
    save_generator(Generator(img_resolution=8, channel_max=2), tmp_path / "own.safetensors", {})
    with pytest.raises(UserError, match="holds no discriminator; give NVIDIA's network pickle"):
        load_discriminator(tmp_path / "own.safetensors")


# In training -------------------------------------------------------------------------------------------------


def test_training_starts_from_other_peoples_files(tmp_path: Path) -> None:
    shape = replace(LARGER, clamp=None)
    paths = {
        "generator.path": official.write_nvidia(tmp_path / "net.pkl", shape),
        "phase.from_run": official.write_w_encoder(tmp_path / "w_encoder.pt", "resnet34", shape.w_dim),
    }
    cfg = config.compose(["phase=2", "logger=csv", *(f"{key}={path}" for key, path in paths.items())])
    generator = load_generator(cfg.generator.path)
    first, source = assembly.finished_phase1(cfg, generator)
    assert source["path"] == str(paths["phase.from_run"])
    state = official.w_encoder_state("resnet34", shape.w_dim)
    assert torch.equal(first.encoder.linear.weight, state["linear.weight"])
    discriminator = assembly.starting_discriminator(cfg, generator)
    assert torch.equal(discriminator.b4.out.weight, official.discriminator_state(shape)["b4.out.weight"])


def test_files_without_a_discriminator_start_a_new_one(tmp_path: Path) -> None:
    assert find_discriminator("digiface") is None
    assert find_discriminator(official.write_rosinality(tmp_path / "net.pt", SMALL, d=None)) is None
    save_generator(Generator(img_resolution=8, channel_max=2), tmp_path / "own.safetensors", {})
    assert find_discriminator(tmp_path / "own.safetensors") is None
