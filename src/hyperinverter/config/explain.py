"""Which override is wrong, and what was probably meant, in one sentence."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hyperinverter.config.groups import compose_choices, default_groups, groups_of, options_of
from hyperinverter.config.overrides import parse_overrides, quote, unreadable, values_of
from hyperinverter.contracts import UserError
from hyperinverter.system.command import train_command


def diagnose(error: Exception, overrides: Sequence[str], conf: Path) -> str:
    """Which override made Hydra fail, and what was probably meant.

    Args:
        error: What Hydra or OmegaConf raised.
        overrides: What was typed.
        conf: The folder of groups.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, OverrideParseException):
            return unreadable(cause)
        cause = cause.__cause__
    try:
        parsed = parse_overrides([typed for typed in overrides if not typed.startswith("-")])
    except UserError as wrong_grammar:
        return str(wrong_grammar)
    study = any(override.key_or_group == "sweep" for override in parsed)
    sweeping = study or "-m" in overrides or "--multirun" in overrides
    keys: list[str] | None = None
    for override in parsed:
        key = override.key_or_group
        if key.startswith("hydra"):
            continue
        options = [] if override.is_delete() else options_of(conf, key)
        if options:
            wrong = [value for value in values_of(override) if value not in options and value != "null"]
            if wrong:
                return unknown_option(key, wrong[0], options)
        elif not override.is_force_add():
            keys = keys if keys is not None else all_keys(parsed, conf)
            if key not in keys:
                return unknown_key(key, keys, conf)
        if options and override.is_add() and key != "sweep" and key in default_groups(conf):
            return f"'{override.input_line}' has one plus too many: write {key}={override.value()}"
        if override.is_sweep_override() and not sweeping:
            return (
                f"'{override.input_line}' gives several values to {key}, which is a sweep: add -m for all "
                "combinations or +sweep for a study around them"
            )
    for taken in (override for override in parsed if override.is_delete()):
        key = taken.key_or_group
        return f"'{taken.input_line}' takes out what every run needs: write {key}=VALUE, or leave it as it is"
    return _first_sentence(error)


def unknown_option(group: str, value: str, options: list[str]) -> str:
    """The sentence for an option that a group does not have."""
    shown = [option for option in options if not option.startswith("_")]
    return _joined(f"{group} has no option '{value}'{near(value, shown)}", f"there are: {', '.join(shown)}")


def unknown_key(key: str, keys: list[str], conf: Path) -> str:
    """The sentence for a key that does not exist: the nearest name, and what there is next to it."""
    groups = groups_of(conf)
    nearest = difflib.get_close_matches(key, list(dict.fromkeys([*groups, *keys])), n=1, cutoff=0.6)
    if not nearest:  # more often the group is missing ("epoch_kimg") than a similar name is meant
        nearest = [name for name in keys if name.split(".")[-1] == key.split(".")[-1]][:3]
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    parent = key.rpartition(".")[0]
    siblings = [name.rpartition(".")[2] for name in keys if parent and name.rpartition(".")[0] == parent]
    siblings = [name for name in siblings if not name.startswith("_")]
    listed = f"{parent} has: {', '.join(siblings)}"
    if not siblings:
        listed = f"groups are: {', '.join(groups)}; `{train_command()} --help` lists every key"
    return _joined(f"there is no '{key}'{hint}", listed)


def _joined(sentence: str, listed: str) -> str:
    return f"{sentence} {listed}" if sentence.endswith("?") else f"{sentence}; {listed}"


def near(value: str, options: Iterable[str]) -> str:
    """``, did you mean 'OPTION'?`` for the option nearest to a value, else an empty string."""
    spelt = {_letters(option): option for option in options}
    begun = [option for letters, option in spelt.items() if letters.startswith(_letters(value))]
    alike = difflib.get_close_matches(_letters(value), list(spelt), n=1, cutoff=0.5)
    nearest = begun if len(begun) == 1 else [spelt[letters] for letters in alike]
    return f", did you mean '{nearest[0]}'?" if nearest else ""


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def all_keys(parsed: Sequence[Override], conf: Path) -> list[str]:
    """Every key of the configuration that the valid choices of groups lead to."""
    good = []
    for override in parsed:
        key, value = override.key_or_group, next(iter(values_of(override)), None)
        if key != "sweep" and not override.is_sweep_override() and value in options_of(conf, key):
            good.append(f"{key}={quote(value)}")
    try:
        cfg = compose_choices(good, conf)
    except (HydraException, OmegaConfBaseException):
        cfg = compose_choices([], conf)
    return sorted(_flat(OmegaConf.to_container(cfg, resolve=False)))


def _flat(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if error.__cause__ is not None and isinstance(error.__cause__, OmegaConfBaseException):
        lines += [line.strip() for line in str(error.__cause__).splitlines() if line.strip()][:1]
    text = "; ".join(lines[:2]) or type(error).__name__
    return f"the configuration cannot be composed: {text}"
