"""What ends a styled convolution on a GPU, in one pass: filter, scale, noise, bias, leaky ReLU, clamp.

Such passes move bytes and compute next to nothing: each operation of its own reads and writes all features once
more, and cuDNN filters every channel alone at a tenth of the memory's speed or less. The kernels are Triton's,
compiled at the first call of a kind (``triton_kernels``); ``finishing.finish`` in plain PyTorch is their reference,
and the way where they cannot run: on other devices, in float64, without Triton, and, with a warning, where Triton is
but cannot compile (it needs a C compiler).

Letters in shapes: B samples, C channels, H and W sides of the result.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hyperinverter.ops.activation import GAIN, SLOPE
from hyperinverter.ops.policy import policy_of

PADDING = 1  # of the filter after a transposed convolution
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_BLOCK = 1024  # numbers of a row that a program holds
# Found out here: compilers cannot follow the question.
_TRITON = importlib.util.find_spec("triton") is not None
_OPTIONAL = "Tensor? fir, Tensor? scale, Tensor bias, Tensor? noise, Tensor strength, float? clamp"


def can_fuse(x: Tensor) -> bool:
    """Whether features ``(B, C, H, W)`` are finished and filtered by one kernel here."""
    return policy_of(x).fused and x.is_cuda and x.dtype in _TYPES and _TRITON and not _state.refused


def fused_finish(
    x: Tensor,
    fir: Tensor | None,
    scale: Tensor | None,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor,
    clamp: float | None = None,
) -> Tensor:
    """Return ``finishing.finish`` of the same arguments, from one kernel.

    Sums are made in float32; the result has the dtype and the layout of ``x``, which is not written to.

    Args:
        x: Features, ``(B, C, H, W)``, or ``(B, C, H + 1, W + 1)`` with ``fir``.
        fir: Filter from ``fir_kernel``; None for none.
        scale: ``(B, C, 1, 1)``; None for 1.
        bias: ``(C,)``.
        noise: ``(H, W)`` or ``(B, H, W)``; None for 0.
        strength: Factor of the noise, ``()``.
        clamp: Largest absolute value, None for no limit.
    """
    found: Tensor = _finish(x, fir, scale, bias, noise, strength, clamp)
    return found


def fused_filter(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Return ``resample.fir_filter(x, kernel, padding)``, from one kernel, in the layout of ``x``."""
    found: Tensor = _filter(x, kernel, padding, False)
    return found


# The operators ----------------------------------------------------------------------------------------------------
# Known to PyTorch by name, so that compilers and tensors without content take them as they are.


@torch.library.custom_op(
    "hyperinverter::finish", mutates_args=(), schema=f"(Tensor x, {_OPTIONAL}) -> Tensor"
)
def _finish(
    x: Tensor,
    fir: Tensor | None,
    scale: Tensor | None,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor,
    clamp: float | None,
) -> Tensor:
    x = _dense(x)
    out = _shaped(x, 2 * PADDING - 3 if fir is not None else 0)
    end = scale, bias, noise, strength, clamp
    if not _launched(lambda: _forward(x, out, fir, PADDING, end)):
        from hyperinverter.ops.finishing import finish  # which asks here whether it can do better

        out.copy_(finish(x.clone(), fir, *end))
    return out


@_finish.register_fake
def _(x: Tensor, fir: Tensor | None, *_: Any) -> Tensor:
    return _shaped(_dense(x), 2 * PADDING - 3 if fir is not None else 0)


@torch.library.custom_op(
    "hyperinverter::finish_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor out, Tensor? x, Tensor? fir, Tensor? scale, float? clamp) -> (Tensor, Tensor)",
)
def _finish_backward(
    grad: Tensor,
    out: Tensor,
    x: Tensor | None,
    fir: Tensor | None,
    scale: Tensor | None,
    clamp: float | None,
) -> tuple[Tensor, Tensor]:
    results: list[tuple[Tensor, Tensor]] = []
    if not _launched(lambda: results.append(_backward(grad, out, x, fir, scale, clamp))):
        results.append(_plain_backward(grad, out, x, fir, scale, clamp))
    return results[0]


