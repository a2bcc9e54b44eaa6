"""What a folder may bring back: the overrides in someone else's run card or sweep record must not run code.

An override of Hydra's own settings can start any function, and an option of a group can be a file outside of ``conf/``.
Neither is ever taken from a file. Settings of the sweep itself, such as the jobs at once, are taken where they are
numbers, switches or words.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

from hyperinverter.config.groups import conf_dir, options_of
from hyperinverter.config.targets import check_targets
from hyperinverter.contracts import UserError, shown
from hyperinverter.system.terminal import write

_MOST, _LETTERS = 500, 50_000  # overrides of a command, letters of all of them
_KEY = re.compile(r"[\w./]+", re.ASCII)
_RESOLVER = re.compile(r"\$\{[^}]*:")  # such as ${oc.env:NAME}; ${phase.kimg} is a reference and welcome


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def _is_word(value: Any) -> bool:
    return value is None or (
        isinstance(value, str) and re.fullmatch(r"[\w.-]{1,64}", value, re.ASCII) is not None
    )


def _are_numbers(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_number, value)))


# Settings of a sweep that its record may bring back. Not among them: whatever holds commands, options or other keys
# (hydra.launcher.setup and additional, hydra.sweeper.factors and space).
SWEEP_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "hydra/launcher": lambda value: value in ("fresh", "slurm"),
    "hydra/sweeper": lambda value: value in ("study", "optuna"),
    **{
        f"hydra.launcher.{name}": _is_number
        for name in (
            *("jobs", "fail_fast", "grace", "timeout_min", "nodes", "tasks_per_node", "gpus_per_node"),
            *("cpus_per_task", "mem_gb", "requeues", "warning_seconds", "poll"),
        )
    },
    **{f"hydra.launcher.{name}": _is_word for name in ("partition", "account", "qos", "constraint")},
    **{f"hydra.sweeper.{name}": _is_number for name in ("top", "trials", "at_once", "prune", "seed")},
    **{f"hydra.sweeper.{name}": _is_word for name in ("design", "sampler")},
    **{f"hydra.sweeper.{name}": _are_numbers for name in ("seeds", "top_seeds")},
}


def carried(written: Any, source: Path, again: Sequence[str], sweep: bool = False) -> list[str]:
    """The overrides that a record may bring back; what is left out is reported on stderr.

    Args:
        written: What the record holds; it may be anything.
        source: The record, for the sentences.
        again: Keys that the resumed command sets itself.
        sweep: Whether it is the record of a sweep, which may hold ``-m`` and settings of the sweep.

    Raises:
        UserError: If it is no list of overrides, or one of them names a file as an option or a foreign class.
    """
    if not isinstance(written, list) or not all(isinstance(item, str) for item in written):
        raise UserError(
            f"{source} does not hold a list of overrides: it is damaged or of another kind; start a new run"
        )
    if len(written) > _MOST or sum(map(len, written)) > _LETTERS:
        raise UserError(f"{source} holds more overrides than any command; start a new run")
    taken, left = [], []
    for item in written:
        if item in ("-m", "--multirun") and sweep:
            taken.append(item)
        elif item.startswith("-"):
            left.append(item)
        elif item.lstrip("+~").split("=", 1)[0] not in again:
            (taken if _may_return(_parsed(item, source), source, sweep) else left).append(item)
    if left:
        listed = ", ".join(shown(item) for item in left[:5]) + (
            f" and {len(left) - 5} more" if len(left) > 5 else ""
        )
        write(f"not taken over from {source}: {listed}; type it again where it is meant\n")
    return taken


def _parsed(item: str, source: Path) -> Override:
    try:
        return OverridesParser.create().parse_override(item)
    except (HydraException, RecursionError, ValueError) as error:
        raise UserError(f"{source} holds '{shown(item)}', which is no override; start a new run") from error


def _may_return(override: Override, source: Path, sweep: bool) -> bool:
    """Whether an override is taken over; hydra's own settings are not, but for those of a sweep."""
    key, values = override.key_or_group, list(single_values(override.value()))
    if re.split(r"[./]", key)[0] == "hydra" or not _KEY.fullmatch(key) or override.package is not None:
        plain = not override.is_delete() and override.package is None
        return sweep and plain and key in SWEEP_SETTINGS and SWEEP_SETTINGS[key](_plain(override.value()))
    options = options_of(conf_dir(), key)
    wrong = [value for value in values if options and str(value) not in (*options, "None", "null")]
    if wrong:
        raise UserError(
            f"{source} gives {key} the option {shown(wrong[0])}, which conf/{key} does not have; start a new run"
        )
    if key.rpartition(".")[2] == "_target_":
        for value in values:
            check_targets({"_target_": value}, source)
    check_targets(_plain(override.value()), source)
    return not any(isinstance(value, str) and _RESOLVER.search(value) for value in values)


def _plain(value: Any) -> Any:
    """A parsed value without the marks of the grammar."""
    if isinstance(value, ChoiceSweep):
        return [_plain(item) for item in value.list]
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def single_values(value: Any) -> Iterator[Any]:
    """Every single value in one that Hydra's grammar has read, such as the items of a list."""
    value = _plain(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from single_values(item)
    else:
        yield value
