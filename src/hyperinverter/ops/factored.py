"""Per-sample kernel residuals kept as the two factors that a hypernetwork makes them from.

The regressor's last step is ``M = U W2 + b2``: U ``(I, D)`` belongs to one sample, W2 ``(D, O k k)`` and b2 are shared
by the batch. M's numbers are read in memory order as a kernel ``(O, I, k, k)``. Where ``I = g O``, row ``g o + h`` of M
is output channel o for input channels ``[h O, (h + 1) O)``. With ``V[o, h, d] = U[g o + h, d]``, W2[d] read as
``(O, k, k)`` and x cut into g parts x_h of O channels each:

    delta[o, h] = sum_d V[o, h, d] W2[d] + b2
    conv(x, theta + delta)[o] = conv(x, theta')[o] + sum_{h, d} V[o, h, d] conv(x_h, W2[d])

where theta' = theta + b2 (repeated g times) is shared by the batch. What remains per sample is a 1x1 convolution, which
mixes g D maps. The norm for demodulation, with e = style^2, is a square of a sum:

    sum_{i, k} e_i (theta' + delta)^2 = sum_i e_i sum_k theta'^2                      base
        + 2 sum_{h, d} V[o, h, d] sum_c e_hc C[h, c, o, d]                            C = sum_k theta' W2
        + sum_h sum_{d, f} V[o, h, d] V[o, h, f] sum_c e_hc Q[c, d, f]                Q = sum_k W2[d] W2[f]

so no kernel of one sample is ever made. ``FactoredResidual.mixing_pays`` says what both ways cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hyperinverter.ops.modconv import EPS, convolve, modulated_conv2d, sample_by_sample
from hyperinverter.ops.per_sample import per_sample_conv2d
from hyperinverter.ops.placing import placed
from hyperinverter.ops.policy import policy_of
from hyperinverter.ops.precision import at_least_float32
from hyperinverter.ops.products import affine_of_all


@dataclass(frozen=True)
class FactoredResidual:
    """Residuals of one kernel for a batch: ``(u w2 + b2)`` read in memory order as ``(B, *shape)``."""

    u: Tensor  # (B, I, D)
    w2: Tensor  # (D, O k k)
    b2: Tensor  # (O k k,)
    kernel_shape: tuple[int, ...]  # (O, I, k, k)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(B, O, I, k, k)``, as if it were a tensor."""
        return (len(self.u), *self.kernel_shape)

    def __getitem__(self, samples: slice) -> FactoredResidual:
        """Residuals of some samples."""
        return replace(self, u=self.u[samples])

    @property
    def groups(self) -> int | None:
        """g, the parts that x is cut into; None where I is no multiple of O, so that rows straddle kernels."""
        out_channels, in_channels = self.kernel_shape[:2]
        return None if in_channels % out_channels else in_channels // out_channels

    def materialise(self) -> Tensor:
        """Return the residuals as a tensor, ``(B, *kernel_shape)``."""
        m = torch.addmm(self.b2, self.u.reshape(-1, self.u.shape[-1]), self.w2)
        return m.view(self.shape)

    def scaled(self, strength: float | Tensor) -> FactoredResidual:
        """Multiply by a number, or by one number per sample ``(B,)``."""
        if isinstance(strength, Tensor) and strength.ndim == 1:
            # b2 is no longer the same for all samples: it becomes one more row of w2, with its factor in u
            u = torch.cat([self.u, self.u.new_ones(*self.u.shape[:2], 1)], dim=-1)
            w2 = torch.cat([self.w2, self.b2[None]])
            return replace(
                self, u=u * placed(strength, u)[:, None, None], w2=w2, b2=torch.zeros_like(self.b2)
            )
        return replace(self, u=self.u * strength, b2=self.b2 * strength)

    def mixing_pays(self, pixels_in: int, pixels_out: int) -> bool:
        """Whether mixing needs fewer multiplications than making kernels; the rule of "cheapest".

        Beyond the convolution with theta, which both ways need (k2 = k k, n = pixels):

            kernels   B I O D k2                                        U W2
            mixing    B D (I k2 n_in + g O n_out)                       convolutions with W2, mixing
                      + O I D k2 + B O I D                              C and its sum with e
                      + O D^2 k2 + B (I D^2 + I D^2)                    Q, its sum with e, V Q V

        Mixing wins for few pixels and large batches: with O = I = 512 and D = 128 at 4 and 8 pixels from
        batch 2 on, at 16 pixels from batch 6 on, and never beyond.
        """
        if self.groups is None:
            return False
        batch, in_channels, hidden = self.u.shape
        out_channels, area = self.kernel_shape[0], math.prod(self.kernel_shape[2:])
        pair, square = out_channels * in_channels * hidden, hidden * hidden
        kernels = batch * pair * area
        mixing = batch * hidden * in_channels * (area * pixels_in + pixels_out)
        mixing += pair * (area + batch) + square * (out_channels * area + 2 * batch * in_channels)
        return mixing < kernels


