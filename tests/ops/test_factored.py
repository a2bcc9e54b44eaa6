"""Residuals as factors: the same numbers and gradients as kernels that are really made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from hyperinverter.ops import winograd
from hyperinverter.ops.factored import FactoredResidual, residual_conv2d
from hyperinverter.ops.modconv import modulated_conv2d
from hyperinverter.ops.policy import policy

SHAPES = [(6, 6, 3, 3), (4, 8, 3, 3), (3, 9, 3, 3), (5, 5, 1, 1)]
STRAY = (6, 8, 3, 3)  # rows of M straddle output channels: kernels can only be made


def draw(
    shape: tuple[int, ...], batch: int = 3, hidden: int = 4, size: tuple[int, int] = (5, 4)
) -> tuple[list[Tensor], tuple[int, ...]]:
    """x, theta, style, u, w2, b2."""
    out_channels, in_channels, *side = shape
    columns = out_channels * side[0] * side[1]
    sizes = [
        (batch, in_channels, *size),
        shape,
        (batch, in_channels),
        (batch, in_channels, hidden),
        (hidden, columns),
        (columns,),
    ]
    return [torch.randn(size) for size in sizes], shape


def kernels_by_hand(u: Tensor, w2: Tensor, b2: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sample by sample and row by row."""
    return torch.stack([torch.cat([row @ w2 + b2 for row in sample]).view(shape) for sample in u])


def reference(inputs: list[Tensor], shape: tuple[int, ...], up: bool) -> Tensor:
    x, theta, style, *factors = inputs
    out, factor = modulated_conv2d(x, theta + kernels_by_hand(*factors, shape), style, up=up)
    return out if factor is None else out * factor


def ours(inputs: list[Tensor], shape: tuple[int, ...], up: bool, way: str) -> Tensor:
    x, theta, style, *factors = inputs
    with policy(factored=way):
        out, factor = residual_conv2d(x, theta, FactoredResidual(*factors, shape), style, up=up)
    return out if factor is None else out * factor


@pytest.fixture(params=["loop", "grouped"])
def _both_devices(request: pytest.FixtureRequest) -> Iterator[None]:
    """As on a CPU, and as on a GPU."""
    with policy(per_sample=request.param):
        yield


CASES = [(shape, s) for shape in SHAPES for s in ("mixing", "kernels", "cheapest")] + [(STRAY, "kernels")]


