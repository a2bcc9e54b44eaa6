"""Which of several equal ways each kind of device takes. The results are the same up to rounding.

Here is what depends on the device. What depends on sizes as well is decided by a rule next to the arithmetic it
counts, wherever the policy leaves the choice to it:

    ``winograd.pays``                   few multiplications or the direct convolution
    ``FactoredResidual.mixing_pays``    factored residuals: mix maps or make kernels
    ``modconv.on_kernel``               style and demodulation: on the features or on the kernel
    ``products.copying_pays``           weights of one shape: put together for one product or one by one

Tests and benchmarks change the choice for a while: ``with policy(winograd="never"): ...``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Policy:
    """The choices of one kind of device; the figures are measured (outputs/published/bench)."""

    # One convolution per sample with kernels of its own, or one grouped convolution for the batch. A CPU loses a
    # factor of 2 to 3.5 with groups; a GPU loses more to many small launches.
    per_sample: Literal["loop", "grouped"]
    # 3x3 convolutions with a quarter of the multiplications. cuDNN chooses such algorithms itself.
    winograd: Literal["where_it_pays", "never", "always"]
    # Bring images and features into that layout before convolutions: 1.1 to 3.6 times faster on a CPU.
    channels_last: bool
    # Numbers in a feature map from which a batch is drawn in parts, None for no limit. On a CPU the batch is then no
    # faster than its parts and takes more memory.
    largest_map: int | None
    # The hypernetwork's regressors one after the other, or each operation once for all of them. A GPU waits for many
    # small launches; a CPU loses with groups.
    regressors: Literal["loop", "together"]
    # Matrix products of one shape (``ops.products``): each alone, all at once, or at once where copying weights pays.
    equal_products: Literal["each", "cheapest", "together"]
    # Calls given to ``ops.graphs.replayed`` are recorded once and replayed.
    graphs: bool
    # Adam's step in one launch instead of one per operation; in float32 the same numbers up to rounding.
    fused_optimizer: bool
    # Where exact repeats are wanted, resize by matrix products (``ops.resample.repeatable``): a CPU repeats anyway.
    matrices_repeat: bool
    # Factored residuals: mix maps, make kernels, or what needs fewer multiplications.
    factored: Literal["cheapest", "mixing", "kernels"] = "cheapest"
    # The layout that features are filtered in, and keep from there on; the second is not measured on any device.
    filter_layout: Literal["channels_last", "as_given"] = "channels_last"


GPU = Policy(  # and all other devices
    per_sample="grouped",
    winograd="never",
    channels_last=False,
    largest_map=None,
    regressors="together",
    equal_products="cheapest",
    graphs=True,
    fused_optimizer=True,
    matrices_repeat=True,
)
CPU = Policy(
    per_sample="loop",
    winograd="where_it_pays",
    channels_last=True,
    largest_map=2**24,
    regressors="loop",
    equal_products="each",
    graphs=False,
    fused_optimizer=False,
    matrices_repeat=False,
)
TABLE: dict[str, Policy] = {"cpu": CPU}

# Plain globals, not context variables: the backward pass may run in autograd's own threads.
_base: Policy | None = None
_changes: dict[str, Any] = {}


def policy_of(tensor: Tensor) -> Policy:
    """The policy for the device a tensor is on."""
    found = TABLE.get(tensor.device.type, GPU) if _base is None else _base
    return replace(found, **_changes) if _changes else found


@contextmanager
def policy(base: Policy | None = None, **changes: Any) -> Iterator[None]:
    """Within, choose differently: for tests and benchmarks, in one thread. Also a decorator.

    Args:
        base: The policy of every device; None keeps each device's own.
        changes: Fields of ``Policy`` to change in it, such as ``winograd="never"``. Policies may be nested.

    Raises:
        TypeError: For a field that ``Policy`` does not have.
    """
    global _base, _changes
    before = _base, _changes
    if base is not None:
        _base, _changes = base, {}
    _changes = _changes | changes
    try:
        replace(_base or GPU, **_changes)  # so that a wrong name is reported here
        yield
    finally:
        _base, _changes = before


def fast_layout(x: Tensor) -> Tensor:
    """Return images or features ``(B, C, H, W)`` in the layout that convolutions on their device run fastest in."""
    return x.contiguous(memory_format=torch.channels_last) if policy_of(x).channels_last else x
