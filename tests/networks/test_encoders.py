from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from hyperinverter.networks.backbones import IRSE50, Backbone, ResNet34, TinyBackbone
from hyperinverter.networks.encoders import FeatureEncoder, Heads, Initial, WEncoder, resize


def small_backbone() -> TinyBackbone:
    return TinyBackbone(widths=(8, 16, 24), units=(1, 1, 1))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("make", "resolution", "tensors", "millions"),
    [
        (IRSE50, 32, 417, 64.2),
        (IRSE50, 256, 453, 106.7),
        (IRSE50, 1024, 477, 135.0),
        (ResNet34, 32, 249, 54.5),
        (ResNet34, 256, 285, 97.0),
        (ResNet34, 1024, 309, 125.3),
    ],
)
def test_feature_encoder_has_the_published_size(
    make: type[Backbone], resolution: int, tensors: int, millions: float
) -> None:
    with torch.device("meta"):
        encoder = FeatureEncoder(make(), num_styles=2 * int(math.log2(resolution)) - 2)
    assert len(encoder.state_dict()) == tensors
    assert round(count(encoder) / 1e6, 1) == millions


@pytest.mark.parametrize(("make", "tensors", "millions"), [(IRSE50, 387, 31.2), (ResNet34, 219, 21.5)])
def test_w_encoder_has_the_published_size(make: type[Backbone], tensors: int, millions: float) -> None:
    with torch.device("meta"):
        encoder = WEncoder(make(), w_dim=512)
    assert len(encoder.state_dict()) == tensors
    assert round(count(encoder) / 1e6, 1) == millions


def test_feature_encoder_has_the_published_tensor_names() -> None:
    with torch.device("meta"):
        encoder = FeatureEncoder(IRSE50(), num_styles=18)
        features = encoder(torch.empty(2, 3, 1024, 1024))
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    assert shapes["latlayer1.weight"] == (512, 256, 1, 1)
    assert shapes["latlayer2.weight"] == (512, 128, 1, 1)
    assert not any(name.startswith("toplayer") for name in shapes)
    for index in range(18):
        convs = 1 if index < 3 else 2 if index < 7 else 3
        names = {name for name in shapes if name.startswith(f"styles.{index}.")}
        numbers = range(0, 2 * convs, 2)
        assert names == {f"styles.{index}.convs.{i}.{kind}" for i in numbers for kind in ("weight", "bias")}
    assert shapes["styles.7.convs.4.weight"] == (512, 512, 3, 3)
    assert features.shape == (2, 18, 512, 8, 8)


