"""The convolution whose gradients can be differentiated again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hyperinverter.losses.adversarial import r1_penalty
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.generator import GeneratorConfig
from hyperinverter.ops.convolution import conv2d, without_kernel_gradients

CASES = [(3, 1, 1), (3, 2, 0), (1, 1, 0)]  # kernel, stride, padding


def inputs(kernel: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64, generator=draw)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64, generator=draw)
    return x.requires_grad_(True), weight.requires_grad_(True)


@pytest.mark.parametrize(("kernel", "stride", "padding"), CASES)
def test_gradients_of_gradients_are_right(kernel: int, stride: int, padding: int) -> None:
    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return conv2d(x, weight, stride=stride, padding=padding)

    x, weight = inputs(kernel)
    assert torch.equal(ours(x, weight), F.conv2d(x, weight, stride=stride, padding=padding))
    assert torch.autograd.gradcheck(ours, (x, weight))
    assert torch.autograd.gradgradcheck(ours, (x, weight))


@pytest.mark.parametrize("asked", [(True, False), (False, True)])
def test_gradients_of_one_of_both(asked: tuple[bool, bool]) -> None:
    x, weight = (tensor.requires_grad_(on) for tensor, on in zip(inputs(3), asked, strict=True))
    conv2d(x, weight, padding=1).square().sum().backward()
    found = x.grad, weight.grad
    assert [tensor is not None for tensor in found] == list(asked)


def test_under_autocast_it_is_half() -> None:
    x, weight = (tensor.float() for tensor in inputs(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d(x, weight).dtype == torch.bfloat16


def test_kernels_can_be_left_out_of_a_backward_pass() -> None:
    x, weight = inputs(3)
    with without_kernel_gradients():
        (by_x,) = torch.autograd.grad(conv2d(x, weight).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(conv2d(x, weight).sum(), weight)
    (expected,) = torch.autograd.grad(F.conv2d(x, weight).square().sum(), x)
    torch.testing.assert_close(by_x, expected)
    by_x.sum().backward()  # afterwards they are wanted again
    assert weight.grad is not None


class Kernels(TorchDispatchMode):
    """The largest side of a kernel in any convolution."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.largest = max(self.largest, args[1].shape[-1])
        return func(*args, **(kwargs or {}))


def test_the_penalty_convolves_with_no_map_of_features() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(GeneratorConfig(8, 8, 16, channel_base=128, channel_max=8))
    photo = torch.randn(2, 3, 16, 16, requires_grad=True)
    with Kernels() as kernels:
        r1_penalty(discriminator(photo), photo).backward()
    assert kernels.largest == 4  # the FIR filter
    usual = F.conv2d(photo, torch.ones(4, 3, 3, 3, requires_grad=True), padding=1).square().sum()
    with Kernels() as kernels:
        torch.autograd.grad(usual, photo, create_graph=True)[0].square().sum().backward()
    assert kernels.largest == 16  # what PyTorch does of its own
