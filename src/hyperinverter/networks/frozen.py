"""Networks that are used but never trained: they stay in eval mode and out of checkpoints, and load strictly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from hyperinverter.contracts import UserError, shown
from hyperinverter.ops.precision import all_finite

N = TypeVar("N", bound=nn.Module)
HeldT = TypeVar("HeldT", bound="Held")
_LINE = 64  # bytes: the alignment of tensors that PyTorch allocates


class Frozen(nn.Module):
    """A module that is never trained: its parameters need no gradient and ``train()`` leaves it in eval mode.

    Gradients still flow through it to its input.
    """

    def freeze(self: N) -> N:
        """Switch gradients of the parameters off and go to eval mode; call at the end of ``__init__``."""
        self.requires_grad_(False)
        return self.train(False)

    def train(self: N, mode: bool = True) -> N:
        """Stay in eval mode whatever ``mode`` is: the BatchNorm statistics belong to the weights."""
        return super().train(False)


class Held(nn.Module, Generic[N]):
    """Hold a finished network so that its owner can call and move it, and nothing else reaches it.

    The network is kept outside the list of submodules. It therefore

    * moves with its owner (``.to(device)``, ``.cuda()``, ``.double()``: all go through ``_apply``),
    * stays in eval mode whatever ``owner.train()`` says,
    * has no entry in ``owner.state_dict()`` and is not asked for by a strict ``load_state_dict``,
    * is not in ``owner.parameters()``: no optimizer, gradient clipping or DDP broadcast sees it.

    Gradients still flow through it to its inputs. Every process loads its own copy from the same file.

    Args:
        network: Put into eval mode and ``requires_grad_(False)`` for good, in place.
    """

    def __init__(self, network: N) -> None:
        super().__init__()
        self._held = (network.requires_grad_(False).eval(),)  # in a tuple nn.Module does not register it

    @property
    def network(self) -> N:
        """The network itself."""
        return self._held[0]

    def _apply(self: HeldT, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HeldT:
        super()._apply(fn, recurse)
        self.network._apply(fn)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        return self.network(*args, **kwargs)

    def extra_repr(self) -> str:
        return type(self.network).__name__


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into eval mode, and every submodule back into its own mode afterwards."""
    training = [part for part in module.modules() if part.training]
    if training:  # else thousands of small steps change nothing
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], source: str | Path) -> None:
    """Make ``tensors`` the weights of ``module`` (meta device or not); names and shapes must match.

    Tensors are copied to 64-byte alignment: sums over unaligned tensors differ in the last digits.

    Raises:
        UserError: If a tensor is missing, left over or of another shape, naming the first such tensors, or holds
            numbers that are not finite.
    """
    expected = module.state_dict()
    both = expected.keys() & tensors.keys()
    wrong = {
        "missing": sorted(expected.keys() - both),
        "unexpected": sorted(tensors.keys() - both),
        "of another shape": sorted(n for n in both if expected[n].shape != tensors[n].shape),
    }
    if problems := differences(wrong):
        raise UserError(
            f"{source} does not hold the weights of {type(module).__name__}: tensors {problems}; "
            "give the file made for this network"
        )
    broken = next((n for n, t in tensors.items() if t.is_floating_point() and not all_finite(t)), None)
    if broken is not None:
        raise UserError(
            f"{source} holds weights that are not finite numbers ({shown(broken)}): it is damaged, or of a run that "
            "failed to learn; give another file"
        )
    aligned = {n: t.clone() if t.data_ptr() % _LINE else t for n, t in tensors.items()}
    module.load_state_dict(aligned, strict=True, assign=True)


def differences(names: Mapping[str, Sequence[str]]) -> str:
    """How many tensors are wrong in which way, such as ``2 missing (first: a)``; names are printable and cut."""
    return ", ".join(f"{len(of)} {how} (first: {shown(of[0])})" for how, of in names.items() if of)
