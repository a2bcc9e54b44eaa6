"""The convolution with fewer multiplications is the direct one: values, gradients, and where it is taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from hyperinverter.networks.generator import GeneratorConfig
from hyperinverter.networks.styled import StyledConv
from hyperinverter.ops import winograd
from hyperinverter.ops.factored import FactoredResidual
from hyperinverter.ops.modconv import modulated_conv2d
from hyperinverter.ops.policy import policy
from hyperinverter.ops.winograd import Conv3x3, conv3x3, conv3x3_by, pays, transformed


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the expected values' spread."""
    return float(((found - expected).abs().max() / expected.std()).detach())


@pytest.mark.parametrize(
    ("shape", "out_channels"),
    [
        ((1, 5, 8, 8), 7),
        ((3, 16, 9, 13), 8),  # no multiples of a tile
        ((2, 32, 33, 20), 32),
        ((40, 4, 6, 6), 4),  # many samples in a piece, and a rest
        ((1, 3, 4, 700), 2),  # a row of tiles is more than a piece
        ((2, 3, 1, 1), 2),
        ((1, 128, 64, 64), 128),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_the_direct_convolution(
    shape: tuple[int, ...], out_channels: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(out_channels, shape[1], 3, 3, requires_grad=True)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    found = conv3x3(x, weight)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert error(found, expected) < 3e-5
    with policy(winograd="never"):  # is for those that choose
        by_kernels = conv3x3_by(x, transformed(weight.detach()))
    assert error(by_kernels, expected) < 3e-5
    upstream = torch.randn_like(expected)
    (by_x,) = torch.autograd.grad(by_kernels, x, upstream.float())
    gradients = torch.autograd.grad(found, (x, weight), upstream.float())
    assert error(by_x, gradients[0]) < 3e-5
    for gradient, exact in zip(gradients, torch.autograd.grad(expected, (x, weight), upstream), strict=True):
        assert gradient.shape == exact.shape
        assert error(gradient, exact) < 3e-5


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (5, 8), (8, 5)])
def test_the_next_layer_may_work_in_place(batch: int, size: tuple[int, int]) -> None:
    x, weight = torch.randn(batch, 4, *size, requires_grad=True), torch.randn(6, 4, 3, 3)
    conv3x3(x, weight).add_(1).square().sum().backward()
    other = x.detach().requires_grad_()
    F.conv2d(other, weight, padding=1).add(1).square().sum().backward()
    assert x.grad is not None
    assert other.grad is not None
    assert error(x.grad, other.grad) < 1e-4


@pytest.mark.parametrize("factored", [True, False])
def test_one_photo_trains(factored: bool) -> None:
    layer = StyledConv(
        GeneratorConfig(img_resolution=64, channel_base=1024, channel_max=16), 16, 64, up=False
    )
    x, w = torch.randn(1, 16, 64, 64, requires_grad=True), torch.randn(1, 512)
    parts = torch.randn(1, 16, 4, requires_grad=True), torch.randn(4, 144), torch.randn(144)
    delta = FactoredResidual(*parts, layer.weight.shape) if factored else None
    with policy(winograd="always"):
        layer(x, w, delta, None, "const").square().sum().backward()
    assert x.grad is not None
    assert (parts[0].grad is not None) == factored


def test_only_the_gradients_that_are_asked_for() -> None:
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3, requires_grad=True)
    conv3x3(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_gradients_of_gradients() -> None:
    x = torch.randn(1, 2, 5, 6, dtype=torch.double, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.double, requires_grad=True)
    assert gradcheck(conv3x3, (x, weight))
    assert gradgradcheck(conv3x3, (x, weight))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The rule knows how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_taken_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = torch.empty(256, 256, 3, 3), torch.empty(32, 32, 3, 3)
    assert pays(torch.empty(1, 256, 64, 64), wide)
    assert not pays(torch.empty(1, 32, 64, 64), narrow)
    assert not pays(torch.empty(1, 256, 4, 4), wide), "kernels cost more than a few pixels save"
    assert pays(torch.empty(64, 256, 4, 4), wide), "but not if a batch shares them"
    assert not pays(torch.empty(1, 256, 64, 64, device="meta"), wide), "there a library chooses"
    assert not pays(torch.empty(1, 256, 64, 64, dtype=torch.bfloat16), wide)
    assert not pays(torch.empty(1, 256, 64, 64), torch.empty(256, 256, 1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(torch.empty(1, 256, 64, 64), wide)
    some = torch.empty(8, 64, 32, 32), torch.empty(64, 64, 3, 3)
    assert pays(*some)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not pays(*some), "threads share the way to memory"


@pytest.fixture
def taken(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Kernels that were convolved this way."""
    shapes: list[torch.Size] = []

    def watched(x: Tensor, weight: Tensor) -> Tensor:
        shapes.append(weight.shape)
        return conv3x3(x, weight)

    monkeypatch.setattr(winograd, "conv3x3", watched)
    return shapes


def test_a_layer_with_bias_and_one_with_a_stride(taken: list[torch.Size]) -> None:
    x = torch.randn(1, 128, 48, 48)
    for stride, ways in ((1, 1), (2, 0)):
        taken.clear()
        layer = Conv3x3(128, 160, 3, stride, 1)
        expected = F.conv2d(x, layer.weight, layer.bias, stride, 1)
        assert error(layer(x), expected) < 1e-4
        assert len(taken) == ways


def test_modulated_convolutions_take_it(taken: list[torch.Size]) -> None:
    x, style, weight = torch.randn(2, 128, 32, 32), torch.randn(2, 128), torch.randn(128, 128, 3, 3)
    found, factor = modulated_conv2d(x, weight, style)
    assert taken == [weight.shape]
    with policy(winograd="never"):
        expected, same = modulated_conv2d(x, weight, style)
    assert len(taken) == 1
    assert error(found, expected) < 1e-4
    assert torch.equal(factor, same)
