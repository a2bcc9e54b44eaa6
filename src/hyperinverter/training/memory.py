"""What a run will need: parameters, and memory for weights, gradients, optimizer state and activations.

The passes of a training step are played once with tensors that have shapes but no content. A ledger adds every buffer
when it appears and takes it off when nothing holds it any more. That follows any choice of fusion, coverage, backbone,
loss and batch size without a formula for each, in seconds and without touching the weights.
"""

from __future__ import annotations

import copy
import math
import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hyperinverter.contracts import UserError
from hyperinverter.networks.frozen import Held
from hyperinverter.ops.policy import policy
from hyperinverter.system.machine import GB, keep_freed_memory, resident_bytes, return_freed_memory
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.tasks.phase2 import PhaseIIHyper

_CUDA_CONTEXT = 600_000_000  # bytes a CUDA process takes for kernels and workspaces before the first tensor
_KEPT_BELOW = 4 * GB  # what small steps free is kept for the next one
_PROBE = 4096  # elements of the parameter that shows what an optimizer keeps


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes on the device that trains, by what they are for."""

    weights: int  # all networks, frozen ones and judges too
    gradients: int
    optimizer: int  # and the average of the trained weights, if one is kept
    activations: int  # what the step holds at its fullest moment beyond the gradients
    process: int  # the program and its libraries

    @property
    def total(self) -> int:
        """Their sum: the fullest moment of training."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.process

    def parts(self) -> dict[str, int]:
        """The five numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {size / GB:.2f}" for name, size in self.parts().items())
        return f"about {self.total / GB:.1f} GB ({listed})"


def memory_need(
    task: PhaseTask,
    batch_size: int,
    *,
    device: str = "cpu",
    precision: str = "32-true",
    processes: int = 1,
    average: bool = False,
) -> MemoryNeed:
    """Estimate the memory that training takes in one process.

    Args:
        task: As assembled; left as it is.
        batch_size: Photos per step in this process.
        device: "cpu" or "cuda"; each holds something else next to tensors.
        precision: Lightning's name; with "-mixed" the step is played in half precision.
        processes: How many train together; several keep their gradients twice, once for exchanging them.
        average: Whether an average of the trained weights is kept next to them.

    Returns:
        The need in the steady state, from the second step on.
    """
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    weights = sum(map(_size, _tensors(task)))
    gradients = sum(map(_size, trained))
    optimizer = round(gradients * _state_per_weight(task))
    if average:
        optimizer += sum(_size(p) for p in task.inverter.parameters() if p.requires_grad)
    step = _step_peak(task, batch_size, half=precision.endswith("-mixed"))
    # Temporaries of Adam: of all weights at once on a GPU (foreach), of one tensor after another on a CPU.
    temporary = gradients if device == "cuda" else 2 * max(map(_size, trained))
    working = max(step, gradients + temporary)
    process = _CUDA_CONTEXT if device == "cuda" else max(resident_bytes() - weights, 0)
    if processes > 1:
        gradients, working = 2 * gradients, working + gradients
    return MemoryNeed(weights, gradients, optimizer, working - gradients, process)


def check_memory(need: MemoryNeed, available: int, advice: str) -> None:
    """Stop before the hours if training cannot fit.

    Args:
        need: What training needs.
        available: Bytes it can have, this process included.
        advice: What to change, for the message.

    Raises:
        UserError: If the need is above what is there by more than the estimate can be wrong (a fifth).
    """
    if need.total > 1.2 * available:
        raise UserError(
            f"training needs {need}, and {available / GB:.1f} GB are there: {advice}; check_memory=false tries anyway"
        )


def prepare_allocator(need: MemoryNeed) -> None:
    """Have the C library treat freed memory as this size of training asks for, on a CPU.

    Kept memory saves 3 % of a small step's time. In a large step the pieces that lie free add up
    (outputs/published/paper_scale).
    """
    if need.total < _KEPT_BELOW:
        keep_freed_memory()
    else:
        return_freed_memory()


# Playing a step ------------------------------------------------------------------------------------------


class _Ledger(TorchDispatchMode):
    """Bytes of all tensors made while it is active that are still held, and the most there were at once."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet(
            tensor.untyped_storage() for tensor in known
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._strike, size)

    def _strike(self, size: int) -> None:
        self.held -= size


