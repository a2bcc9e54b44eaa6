"""Which of several equal ways each kind of device takes. The results are the same up to rounding.

Here is what depends on the device. What depends on sizes as well is decided by a rule next to the arithmetic it
counts, wherever the policy leaves the choice to it:

    ``winograd.pays``                   few multiplications or the direct convolution
    ``FactoredResidual.mixing_pays``    factored residuals: mix maps or make kernels
    ``modconv.on_kernel``               style and demodulation: on the features or on the kernel
    ``modconv.one_by_one_pays``         kernels of each sample's own: one convolution each or a grouped one
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

    # Kernels of each sample's own. "loop": made, used and dropped one after the other; a CPU loses a factor of 2 to
    # 3.5 with groups. "grouped": made at once, used in one grouped convolution. "by_size": made at once, used one by
    # one where maps are large: on a GPU groups want a layout that all other operations are slower in, and many
    # launches for small maps cost more than they save.
    per_sample: Literal["loop", "grouped", "by_size"]
    # 3x3 convolutions with a quarter of the multiplications. cuDNN chooses such algorithms itself.
    winograd: Literal["where_it_pays", "never", "always"]
    # Bring images and features into that layout before convolutions: 1.1 to 3.6 times faster on a CPU, 1.3 to 2.4 times
    # on an H100 in bfloat16 ("half": there and in float16 alone).
    channels_last: Literal["always", "half", "never"]
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
    # Pixels of a map whose colours are one matrix product, None for all. Its gradient by the weights is a sum over
    # pixels with three results for each channel, which a GPU gives to one of its processors, however long it is.
    colour_pixels: int | None
    # Filter and finish features in one pass, with kernels of our own (``ops.fused``).
    fused: bool
    # The layout that features are filtered in where no kernel of our own does it. cuDNN takes 3.5 times as long in
    # channels_last as in the other.
    filter_layout: Literal["channels_last", "as_given"]
    # Factored residuals: mix maps, make kernels, or what needs fewer multiplications.
    factored: Literal["cheapest", "mixing", "kernels"] = "cheapest"


GPU = Policy(  # and all other devices
    per_sample="by_size",
    winograd="never",
    channels_last="half",
    largest_map=None,
    regressors="together",
    equal_products="cheapest",
    graphs=True,
    fused_optimizer=True,
    matrices_repeat=True,
    colour_pixels=4096,
    fused=True,
    filter_layout="as_given",
)
CPU = Policy(
    per_sample="loop",
    winograd="where_it_pays",
    channels_last="always",
    largest_map=2**24,
    regressors="loop",
    equal_products="each",
    graphs=False,
    fused_optimizer=False,
    matrices_repeat=False,
    colour_pixels=None,
    fused=False,
    filter_layout="channels_last",
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
    wanted = policy_of(x).channels_last
    if wanted == "always" or (wanted == "half" and _in_half(x)):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _in_half(x: Tensor) -> bool:
    if x.dtype in (torch.bfloat16, torch.float16):
        return True
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)  # which has no autocast
