"""Which classes a configuration may name. It may come from someone else's run folder, and must not choose code.

Allowed are the classes of this package's networks, losses, judges and tasks, and the optimizers of torch.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from hyperinverter.contracts import UserError, shown

_ALLOWED = re.compile(
    r"(?:hyperinverter\.(?:networks|inversion|losses|judges|tasks)|torch\.optim)(?:\.\w+)+", re.ASCII
)


def check_targets(values: Any, source: object = "the configuration") -> None:
    """Refuse values that name a class of another package in ``_target_``, at any depth; nothing is imported.

    Args:
        values: Dictionaries, lists and what is in them.
        source: Where they come from, for the sentence.

    Raises:
        UserError: With the name.
    """
    for name in _targets(values):
        if not isinstance(name, str) or len(name) > 200 or not _ALLOWED.fullmatch(name):
            raise _refusal(name, source)


def check_classes(values: Any, source: object = "the configuration") -> None:
    """``check_targets``, and every name must lead to a class that was made under it or next to it.

    A name can lead from an allowed module to any other: ``torch.optim.adam.Tensor`` is not a class of torch.optim.

    Raises:
        UserError: With the name.
    """
    check_targets(values, source)
    for name in _targets(values):
        module, _, last = name.rpartition(".")
        try:
            found = getattr(import_module(module), last)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"{name} cannot be built from the configuration: there is no such class"
            ) from error
        if not inspect.isclass(found) or not _ALLOWED.fullmatch(f"{found.__module__}.{found.__qualname__}"):
            raise _refusal(name, source)


def _targets(values: Any) -> Iterator[Any]:
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if "_target_" in value:
                yield value["_target_"]
            waiting.extend(value.values())
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            waiting.extend(value)


def _refusal(name: Any, source: object) -> UserError:
    return UserError(
        f"{source} names the class {shown(name)}, which is not built: write the full name of a class of "
        "hyperinverter's networks, losses, judges or tasks, or of torch.optim; your own class belongs in the file of "
        "its kind, such as src/hyperinverter/networks/fusion.py"
    )
