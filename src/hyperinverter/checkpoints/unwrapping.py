"""One step before every reader: the tensors of a network, out of whatever they are wrapped in.

The same tensors come bare, in containers (``{"state_dict": ...}``), as module objects, under the name of a part
(``decoder.``), and with names that wrappers such as DataParallel have lengthened (``module.``). Readers look for the
names they know and do not care which it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hyperinverter.checkpoints.pickles import (
    Record,
    StoredTensor,
    Unreadable,
    dictionary,
    modules_of,
    tensors_of,
)
from hyperinverter.checkpoints.shapes import under
from hyperinverter.contracts import shown

# Keys that say nothing of what is behind them.
_CONTAINERS = (
    *("state_dict", "model_state_dict", "model", "module", "net", "network", "weights"),
    *("params_ema", "params", "ema"),
)
# What wrappers add to names: DataParallel and DDP, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_MOST_LAYERS = 4  # of containers in containers, and of common prefixes
_MOST_CONTAINERS = 100  # that are looked into


@dataclass(frozen=True)
class Unwrapped:
    """Tensors by name, and what was said around them."""

    stored: dict[str, Any]  # name -> a tensor, or one that is still in its file
    modules: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # path -> attributes, if it was an object
    around: tuple[Mapping[Any, Any], ...] = ()  # the dictionaries it was found in, innermost first

    def said(self, *keys: str) -> Any:
        """The first value under one of these keys, from the inside outwards; None if there is none."""
        found = (place[key] for place in (self.stored, *self.around) for key in keys if key in place)
        return next((value for value in found if value is not None), None)

    def option(self, *names: str) -> Any:
        """An option among those that the file was trained with (``opts`` or ``args``); None if it has none."""
        for options in (self.said("opts"), self.said("args")):
            held = (options.attributes or {}) if isinstance(options, Record) else options
            if isinstance(held, dict):
                for name in names:
                    if held.get(name) is not None:
                        return held[name]
        return None

    def part(self, prefix: str) -> Unwrapped:
        """What is below a path."""
        modules = {path: held for path, held in self.modules.items() if path.startswith(f"{prefix}.")}
        below = {prefix: self.modules[prefix]} if prefix in self.modules else {}
        return Unwrapped(
            under(self.stored, prefix),
            {path[len(prefix) + 1 :]: held for path, held in (below | modules).items()},
            self.around,
        )


def unwrap(
    content: Any,
    known: Callable[[Mapping[str, Any]], bool],
    places: Sequence[str] = (),
    parts: Sequence[str] = (),
) -> Unwrapped | None:
    """Find the tensors of a network.

    Args:
        content: What a file holds.
        known: Whether a state dict with these names is one.
        places: Keys, and beginnings of names, under which the network is kept, best first.
        parts: Names of parts of the network that may be dictionaries or modules of their own.

    Returns:
        The first that is known; None if there is none.

    Raises:
        Unreadable: If there is none, and an object that was not read stands where it is kept; or if there are several
            under names that say nothing.
    """
    for found in _candidates(content, (), places, parts, set()):
        if known(found.stored):
            return found
    elsewhere = _elsewhere(content, known, places, parts)
    if len(elsewhere) == 1:
        return next(iter(elsewhere.values()))
    if elsewhere:
        listed = ", ".join(shown(key) for key in list(elsewhere)[:5])
        raise Unreadable(
            f"holds several networks of this kind ({listed})",
            "save the one that is meant alone: torch.save(torch.load(FILE)[KEY], NEW_FILE)",
        )
    for key in (*places, *_CONTAINERS) if isinstance(content, dict) else ():
        if isinstance(content.get(key), Record) and not content[key].is_module:
            dictionary(content[key])  # says what it is
    return None


def _elsewhere(
    content: Any, known: Callable[[Mapping[str, Any]], bool], places: Sequence[str], parts: Sequence[str]
) -> dict[Any, Unwrapped]:
    """Networks under names that nobody has heard of, and in lists."""
    if isinstance(content, dict):
        items = [(key, held) for key, held in content.items() if isinstance(key, str)]
    elif isinstance(content, (list, tuple)):
        items = [(str(number), held) for number, held in enumerate(content)]
    else:
        return {}
    seen: set[int] = set()  # of all together: their number is bounded
    found = {}
    for key, held in items:
        candidates = _candidates(held, (), places, parts, seen)
        first = next((candidate for candidate in candidates if known(candidate.stored)), None)
        if first is not None:
            found[key] = first
    return found


def is_network(value: Any) -> bool:
    """Whether a value may be a network: a module object, or a dictionary that is not empty."""
    return value.is_module or bool(value.pairs) if isinstance(value, Record) else bool(value)


def _candidates(
    content: Any,
    around: tuple[Mapping[Any, Any], ...],
    places: Sequence[str],
    parts: Sequence[str],
    seen: set[int],
) -> Iterator[Unwrapped]:
    if id(content) in seen or len(seen) >= _MOST_CONTAINERS or len(around) > _MOST_LAYERS:
        return
    seen.add(id(content))
    if isinstance(content, Record) and content.is_module:
        modules = modules_of(content)
        yield from _readings(Unwrapped(tensors_of(modules), modules, around), places)
        return
    if isinstance(content, Record) and content.pairs:
        content = dictionary(content)
    if not isinstance(content, dict):
        return
    around = (content, *around)
    for key in dict.fromkeys((*places, *_CONTAINERS)):
        if isinstance(content.get(key), (dict, Record)):
            yield from _candidates(content[key], around, places, parts, seen)
    yield from _readings(Unwrapped(_flat(content, parts), around=around), places)


def _flat(content: Mapping[Any, Any], parts: Sequence[str]) -> dict[str, Any]:
    """The entries of a state dict, those of parts that are dictionaries or modules of their own included."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        if name in parts and isinstance(value, Record) and value.is_module:
            value = tensors_of(modules_of(value))
        if name in parts and isinstance(value, dict):
            flat |= {f"{name}.{inner}": held for inner, held in value.items() if isinstance(inner, str)}
        elif "." in name or isinstance(value, (Tensor, StoredTensor)):
            flat[name] = value
    return flat


def _readings(found: Unwrapped, places: Sequence[str]) -> Iterator[Unwrapped]:
    """The tensors as they are named, below one of ``places``, and without a prefix that all names share."""
    found = Unwrapped(_without_wrappers(found.stored), _without_wrappers(found.modules), found.around)
    for _ in range(_MOST_LAYERS):
        for place in places:
            if (part := found.part(place)).stored:
                yield part
        yield found
        first = {name.split(".", 1)[0] for name in itertools.islice(found.stored, 1)}
        if len(first) != 1 or not all(name.startswith(f"{next(iter(first))}.") for name in found.stored):
            return
        found = found.part(first.pop())


def _without_wrappers(named: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what wrappers add to names; where two names would become one, all stay."""
    clean = {_clean(name): value for name, value in sorted(named.items(), key=lambda item: len(item[0]))}
    collision = len(clean) < len(named) and not all(isinstance(value, dict) for value in clean.values())
    return dict(named) if collision else {_clean(name): clean[_clean(name)] for name in named}


def _clean(name: str) -> str:
    if not any(wrapper in name for wrapper in _WRAPPERS):
        return name
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def has(names: Iterable[str], *starts: str) -> bool:
    """Whether any name begins with one of these."""
    return any(name.startswith(starts) for name in names)
