"""A GPU that is not there: tensors without values whose device is ``cuda``, and a watch for what makes the host wait.

PyTorch's fake tensors refuse an operation on tensors of two devices, as a GPU does. Backward passes need a real device
(the engine asks the driver): ``make test-gpu`` runs those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "cuda"
_WAITING = {  # operations whose result the host needs
    torch.ops.aten._local_scalar_dense.default: "item(), float(), int() or bool() of a tensor",
    torch.ops.aten.nonzero.default: "nonzero()",
    torch.ops.aten.masked_select.default: "a mask as an index",
}


def moved(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Replace all tensors of a module, and of what it holds outside ``modules()``, by tensors of the other device."""
    seen: set[int] = set()
    waiting: list[Any] = [module]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or not isinstance(part, nn.Module):
            continue
        seen.add(id(part))
        waiting += [*part.children(), *vars(part).values()]
        for value in vars(part).values():
            waiting += [*value] if isinstance(value, (list, tuple)) else []
        with mode:
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=DEVICE)
                    part._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=DEVICE)
    return module


class Watch(TorchDispatchMode):
    """Notes every operation that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function in _WAITING:
            self.found.append(_WAITING[function])
        if function is torch.ops.aten._to_copy.default:
            there, waits = str((named or {}).get("device")), not (named or {}).get("non_blocking")
            if "cpu" in there:
                self.found.append("a copy to the host")
            elif DEVICE in there and waits and given[0].device.type == "cpu":
                self.found.append("a copy from the host")
        if function is torch.ops.aten.index.Tensor and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in given[1]
        ):
            self.found.append("a mask as an index")
        return function(*given, **(named or {}))


@contextmanager
def watched() -> Iterator[Watch]:
    """Note what makes the host wait within."""
    with Watch() as watch:
        yield watch
