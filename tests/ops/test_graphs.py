"""Replaying: the numbers of the function itself, for any input of a shape, in tensors of the caller's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hyperinverter.ops import graphs
from hyperinverter.ops.factored import FactoredResidual
from hyperinverter.ops.graphs import replayed
from hyperinverter.ops.policy import policy


@dataclass(frozen=True)
class Drawn:
    image: Tensor
    residuals: dict[str, Tensor]
    factors: dict[str, FactoredResidual]


W2, B2 = torch.ones(3, 4), torch.ones(4)


def draw(x: Tensor) -> Drawn:
    return Drawn(x * 2 + 1, {"a": x.sum(-1)}, {"b": FactoredResidual(x[None] * 3, W2, B2, (4, 2))})


class Imitated:
    """Records as a CUDA graph does: replaying reads the same input and writes the same outputs."""

    def record(self, call: Callable[[], Any]) -> Any:
        self.call, self.result = call, call()
        return self.result

    def replay(self) -> None:
        for old, new in zip(self.tensors(self.result), self.tensors(self.call()), strict=True):
            old.copy_(new)

    @staticmethod
    def tensors(result: Any) -> list[Tensor]:
        found: list[Tensor] = []
        tree_map_only(Tensor, found.append, vars(result) if isinstance(result, Drawn) else result)
        return found + [each.u for each in getattr(result, "factors", {}).values()]


@pytest.fixture
def _recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(graphs, "_Recording", Imitated)
    with policy(graphs=True), torch.no_grad():
        yield


@pytest.mark.usefixtures("_recorder")
def test_results_are_those_of_the_function_and_stay() -> None:
    fast = replayed(draw)
    inputs = torch.randn(4, 2, 3)
    results = [fast(x) for x in inputs]
    assert fast.reason is None
    for x, result in zip(inputs, results, strict=True):
        assert torch.equal(result.image, draw(x).image)
        assert torch.equal(result.residuals["a"], draw(x).residuals["a"])
        assert torch.equal(result.factors["b"].u, draw(x).factors["b"].u)
        assert result.factors["b"].w2 is W2  # shared by all photos: not copied


@pytest.mark.usefixtures("_recorder")
def test_every_shape_has_a_recording_until_there_are_many() -> None:
    calls = []
    fast = replayed(lambda x: (calls.append(len(x)), x + 1)[1])
    for size in (1, 2, 3, 4, 5):
        assert torch.equal(fast(torch.ones(size)), torch.full((size,), 2.0))
    assert fast.reason == "4 other shapes are recorded"
    fast(torch.zeros(2))
    assert fast.reason is None


def test_elsewhere_the_function_is_called_and_the_reason_kept() -> None:
    fast, x = replayed(draw), torch.randn(2, 3)
    with torch.no_grad():
        assert torch.equal(fast(x).image, draw(x).image)
        assert fast.reason == "ops.policy does not record on the device 'cpu'"
    with policy(graphs=True):
        fast(x)
        assert fast.reason is not None
        assert "torch.no_grad()" in fast.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="a graph can be recorded here")
def test_what_cannot_be_recorded_is_called_and_tried_once() -> None:
    fast, x = replayed(draw), torch.randn(2, 3)
    with policy(graphs=True), torch.no_grad():
        for _ in range(2):
            assert torch.equal(fast(x).image, draw(x).image)
            assert fast.reason is not None
            assert fast.reason.startswith("it cannot be recorded: ")