def _step_peak(task: PhaseTask, batch_size: int, *, half: bool) -> int:
    """Most bytes held at once in a training step beyond weights and optimizer state."""
    # Direct convolutions: the others hold little more for a moment, in so many small steps that playing takes longer.
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        policy(winograd="never"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about what only matters where numbers are computed
        twin = without_content(task, mode)
        ledger = _Ledger(_tensors(twin))
        resolution = cast(int, twin.inverter.resolution)
        with ledger, torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            for parameter in twin.parameters():
                if parameter.requires_grad:  # of the step before: dropped between the next two passes
                    parameter.grad = torch.empty_like(parameter)
            photo = torch.empty(batch_size, 3, resolution, resolution)
            twin.train()
            _play_step(twin, _largest_part(twin, photo))
            if isinstance(twin, PhaseIIHyper) and twin.discriminator is not None:
                _play_step_with_discriminator(twin, _largest_part(twin, photo[: twin.adv_batch_size]))
    return ledger.peak


def _largest_part(task: PhaseTask, photo: Tensor) -> Tensor:
    """What of a batch is computed at once."""
    return photo[: math.ceil(len(photo) / task.accumulate)]


def _play_step(task: PhaseTask, photo: Tensor) -> None:
    total = task.forward_pass(photo).total
    if task.accumulate == 1:  # else those of the parts before are there
        _drop_gradients(task.inverter)
    total.backward()


def _play_step_with_discriminator(task: PhaseIIHyper, photo: Tensor) -> None:
    """The fullest kind of step: the inverter's, the discriminator's, and the R1 penalty."""
    assert task.discriminator is not None
    task.discriminator.requires_grad_(False)
    done = task.forward_pass_with_discriminator(photo)
    if task.accumulate == 1:
        _drop_gradients(task.inverter)
    done.total.backward()
    task.discriminator.requires_grad_(True)
    image = done.image.detach()
    del done  # as after the step's own backward pass: only its numbers are kept
    for forward in (lambda: task.discriminator_pass(photo, image), lambda: task.penalty_pass(photo)):
        loss = forward()
        _drop_gradients(task.discriminator)
        loss.backward()
        del loss


def _drop_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None


def without_content(task: PhaseTask, mode: FakeTensorMode) -> PhaseTask:
    """A copy of a task whose tensors have shapes only."""
    memo: dict[int, Any] = {id(tensor): mode.from_tensor(tensor) for tensor in _tensors(task)}
    return copy.deepcopy(task, memo)


def _tensors(module: nn.Module) -> list[Tensor]:
    """Every parameter and buffer once, those of networks that are held outside the list of submodules too."""
    found: dict[int, Tensor] = {}
    for part in _modules(module):
        for tensor in [*part._parameters.values(), *part._buffers.values()]:
            if tensor is not None:
                found[id(tensor)] = tensor
    return list(found.values())


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    for part in module.modules():
        yield part
        if isinstance(part, Held):
            yield from _modules(part.network)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _state_per_weight(task: PhaseTask) -> float:
    """How many bytes the optimizer keeps for each byte of weights, tried on a small parameter."""
    probe = nn.Parameter(torch.zeros(_PROBE))
    probe.grad = torch.zeros(_PROBE)
    optimizer = task.make_optimizer([probe])
    optimizer.step()
    kept = [
        value for value in optimizer.state[probe].values() if isinstance(value, Tensor) and value.numel() > 1
    ]
    return sum(map(_size, kept)) / _size(probe)
