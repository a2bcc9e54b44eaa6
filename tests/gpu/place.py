"""Where the GPU tests run, and how near their results have to be to those in float64 on the processor.

``HYPERINVERTER_TEST_DEVICE=cpu`` rehearses the same tests on a processor, with the choices that a GPU gets.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hyperinverter.ops.policy import GPU, policy

DEVICE = torch.device(os.environ.get("HYPERINVERTER_TEST_DEVICE") or "cuda")
REHEARSAL = DEVICE.type == "cpu"
TRAINER = "cpu" if REHEARSAL else "gpu"  # Lightning's name, and that of conf/trainer
# Largest distance to float64, as a share of its norm (``distance``): the one measure of all these tests. float32 sums over some thousand products keep 1e-5 or better;
# tf32 has 10 bits behind the point, bfloat16 7.
TOLERANCE = {"fp32": 1e-4, "tf32": 3e-3, "bf16": 3e-2, "fp16": 3e-2}
_DRAWN = {"rand": torch.float32, "randn": torch.float32, "randint": torch.int64, "randperm": torch.int64}
_PRODUCTS = {
    *(torch.ops.aten.convolution, torch.ops.aten.convolution_backward),
    *(torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm),
}
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

M = TypeVar("M", bound=nn.Module)


def missing() -> str | None:
    """Why nothing can be tested here; None if it can."""
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch sees no CUDA GPU (HYPERINVERTER_TEST_DEVICE=cpu rehearses on the processor)"
    return None


def unfit(precision: str) -> str | None:
    """Why this card has no such precision; None if it has."""
    if REHEARSAL or precision in ("fp32", "fp16") or torch.cuda.get_device_capability(DEVICE) >= (8, 0):
        return None
    return f"{torch.cuda.get_device_name(DEVICE)} has no {precision}"


class RoundedProducts(TorchDispatchMode):
    """tf32 on a processor: what is multiplied in convolutions and matrix products has 10 bits behind the point."""

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function.overloadpacket in _PRODUCTS:
            given = tuple(_with_ten_bits(x) for x in given)
        return function(*given, **(named or {}))


def _with_ten_bits(x: Any) -> Any:
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        return x
    bits = x.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)  # to the nearest, ties to even


@contextmanager
def smooth_activations() -> Iterator[None]:
    """Within, ReLUs bend gradually: the slope below zero, then 1, with softplus in between."""

    def bent(x: Tensor, slope: Any = 0.01, inplace: bool = False) -> Tensor:
        return slope * x + (1 - slope) * F.softplus(x)

    def of_channels(x: Tensor, slope: Tensor) -> Tensor:
        return bent(x, slope.view(-1, *[1] * (x.ndim - 2)))

    def between(x: Tensor, inplace: bool = False) -> Tensor:
        return F.softplus(x) - F.softplus(x - 6)

    with ExitStack() as stack:
        others = {
            "leaky_relu": bent,
            "leaky_relu_": bent,
            "relu": partial(bent, slope=0.0),
            "prelu": of_channels,
            "relu6": between,
        }
        stack.enter_context(policy(fused=False))  # kernels of our own have the real ones
        for name, other in others.items():
            stack.enter_context(mock.patch.object(F, name, other))
        yield


@contextmanager
def arithmetic(precision: str, autocast: bool = True, compiled: bool = False) -> Iterator[None]:
    """Within, compute in this precision and with a GPU's choices of ``ops.policy``.

    Args:
        precision: One of ``TOLERANCE``.
        autocast: Off where the caller chooses half precision by itself.
        compiled: No rehearsal of tf32, which a compiler cannot follow.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with ExitStack() as stack:
        if REHEARSAL:
            stack.enter_context(policy(GPU))
            if precision == "tf32" and not compiled:
                stack.enter_context(RoundedProducts())
        if autocast and precision in _HALF:
            stack.enter_context(torch.autocast(DEVICE.type, _HALF[precision]))
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]


@contextmanager
def drawn_on_the_host() -> Iterator[None]:
    """Within, torch's random numbers are those of a processor in float32, whatever device and type asks for them."""

    def draw(function: Callable[..., Tensor], *given: Any, device: Any = None, **options: Any) -> Tensor:
        drawn = function(*given, dtype=_DRAWN.get(function.__name__), device="cpu", **options)
        return drawn.to(device, torch.get_default_dtype() if drawn.is_floating_point() else drawn.dtype)

    with ExitStack() as stack:
        for name in _DRAWN:
            stack.enter_context(mock.patch.object(torch, name, partial(draw, getattr(torch, name))))
        yield


def exact(module: M) -> M:
    """A copy of a module in float64 on the processor, networks that it holds included."""
    return copy.deepcopy(module).to("cpu").double()


def there(module: M) -> M:
    """A copy of a module on the device, in float32."""
    return copy.deepcopy(module).to(DEVICE)


def distance(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> float:
    """Norm of the difference of all numbers together, as a share of the norm of ``wanted``."""
    pairs = [
        (a.detach().cpu().double().flatten(), b.detach().cpu().double().flatten())
        for a, b in zip(found, wanted, strict=True)
    ]
    for a, b in pairs:
        assert a.shape == b.shape
    one, other = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert one.isfinite().all()
    assert other.norm() > 0, "nothing to compare with"
    return float((one - other).norm() / other.norm())


def near(found: Iterable[Tensor], wanted: Iterable[Tensor], precision: str = "fp32") -> None:
    """Fail unless both are as near as this precision allows."""
    apart = distance(found, wanted)
    assert apart <= TOLERANCE[precision], f"{apart:.2e} apart in {precision}"


def compared(
    function: Callable[..., Any], inputs: dict[str, Tensor], precision: str, options: dict[str, Any]
) -> None:
    """Compare values and all gradients of a function on the device with those in float64 on the processor.

    Args:
        function: Takes ``inputs`` and ``options`` by keyword; returns a tensor, or one and its factor, which may be None.
        inputs: float32, on the processor; every one is differentiated.
        precision: See ``arithmetic``.
        options: Further arguments.
    """
    torch.manual_seed(1)
    ours = _values_and_gradients(function, inputs, DEVICE, torch.float32, precision, options)
    torch.manual_seed(1)
    wanted = _values_and_gradients(function, inputs, torch.device("cpu"), torch.float64, None, options)
    near([ours[0]], [wanted[0]], precision)
    near(ours[1], wanted[1], precision)


def _values_and_gradients(
    function: Callable[..., Any],
    inputs: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    precision: str | None,
    options: dict[str, Any],
) -> tuple[Tensor, list[Tensor]]:
    given = {name: x.to(device, dtype).requires_grad_() for name, x in inputs.items()}
    # a copy: some functions write over what they are given
    passed = {name: x.clone() for name, x in given.items()}
    with arithmetic(precision) if precision else policy():
        result = function(**passed, **options)
    value, factor = result if isinstance(result, tuple) else (result, None)
    value = value if factor is None else value * factor
    draw = torch.Generator().manual_seed(2)  # weights that say which number is which
    weights = torch.randn(value.shape, generator=draw, dtype=torch.double).to(device)
    # backward passes are outside autocast
    with arithmetic(precision, autocast=False) if precision else policy():
        return value, list(torch.autograd.grad((value.double() * weights).sum(), list(given.values())))
