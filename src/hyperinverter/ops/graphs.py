"""Calls of one shape recorded once and replayed: what a GPU is asked for, without asking for it operation by operation.

At batch 1 a GPU finishes most operations of an inversion sooner than the host can ask for the next. A CUDA graph is
the complete list, asked for once:

    draw = replayed(model.prepare(inversion))     # edits of one photo
    invert = replayed(model.invert)               # photos that are on the GPU

Both are called like what they replay and return the same numbers. Where that cannot be, they call the function itself,
and ``reason`` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hyperinverter.ops.factored import FactoredResidual
from hyperinverter.ops.policy import policy_of

Result = TypeVar("Result")
_WARM_UP = 3  # calls before the recording: they choose kernels and make handles
_MOST = 4  # recordings of one function; each holds memory for all that happens within


class Replayed(Generic[Result]):
    """A function of one tensor, replayed for each shape it has been called with. See ``replayed``.

    Attributes:
        reason: Why the last call was not replayed; None if it was.
    """

    def __init__(self, function: Callable[[Tensor], Result]) -> None:
        self.function = function
        self.reason: str | None = "not called yet"
        self._recorded: dict[Any, tuple[_Recording, Tensor, Result]] = {}
        self._refused: dict[Any, str] = {}

    def __call__(self, x: Tensor) -> Result:
        """The function's result for ``x``, in tensors of its own."""
        key = (x.shape, x.dtype, x.device)
        self.reason = self._why_not(x, key)
        if self.reason is None and key not in self._recorded:
            try:
                self._recorded[key] = _record(self.function, x)
            except RuntimeError as error:  # such as an operation that makes the host wait
                self.reason = self._refused[key] = f"it cannot be recorded: {str(error).splitlines()[0]}"
        if self.reason is not None:
            return self.function(x)
        recording, given, result = self._recorded[key]
        given.copy_(x)
        recording.replay()
        return _copied(result)

    def _why_not(self, x: Tensor, key: Any) -> str | None:
        if not policy_of(x).graphs:
            return f"ops.policy does not record on the device {x.device.type!r}"
        if torch.is_grad_enabled():
            return "gradients are recorded: call it under torch.no_grad()"
        if key not in self._recorded and len(self._recorded) == _MOST:
            return f"{_MOST} other shapes are recorded"
        return self._refused.get(key)


def replayed(function: Callable[[Tensor], Result]) -> Replayed[Result]:
    """Return a function that gives the same results by replaying, on devices whose policy says ``graphs``.

    The first call with a shape runs the function a few times and records it; from then on its weights are read from
    where they were, so the model must stay on its device. Call it under ``torch.no_grad()``.

    Args:
        function: Of one tensor on a GPU; returns a tensor, or a dataclass, dictionary, tuple or list of tensors. It
            must do the same for every input of a shape, and not look at its numbers.
    """
    return Replayed(function)


class _Recording:
    """A CUDA graph; tests put another in its place."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def record(self, call: Callable[[], Result]) -> Result:
        """Run ``call`` to warm up, then record it; what it returns is written again by ``replay``."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                call()
            # What makes the host wait cannot be recorded. PyTorch would say so in the middle of a recording, and draw
            # no random numbers from then on.
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph):
            return call()

    def replay(self) -> None:
        self.graph.replay()


def _record(function: Callable[[Tensor], Result], x: Tensor) -> tuple[_Recording, Tensor, Result]:
    given, recording = x.clone(), _Recording()
    kind = x.device.type

    def call() -> Result:
        # Autocast keeps weights in half precision from the first use to its end. A recording that used such copies
        # from before would read memory that has become something else's; within, they are made again each time.
        enabled, half = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.autocast(kind, half, enabled, cache_enabled=False):
            return function(given)

    return recording, given, recording.record(call)


def _copied(result: Any) -> Any:
    """The same with tensors that the next replay does not write over."""
    if isinstance(result, FactoredResidual):  # its other factors are the same for all photos
        return replace(result, u=result.u.clone())
    if isinstance(result, dict):
        return {name: _copied(value) for name, value in result.items()}
    if hasattr(result, "__dataclass_fields__"):
        fields = {name: _copied(getattr(result, name)) for name in result.__dataclass_fields__}
        return type(result)(**fields)
    return tree_map_only(Tensor, Tensor.clone, result)