Residual = Tensor | FactoredResidual


def materialised(residual: Residual) -> Tensor:
    """Return residuals of either kind as a tensor, ``(B, *shape)``."""
    return residual.materialise() if isinstance(residual, FactoredResidual) else residual


def all_materialised(residuals: Mapping[str, Residual]) -> dict[str, Tensor]:
    """``materialised`` of each; those of one shape in one product where ``policy.equal_products`` says so."""
    factors = {name: found for name, found in residuals.items() if isinstance(found, FactoredResidual)}
    rows = affine_of_all([(f.b2, f.u.reshape(-1, f.u.shape[-1]), f.w2) for f in factors.values()])
    made = {name: m.view(f.shape) for (name, f), m in zip(factors.items(), rows, strict=True)}
    return {name: made[name] if name in made else materialised(found) for name, found in residuals.items()}


def residual_conv2d(
    x: Tensor,
    weight: Tensor,
    residual: FactoredResidual,
    style: Tensor,
    *,
    up: bool = False,
    gain: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Return ``modulated_conv2d(x, weight + residual.materialise(), style, up=up, gain=gain)``, the cheapest way.

    Where kernels are made, they are made again in the backward pass instead of being kept for it: what autograd
    keeps per sample is u, ``I D`` numbers instead of ``O I k k``. On a CPU only one sample's exist at a time.

    Args:
        x: Features, ``(B, I, H, W)``.
        weight: The batch's kernel theta, ``(O, I, k, k)``.
        residual: Of that kernel.
        style: Scale of each input channel, ``(B, I)``.
        up: As in ``modulated_conv2d``.
        gain: As in ``modulated_conv2d``.

    Returns:
        Features, and the factor ``(B, O, 1, 1)`` that the caller still has to multiply them by, or None.

    Raises:
        ValueError: If the policy is to mix, but the kernel has a layout that does not allow it.
    """
    if _mixing(x, residual, up):
        return _mixed(x, weight, residual, style, up, gain)
    if policy_of(x).per_sample == "loop":
        factors = (residual.u, residual.w2, residual.b2)
        mixed = x.dtype != residual.u.dtype or torch.is_autocast_enabled(x.device.type)
        if mixed or torch.compiler.is_compiling():
            return _one_by_one(x, weight, *factors, style, up=up, gain=gain)

        def plain(*inputs: Tensor) -> Tensor:
            out, factor = _one_by_one(*inputs, up=up, gain=gain)
            return out if factor is None else out * factor

        return per_sample_conv2d(x, weight, *factors, style, plain, up=up, gain=gain), None

    def make() -> Tensor:
        return weight + residual.materialise()

    kernel = make()
    with _made_again(kernel, make):
        return modulated_conv2d(x, kernel, style, up=up, gain=gain)


def delta_conv2d(
    x: Tensor, weight: Tensor, delta: Tensor, style: Tensor, *, up: bool = False, gain: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """Return ``modulated_conv2d(x, weight + delta, style, up=up, gain=gain)`` for residuals ``(B, O, I, k, k)``."""
    if policy_of(x).per_sample == "loop":
        return sample_by_sample(x, (weight + one for one in delta), style, up=up, gain=gain)
    return modulated_conv2d(x, weight + delta, style, up=up, gain=gain)


def _mixing(x: Tensor, residual: FactoredResidual, up: bool) -> bool:
    """Whether to mix maps instead of making kernels."""
    choice = policy_of(x).factored
    if choice == "cheapest":
        pixels = x.shape[-2] * x.shape[-1]
        return residual.mixing_pays(pixels, pixels * (4 if up else 1))
    if choice == "mixing" and residual.groups is None:
        raise ValueError(f"a kernel {residual.kernel_shape} cannot be mixed: I must be a multiple of O")
    return choice == "mixing"


def _one_by_one(
    x: Tensor, weight: Tensor, u: Tensor, w2: Tensor, b2: Tensor, style: Tensor, *, up: bool, gain: float
) -> tuple[Tensor, Tensor | None]:
    """One sample's kernel after the other; autograd makes them again."""
    rows = weight.reshape(u.shape[1], -1) + b2  # theta, cut like M into I rows
    if torch.compiler.is_compiling():  # nothing is made again, and Dynamo of torch 2.6 follows no ExitStack
        made = [torch.addmm(rows, factors, w2).view(weight.shape) for factors in u]
        return sample_by_sample(x, made, style, up=up, gain=gain)
    with ExitStack() as stack:
        kernels = (_kernel(rows, factors, w2, weight.shape, stack) for factors in u)
        return sample_by_sample(x, kernels, style, up=up, gain=gain)


def _kernel(rows: Tensor, u: Tensor, w2: Tensor, shape: torch.Size, stack: ExitStack) -> Tensor:
    """One sample's theta + delta; until ``stack`` closes autograd keeps its factors instead."""

    def make() -> Tensor:
        return torch.addmm(rows, u, w2).view(shape)

    kernel = make()
    stack.pop_all().close()  # the sample before is done
    stack.enter_context(_made_again(kernel, make))
    return kernel


def _mixed(
    x: Tensor, weight: Tensor, residual: FactoredResidual, style: Tensor, up: bool, gain: float
) -> tuple[Tensor, Tensor]:
    out_channels, _, *side = weight.shape
    groups = residual.groups
    assert groups is not None
    batch, hidden = len(x), residual.u.shape[-1]
    shared = weight + residual.b2.view(1, out_channels, *side).repeat(1, groups, 1, 1)
    parts = residual.w2.view(hidden, out_channels, *side)
    v = residual.u.view(batch, out_channels, groups, hidden)

    x = x * style.view(len(x), -1, 1, 1).to(x.dtype)
    if groups == 1:  # one convolution for theta and W2
        both = convolve(x, torch.cat([shared, parts]), up)
        base, maps = both[:, :out_channels], both[:, out_channels:]
    else:
        base = convolve(x, shared, up)
        maps = convolve(x.reshape(batch * groups, out_channels, *x.shape[2:]), parts, up)
    size = base.shape[2:]
    mixed = torch.baddbmm(
        base.reshape(batch, out_channels, -1),
        v.flatten(2).to(base.dtype),
        maps.reshape(batch, groups * hidden, -1),
    )
    factor = (_demodulation(shared, parts, v, style) * gain).view(batch, -1, 1, 1)
    return mixed.view(batch, out_channels, *size), factor


def _demodulation(shared: Tensor, parts: Tensor, v: Tensor, style: Tensor) -> Tensor:
    """The factor ``(B, O)`` of ``ops.modconv.demodulation``, from the factors; see the head of this file."""
    batch, out_channels, groups, hidden = v.shape
    with torch.autocast(shared.device.type, enabled=False):
        shared, parts, v = map(at_least_float32, (shared, parts, v))
        energy = at_least_float32(style).square().view(batch, groups, out_channels)
        theta = shared.view(out_channels, groups, out_channels, -1)  # (O, g, c, k k)
        w2 = parts.view(hidden, out_channels, -1)  # (D, c, k k)
        base = energy.flatten(1) @ theta.square().sum(dim=-1).flatten(1).T
        cross = torch.einsum("ogck,dck->gcod", theta, w2).flatten(2)
        cross = torch.einsum("bgc,gcn->bgn", energy, cross).view(batch, groups, out_channels, hidden)
        square = torch.einsum("dck,fck->cdf", w2, w2).flatten(1)
        square = (energy.flatten(0, 1) @ square).view(batch, groups, hidden, hidden)
        v = v.transpose(1, 2)  # (B, g, O, D)
        norm = base + (v * (2 * cross + v @ square)).sum(dim=(1, 3))
        # A sum of squares in exact arithmetic; rounding can leave a little less than zero.
        return (norm.clamp(min=0) + EPS).rsqrt()


@contextmanager
def _made_again(tensor: Tensor, make: Callable[[], Tensor]) -> Iterator[None]:
    """Within, autograd keeps only how to make ``tensor`` and its views again, not their numbers."""
    # A compiler decides by itself what to keep, and cannot follow the hooks.
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and tensor.requires_grad):
        yield
        return
    storage = tensor.untyped_storage()._cdata
    layout = tensor.dtype
    as_now = _autocast_of(tensor)  # the backward pass runs outside of it

    def pack(kept: Tensor) -> Any:
        if kept.untyped_storage()._cdata != storage or kept.dtype != layout:
            return kept
        return kept.shape, kept.stride(), kept.storage_offset()

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad(), as_now():
            return make().as_strided(*kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _autocast_of(tensor: Tensor) -> Callable[[], AbstractContextManager[Any]]:
    """Makes a context with the autocast that is on, or off, for this tensor's device now."""
    kind = tensor.device.type
    if kind == "meta":  # has none
        return nullcontext
    enabled = torch.is_autocast_enabled(kind)
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind), enabled=enabled)