@pytest.mark.usefixtures("_both_devices")
@pytest.mark.parametrize("last", [False, True], ids=["first", "channels_last"])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(
    "size", [(5, 4), (10, 9)]
)  # fewer numbers than a kernel has, and for most shapes more
@pytest.mark.parametrize(("shape", "way"), CASES)
def test_values_and_gradients_equal_those_of_made_kernels(
    shape: tuple[int, ...], way: str, size: tuple[int, int], up: bool, last: bool
) -> None:
    inputs, _ = draw(shape, size=size)
    expected_inputs = [t.double().requires_grad_() for t in inputs]
    if last:
        inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    inputs = [t.requires_grad_() for t in inputs]
    image = ours(inputs, shape, up, way)
    expected = reference(expected_inputs, shape, up)
    assert_close(image, expected.float(), rtol=1e-4, atol=1e-4)
    cotangent = torch.randn(image.shape)
    gradients = torch.autograd.grad(image, inputs, cotangent)
    wanted = torch.autograd.grad(expected, expected_inputs, cotangent.double())
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want.float(), rtol=1e-4, atol=1e-4 * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("size", [(5, 4), (10, 9)])
def test_shorter_convolutions_take_part(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they pay, forward and backward; here everywhere."""
    shape = (4, 8, 3, 3)
    inputs, _ = draw(shape, size=size)
    expected_inputs = [t.double().requires_grad_() for t in inputs]
    inputs = [t.requires_grad_() for t in inputs]
    expected = reference(expected_inputs, shape, False)
    taken: list[str] = []
    for name in ("_convolve", "_kernel_gradient"):
        real = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *a, f=real, n=name: (taken.append(n), f(*a))[1])
    with policy(winograd="always"):
        image = ours(inputs, shape, False, "kernels")
        assert_close(image, expected.float(), rtol=1e-4, atol=1e-4)
        cotangent = torch.randn(image.shape)
        gradients = torch.autograd.grad(image, inputs, cotangent)
    assert sorted(taken) == ["_convolve"] * 6 + ["_kernel_gradient"] * 3, "three samples, there and back"
    wanted = torch.autograd.grad(expected, expected_inputs, cotangent.double())
    for gradient, want in zip(gradients, wanted, strict=True):
        assert_close(gradient, want.float(), rtol=1e-4, atol=1e-4 * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("size", [(5, 4), (10, 9)])
@pytest.mark.parametrize("way", ["mixing", "kernels"])
def test_second_derivatives(way: str, size: tuple[int, int]) -> None:
    inputs, shape = draw((4, 8, 3, 3), batch=2, hidden=2, size=size)
    results = []
    for function in (lambda t: ours(t, shape, False, way), lambda t: reference(t, shape, False)):
        leaves = [t.double().requires_grad_() for t in inputs]
        first = torch.autograd.grad(function(leaves).square().sum(), leaves[0], create_graph=True)[0]
        results.append(torch.autograd.grad(first.square().sum(), leaves))
    for gradient, want in zip(*results, strict=True):
        assert_close(gradient, want, rtol=1e-6, atol=1e-6 * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("strength", [0.0, 0.5, torch.tensor(2.0), torch.tensor([0.0, 0.5, -1.0])])
@pytest.mark.parametrize("way", ["mixing", "kernels"])
def test_strength_multiplies_the_residual(way: str, strength: float | Tensor) -> None:
    (x, theta, style, *factors), shape = draw((4, 8, 3, 3))
    residual = FactoredResidual(*factors, shape).scaled(strength)
    per_sample = torch.as_tensor(strength).expand(3).view(3, 1, 1, 1, 1)
    delta = kernels_by_hand(*factors, shape) * per_sample
    assert_close(residual.materialise(), delta, rtol=1e-4, atol=1e-4)
    with policy(factored=way):
        out, factor = residual_conv2d(x, theta, residual, style)
    want, want_factor = modulated_conv2d(x, theta + delta, style)
    assert want_factor is not None
    assert_close(out if factor is None else out * factor, want * want_factor, rtol=1e-4, atol=1e-4)


def kept(way: str) -> tuple[int, int]:
    """Numbers that autograd keeps for the backward pass; and how many a sample's kernels have, times the batch."""
    inputs, shape = draw((32, 32, 3, 3), batch=8, hidden=4)
    inputs[3] = inputs[3].requires_grad_()
    x, theta, style, *factors = inputs
    residual = FactoredResidual(*factors, shape)
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes() // 4
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        if way == "stored":
            modulated_conv2d(x, theta + residual.materialise(), style)
        else:
            with policy(factored=way):
                residual_conv2d(x, theta, residual, style)
    return sum(seen.values()), 8 * 32 * 32 * 9


@pytest.mark.usefixtures("_both_devices")
def test_no_kernel_of_a_sample_is_kept_for_the_backward_pass() -> None:
    stored, kernels = kept("stored")
    assert stored > kernels
    assert kept("kernels")[0] < stored - 0.85 * kernels
    assert kept("mixing")[0] < kernels


def test_mixing_makes_no_kernel_of_a_sample() -> None:
    inputs, shape = draw((32, 32, 3, 3), batch=64, hidden=2)
    biggest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal biggest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                biggest = max(biggest, out.numel())
            return out

    with Watch():
        ours(inputs, shape, False, "mixing")
    assert biggest < 64 * 32 * 32 * 9 / 2


def operations(batch: int, channels: int, hidden: int, side: int, way: str) -> int:
    """Multiplications that really happen beyond the convolution with theta."""
    with (
        FakeTensorMode(),
        policy(winograd="never", factored=way),
    ):  # shapes without numbers, direct convolutions
        (x, theta, style, *factors), shape = draw((channels, channels, 3, 3), batch, hidden)
        x = torch.empty(batch, channels, side, side)
        residual = FactoredResidual(*factors, shape)
        with FlopCounterMode(display=False) as counter:
            residual_conv2d(x, theta, residual, style)
    return counter.get_total_flops() // 2 - batch * channels * channels * 9 * side * side


@pytest.mark.parametrize(("side", "from_batch"), [(4, 2), (8, 2), (16, 6), (32, None)])
def test_the_rule_chooses_what_needs_fewer_multiplications(side: int, from_batch: int | None) -> None:
    """The figures in the docstring of ``mixing_pays``, and what PyTorch counts."""
    shape = (512, 512, 3, 3)
    for batch in (1, 2, 4, 8, 32):
        with FakeTensorMode():
            residual = FactoredResidual(*draw(shape, batch, 128)[0][3:], shape)
        pays = residual.mixing_pays(side * side, side * side)
        assert pays is (from_batch is not None and batch >= from_batch)
        counted = [operations(batch, 512, 128, side, s) for s in ("mixing", "kernels")]
        if abs(counted[0] / counted[1] - 1) > 0.05:  # the rule leaves out the smallest products
            assert pays is (counted[0] < counted[1])
    with FakeTensorMode():
        stray = FactoredResidual(*draw(STRAY, 64, 2)[0][3:], STRAY)
    assert not stray.mixing_pays(1, 1)


def test_a_layout_that_cannot_be_mixed_is_refused() -> None:
    inputs, shape = draw(STRAY)
    with pytest.raises(ValueError, match=r"\(6, 8, 3, 3\) cannot be mixed: I must be a multiple of O"):
        ours(inputs, shape, False, "mixing")


@pytest.mark.usefixtures("_both_devices")
def test_a_backward_pass_outside_of_autocast_makes_the_same_kernels() -> None:
    """Trainers call backward() after the autocast of the forward pass has ended."""
    inputs, shape = draw((6, 6, 3, 3))
    x, theta, style, h, w2, b2 = (t.requires_grad_() for t in inputs)
    gradients = []
    for enabled in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            u = torch.matmul(h, torch.eye(4))  # in bfloat16, as a regressor gives it
            total = ours([x, theta, style, u, w2, b2], shape, False, "kernels").float().square().sum()
        gradients.append(torch.autograd.grad(total, [x, theta, style, h, w2, b2]))
    for half, single in zip(*gradients, strict=True):
        assert (half - single).norm() < 3e-2 * single.norm()


def test_half_precision_is_close() -> None:
    inputs, shape = draw((6, 6, 3, 3))
    exact = reference(inputs, shape, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ours(inputs, shape, False, "mixing")
    assert (half - exact).abs().mean() < 0.02 * exact.abs().mean()