@pytest.mark.parametrize("num_styles", [2, 4, 6, 8, 10])
def test_every_parameter_learns_at_any_number_of_styles(num_styles: int) -> None:
    encoder = FeatureEncoder(small_backbone(), num_styles, channels=16)
    features = encoder(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, num_styles, 16, 8, 8)
    features.square().mean().backward()
    learnt = {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learnt == {name for name, _ in encoder.named_parameters()}


def test_style_layers_read_the_pyramid_as_published() -> None:
    encoder = FeatureEncoder(small_backbone(), num_styles=9, channels=24).eval()
    x = torch.randn(1, 3, 64, 64)
    c1, c2, c3 = encoder.backbone(x)
    assert encoder.latlayer1 is not None
    assert encoder.latlayer2 is not None
    p2 = F.interpolate(c3, size=16, mode="bilinear", align_corners=True) + encoder.latlayer1(c2)
    p1 = F.interpolate(p2, size=32, mode="bilinear", align_corners=True) + encoder.latlayer2(c1)
    features = encoder(x)
    for index, level, convs, stride in ((2, c3, 1, 1), (3, p2, 1, 2), (6, p2, 1, 2), (7, p1, 2, 2)):
        expected = level
        for i in range(convs):
            name = f"styles.{index}.convs.{2 * i}"
            weight, bias = encoder.get_parameter(f"{name}.weight"), encoder.get_parameter(f"{name}.bias")
            expected = F.leaky_relu(F.conv2d(expected, weight, bias, stride=stride, padding=1), 0.01)
        assert_close(features[:, index], expected)


def test_unused_styles_cost_nothing_and_are_zero() -> None:
    encoder = FeatureEncoder(small_backbone(), num_styles=10, channels=16, used=[2, 5])
    assert {name.split(".")[1] for name in encoder.state_dict() if name.startswith("styles.")} == {"2", "5"}
    assert encoder.latlayer2 is None
    features = encoder(torch.randn(1, 3, 64, 64))
    silent = [index for index in range(10) if not features[:, index].any()]
    assert silent == [0, 1, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("used", [[], [10], [-1]])
def test_impossible_style_layers_are_refused(used: list[int]) -> None:
    with pytest.raises(ValueError, match="style layers 0 to 9"):
        FeatureEncoder(small_backbone(), num_styles=10, channels=16, used=used)


def test_one_pass_over_both_images_equals_two() -> None:
    encoder = FeatureEncoder(small_backbone(), num_styles=8, channels=16).train()
    photo, w_image = torch.randn(2, 2, 3, 64, 64)
    calls = []
    encoder.backbone.register_forward_hook(lambda *_: calls.append(1))
    photo_features, w_image_features = encoder.pair(photo=photo, w_image=w_image)
    assert len(calls) == 1
    assert_close(photo_features, encoder(photo), rtol=1e-4, atol=1e-5)
    assert_close(w_image_features, encoder(w_image), rtol=1e-4, atol=1e-5)


class _BatchNormed(TinyBackbone):
    """A tiny backbone that gathers batch statistics."""

    def __init__(self) -> None:
        super().__init__(widths=(8, 16, 24), units=(1, 1, 1))
        self.stem = torch.nn.Sequential(self.stem, torch.nn.BatchNorm2d(8))


def test_batch_norm_in_training_sees_photo_and_initial_image_apart() -> None:
    encoder = FeatureEncoder(_BatchNormed(), num_styles=4, channels=16).train()
    photo, w_image = torch.randn(2, 3, 64, 64), 5 + torch.randn(2, 3, 64, 64)
    twin = FeatureEncoder(_BatchNormed(), num_styles=4, channels=16).train()
    twin.load_state_dict(encoder.state_dict())
    photo_features, w_image_features = encoder.pair(photo=photo, w_image=w_image)
    assert_close(photo_features, twin(photo))
    assert_close(w_image_features, twin(w_image))
    assert_close(encoder.state_dict(), twin.state_dict())
    backbones, blocks = [], []
    encoder.backbone.register_forward_hook(lambda *_: backbones.append(1))
    encoder.styles["0"].register_forward_hook(lambda *_: blocks.append(1))
    for training, calls in ((True, 2), (False, 1)):
        encoder.train(training).pair(photo=photo, w_image=w_image)
        assert (len(backbones), len(blocks)) == (calls, 1)
        backbones.clear(), blocks.clear()


@pytest.mark.parametrize("head", ["pool", "flatten"])
def test_w_encoder_encodes_every_image_for_itself(head: str) -> None:
    encoder = WEncoder(small_backbone(), w_dim=5, head=head)  # type: ignore[arg-type]
    photos = torch.randn(3, 3, 64, 64)
    together = encoder(photos)
    assert together.shape == (3, 5)
    assert_close(together, torch.cat([encoder(photo[None]) for photo in photos]), rtol=1e-4, atol=1e-5)


def test_only_the_flattening_head_sees_where_things_are() -> None:
    photo = torch.randn(1, 3, 64, 64)
    feature = torch.randn(1, 24, 8, 8)
    for head, blind in (("pool", True), ("flatten", False)):
        encoder = WEncoder(small_backbone(), w_dim=5, head=head)  # type: ignore[arg-type]
        encoder.backbone.forward = lambda x: (x, x, feature)  # type: ignore[method-assign, assignment]
        here = encoder(photo)
        encoder.backbone.forward = lambda x: (x, x, feature.roll(3, dims=2))  # type: ignore[method-assign, assignment]
        assert torch.allclose(here, encoder(photo), atol=1e-6) is blind


def test_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="pool or flatten"):
        WEncoder(small_backbone(), w_dim=5, head="mean")  # type: ignore[arg-type]


def test_resize_does_not_antialias() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., 0, 0] = 1  # bilinear at a factor of 4 reads rows and columns 1, 2, 5, 6 only
    assert not resize(image, 2).any()
    assert resize(image, 8) is image


@pytest.mark.parametrize("size", [16, 64, 100])
def test_encoders_take_photos_of_any_size(size: int) -> None:
    photo = torch.randn(1, 3, size, size)
    assert WEncoder(small_backbone(), w_dim=5)(photo).shape == (1, 5)


