"""Products of one shape in one launch: what many small layers ask of a GPU one by one.

A product of stacked weights needs them next to each other, so biases, inputs and weights are copied first: three more
launches, and two more passes over the weights, where the product makes one. Counted, and not measured on any card:

- it saves launches from five products of one shape on;
- at 2 to 3 TB/s a copy of ``SMALL`` numbers takes about as long as a launch, 3 to 5 microseconds. Larger weights are
  multiplied one by one, for example the 8 million numbers that a hypernetwork has for a kernel of 512 input channels.

At 1024 px with the coverage ``convs_torgb`` a hypernetwork makes 364 operations one regressor after the other, 81 with
these products one by one, 75 by this rule, and 69 all at once, which copies 153 million numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperinverter.ops.policy import policy_of

SMALL = 2**20  # numbers of a weight up to which copying takes no longer than a launch
FEW = 4  # launches of one product at once
Product = tuple[Tensor, Tensor, Tensor]


def copying_pays(count: int, weight: Tensor) -> bool:
    """Whether a number of weights of this shape are put together; the rule of "cheapest"."""
    return count > FEW and weight.numel() <= SMALL


def affine_of_all(products: Sequence[Product]) -> list[Tensor]:
    """``bias + x @ weight`` of each, those of one shape at once where ``policy.equal_products`` says so.

    Args:
        products: bias ``(N,)``, x ``(M, K)`` and weight ``(K, N)`` of each, on one device and of one type.

    Returns:
        ``(M, N)`` of each, in their order.
    """
    if not products or policy_of(products[0][1]).equal_products == "each":
        return [torch.addmm(*product) for product in products]
    found: dict[int, Tensor] = {}
    for places in _groups(products):
        if len(places) == 1:
            found[places[0]] = torch.addmm(*products[places[0]])
            continue
        biases, inputs, weights = (
            torch.stack(parts) for parts in zip(*(products[n] for n in places), strict=True)
        )
        together = torch.baddbmm(biases.unsqueeze(1), inputs, weights)  # (number of places, M, N)
        found.update(zip(places, together.unbind(), strict=True))
    return [found[place] for place in range(len(products))]


def _groups(products: Sequence[Product]) -> list[list[int]]:
    """Places of products that are computed at once."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, (_, x, weight) in enumerate(products):
        alike.setdefault((*x.shape, *weight.shape), []).append(place)
    every = policy_of(products[0][1]).equal_products == "together"
    groups: list[list[int]] = []
    for places in alike.values():
        at_once = every or copying_pays(len(places), products[places[0]][2])
        groups += [places] if at_once else [[place] for place in places]
    return groups