@_finish_backward.register_fake
def _(grad: Tensor, out: Tensor, x: Tensor | None, fir: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    of_scale = out.new_empty(out.shape[:2] if x is not None else 0, dtype=torch.float32)
    return _shaped(out, 3 - 2 * PADDING if fir is not None else 0), of_scale


@torch.library.custom_op(
    "hyperinverter::filter",
    mutates_args=(),
    schema="(Tensor x, Tensor kernel, int padding, bool flipped) -> Tensor",
)
def _filter(x: Tensor, kernel: Tensor, padding: int, flipped: bool) -> Tensor:
    x = _dense(x)
    out = _shaped(x, 2 * padding - 3)
    if not _launched(lambda: _forward(x, out, kernel, padding, None, flipped)):
        from hyperinverter.ops.resample import fir_filter

        out.copy_(fir_filter(x, kernel.flip(0, 1) if flipped else kernel, padding))
    return out


@_filter.register_fake
def _(x: Tensor, kernel: Tensor, padding: int, flipped: bool) -> Tensor:
    return _shaped(_dense(x), 2 * padding - 3)


# Gradients --------------------------------------------------------------------------------------------------------


def _keep_for_filter(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, kernel, ctx.padding, ctx.flipped = inputs
    ctx.save_for_backward(kernel)


def _filter_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (kernel,) = (
        ctx.saved_tensors
    )  # the transpose of a filter is a filter, so gradients of gradients are there, too
    return _filter(grad, kernel, 3 - ctx.padding, not ctx.flipped), None, None, None


def _keep_for_finish(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, fir, scale, bias, noise, strength, ctx.clamp = inputs
    by_scale = scale is not None and ctx.needs_input_grad[2]
    ctx.save_for_backward(output, x if by_scale else None, fir, scale, noise, strength, bias)


def _finish_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    out, x, fir, scale, noise, strength, bias = ctx.saved_tensors
    needs = ctx.needs_input_grad
    found: dict[int, Tensor] = {}
    if torch.is_grad_enabled():  # a gradient of this gradient is wanted: all is linear in grad, scale and x
        found[0], by_scale = _plain_backward(grad, out, x, fir, scale, ctx.clamp)
    else:
        found[0], by_scale = _finish_backward(grad, out, x, fir, scale, ctx.clamp)
    if needs[2]:
        found[2] = by_scale.view(scale.shape).to(scale.dtype)
    if needs[3] or needs[4] or needs[5]:  # where the generator learns
        before = _before(grad, out, ctx.clamp)
        if needs[3]:
            found[3] = (GAIN * before.sum((0, 2, 3))).to(bias.dtype)
        if noise is not None:
            per_place = before.sum(1)  # (B, H, W)
            per_place = per_place if noise.ndim > 2 else per_place.sum(0)
            if needs[4]:
                found[4] = (GAIN * strength * per_place).to(noise.dtype)
            if needs[5]:
                found[5] = (GAIN * (per_place * noise).sum()).to(strength.dtype).view(strength.shape)
    return tuple(found.get(number) for number in range(7))


def _before(grad: Tensor, out: Tensor, clamp: float | None) -> Tensor:
    """The gradient before clamp and leaky ReLU, in float32."""
    before = torch.where(out > 0, grad, grad * SLOPE).float()
    return before if clamp is None else before * (out.abs() < clamp)


def _plain_backward(
    grad: Tensor,
    out: Tensor,
    x: Tensor | None,
    fir: Tensor | None,
    scale: Tensor | None,
    clamp: float | None,
) -> tuple[Tensor, Tensor]:
    """The gradients by ``x`` and ``scale``, differentiable."""
    before = _before(grad, out, clamp)
    filtered = before if fir is None else _filter(before, fir, 3 - PADDING, True)
    by_x = (filtered if scale is None else filtered * scale).to(out.dtype)
    return by_x, filtered.new_empty(0) if x is None else (filtered * x).sum((2, 3))


_filter.register_autograd(_filter_gradient, setup_context=_keep_for_filter)
_finish.register_autograd(_finish_gradient, setup_context=_keep_for_finish)


# Launches ---------------------------------------------------------------------------------------------------------


class _State:
    """Whether kernels can be made here, as the first of them shows."""

    def __init__(self) -> None:
        self.made = self.refused = False


_state = _State()


def _launched(launch: Callable[[], object]) -> bool:
    """Launch a kernel; False where none can be made here, which is said once."""
    if _state.refused:
        return False
    try:
        launch()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # Triton's own, its compilers', the system's
        if _state.made:
            raise
        _state.refused = True
        why = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"Triton cannot make the generator's kernels here, and plain PyTorch takes several times as long: {why} "
            "(it needs a C compiler, such as gcc)",
            stacklevel=2,
        )
        return False
    _state.made = True
    return True


def _dense(x: Tensor) -> Tensor:
    """``x`` in one of the two layouts."""
    return x if x.is_contiguous() or _by_pixel(x) else x.contiguous()


def _by_pixel(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if _by_pixel(x) else torch.contiguous_format


def _shaped(x: Tensor, more: int) -> Tensor:
    """An empty tensor with ``more`` rows and columns than ``x``, in its layout."""
    batch, channels, height, width = x.shape
    shape = (batch, channels, height + more, width + more)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _blocks(x: Tensor) -> tuple[dict[str, int], int, int]:
    """Options of a launch that writes to ``x``, its programs, and those of one sample and channel block."""
    batch, channels, height, width = x.shape
    if _by_pixel(x) and channels > 1:
        deep = min(_power_of_two(channels), 64)
        wide = min(_power_of_two(width), _BLOCK // deep)
    else:
        wide = min(_power_of_two(width), _BLOCK // 4)
        deep = min(_power_of_two(channels), _BLOCK // 4 // wide)
    per_channel = -(-height // 4) * -(-width // wide)
    warps = 4 if wide * deep > 512 else 2
    options = {"BW": wide, "BC": deep, "num_warps": warps}
    return options, per_channel * batch * -(-channels // deep), per_channel


def _power_of_two(number: int) -> int:
    """The smallest that is at least ``number``."""
    return 1 << max(0, number - 1).bit_length()


def _forward(
    x: Tensor,
    out: Tensor,
    fir: Tensor | None,
    padding: int,
    end: tuple[Tensor | None, Tensor, Tensor | None, Tensor, float | None] | None,
    flipped: bool = False,
) -> None:
    from hyperinverter.ops import triton_kernels  # only where Triton is

    scale, bias, noise, strength, clamp = end or (None, out, None, out, None)
    options, programs, _ = _blocks(out)
    scale, noise = (None if part is None else part.contiguous() for part in (scale, noise))
    nothing = out  # a pointer that is not read
    with _on(x):
        triton_kernels.end_forward[(programs,)](
            *(x, out, _or(fir, nothing), _or(scale, nothing), bias, _or(noise, nothing), strength),
            *(*x.shape[2:], *out.shape[2:], out.shape[1], *x.stride(), *out.stride()),
            0 if noise is None or noise.ndim == 2 else noise.stride(0),
            0.0 if clamp is None else clamp,
            PADDING=padding,
            FLIP=flipped,
            FIR=fir is not None,
            END=end is not None,
            SCALE=scale is not None,
            NOISE=noise is not None,
            CLAMP=clamp is not None,
            GAIN=GAIN,
            SLOPE=SLOPE,
            **options,
        )


def _backward(
    grad: Tensor,
    out: Tensor,
    x: Tensor | None,
    fir: Tensor | None,
    scale: Tensor | None,
    clamp: float | None,
) -> tuple[Tensor, Tensor]:
    from hyperinverter.ops import triton_kernels

    grad = grad.contiguous(memory_format=_layout(out))
    grad_x = _shaped(out, 3 - 2 * PADDING if fir is not None else 0)
    options, programs, blocks = _blocks(grad_x)
    batch, channels = out.shape[:2]
    parts = out.new_empty((blocks, batch, channels) if x is not None else (0,), dtype=torch.float32)
    if x is not None:
        x = x.contiguous(memory_format=_layout(out))
    nothing = out
    with _on(out):
        triton_kernels.end_backward[(programs,)](
            *(grad, out, _or(x, nothing), _or(fir, nothing)),
            *(_or(None if scale is None else scale.contiguous(), nothing), grad_x, parts),
            *(*grad_x.shape[2:], *out.shape[2:], channels, batch),
            *(*grad.stride(), *out.stride(), *grad_x.stride()),
            0.0 if clamp is None else clamp,
            PADDING=PADDING,
            FIR=fir is not None,
            SCALE=scale is not None,
            PARTS=x is not None,
            CLAMP=clamp is not None,
            SLOPE=SLOPE,
            **options,
        )
    return grad_x, parts.sum(0) if x is not None else parts


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of ``x``."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