@pytest.mark.parametrize("kind", [IRSE50, ResNet34])
@pytest.mark.parametrize("size", [1024, 64])
def test_the_papers_backbones_see_photos_of_any_size_at_256_pixels(
    kind: type[Backbone], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def look(self: Backbone, x: torch.Tensor) -> None:
        raise Seen(x)

    monkeypatch.setattr(kind, "forward", look)
    photo = torch.rand(1, 3, size, size)
    with torch.device("meta"):
        encoder = WEncoder(kind(), 512)
    with pytest.raises(Seen) as seen:
        encoder(photo)
    x = seen.value.args[0]
    assert x.shape == (1, 3, 256, 256)
    # bilinear between pixel centres, without averaging: the pixel at i lies at (i + 1/2) size / 256 - 1/2
    place = (100 + 0.5) * size / 256 - 0.5
    low, part = math.floor(place), place - math.floor(place)
    corner = photo[0, :, low : low + 2, low : low + 2]
    weights = torch.tensor([1 - part, part])
    torch.testing.assert_close(x[0, :, 100, 100], weights @ corner @ weights)


@pytest.mark.parametrize(
    ("heads", "shared"),
    [
        ("layer", [{i} for i in range(10)]),
        ("resolution", [{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}]),
        ("level", [{0, 1, 2}, {3, 4, 5, 6}, {7, 8, 9}]),
    ],
)
def test_layers_that_share_a_head_read_what_its_first_layer_reads(
    heads: Heads, shared: list[set[int]]
) -> None:
    full = FeatureEncoder(small_backbone(), num_styles=10, channels=16)
    encoder = FeatureEncoder(small_backbone(), num_styles=10, channels=16, heads=heads)
    owned = {name: tensor for name, tensor in full.state_dict().items() if name in encoder.state_dict()}
    encoder.load_state_dict(owned)  # strict: a head is one of those the paper's encoder has
    x = torch.randn(2, 3, 64, 64)
    maps, of_all = encoder(x), full(x)
    for layers in shared:
        for layer in layers:
            assert_close(maps[:, layer], of_all[:, min(layers)])
    assert len({name.split(".")[1] for name in owned if name.startswith("styles.")}) == len(shared)


def test_a_shared_head_stays_the_same_when_its_first_layer_is_unused() -> None:
    encoder = FeatureEncoder(small_backbone(), num_styles=10, channels=16, used=[5, 9], heads="level")
    assert {name.split(".")[1] for name in encoder.state_dict() if name.startswith("styles.")} == {"3", "7"}
    features = encoder(torch.randn(1, 3, 64, 64))
    assert [index for index in range(10) if features[:, index].any()] == [5, 9]
    only_level_one = FeatureEncoder(small_backbone(), 10, 16, used=[6, 7], heads="resolution")
    assert only_level_one.latlayer2 is None  # 7 reads with 6, so the finest level is not needed


@pytest.mark.parametrize(("initial", "share"), [("half", 1 / 4), ("quarter", 1 / 16)])
def test_a_smaller_initial_image_costs_its_share_and_leaves_the_photo_alone(
    initial: Initial, share: float
) -> None:
    full = FeatureEncoder(small_backbone(), num_styles=8, channels=16)
    encoder = FeatureEncoder(small_backbone(), num_styles=8, channels=16, initial=initial)
    encoder.load_state_dict(full.state_dict())
    photo, drawn = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 128, 128)
    with FlopCounterMode(display=False) as alone:
        photo_features = encoder(photo)
    with FlopCounterMode(display=False) as together:
        of_photo, of_w_image = encoder.pair(photo=photo, w_image=drawn)
    assert_close(of_photo, photo_features)
    assert_close(of_photo, full.pair(photo=photo, w_image=drawn)[0])
    assert of_w_image.shape == of_photo.shape
    assert together.get_total_flops() / alone.get_total_flops() == pytest.approx(1 + share, rel=0.02)


def test_a_smaller_initial_image_is_an_average() -> None:
    encoder = FeatureEncoder(small_backbone(), num_styles=4, channels=16, initial="half")
    stripes = torch.ones(1, 3, 64, 64)
    stripes[..., ::2] = -1  # finer than the small image can show
    seen: list[torch.Tensor] = []
    encoder.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder.encode_w_image(stripes)
    assert seen[0].shape == (1, 3, 32, 32)
    assert seen[0][..., 1:-1].abs().max() < 1e-6


def test_photo_and_initial_image_in_one_pass_cost_half_and_both_are_seen() -> None:
    torch.manual_seed(0)
    full = FeatureEncoder(small_backbone(), num_styles=8, channels=16, sides=[8])
    joint = FeatureEncoder(small_backbone(), num_styles=8, channels=16, sides=[8], initial="joint")
    photo, drawn = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 128, 128)
    with FlopCounterMode(display=False) as twice:
        wanted, _, apart = full.read(photo=photo, w_image=drawn)
    with FlopCounterMode(display=False) as once:
        found, nothing, differences = joint.read(photo=photo, w_image=drawn)
    assert once.get_total_flops() / twice.get_total_flops() == pytest.approx(
        0.5, rel=0.2
    )  # a wider first layer
    assert found.shape == wanted.shape == nothing.shape
    assert not nothing.any()
    assert differences[8].shape == apart[8].shape
    other = joint.read(photo=photo, w_image=drawn.flip(-1))
    assert not torch.allclose(other[0], found)
    assert not torch.allclose(other[2][8], differences[8])


@pytest.mark.parametrize("given", [{"heads": "layers"}, {"initial": 2}])
def test_unknown_savings_are_refused(given: dict[str, Any]) -> None:
    name = next(iter(given))
    with pytest.raises(
        ValueError, match=f"{name} must be one of (layer, resolution, level|full, half, quarter, joint), got"
    ):
        FeatureEncoder(small_backbone(), num_styles=4, channels=16, **given)
