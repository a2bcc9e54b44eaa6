"""What was typed: short spellings become what Hydra's grammar accepts, and values are quoted for it."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf

from hyperinverter.config.carried import carried
from hyperinverter.config.groups import environment
from hyperinverter.config.values import given, load
from hyperinverter.contracts import UserError
from hyperinverter.runs import (
    CARD,
    SWEEP,
    latest_unfinished,
    latest_unfinished_sweep,
    read_card,
    read_sweep,
)
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import as_path
from hyperinverter.system.terminal import say


def normalise_overrides(arguments: Sequence[str]) -> list[str]:
    """Turn the short spellings of the command line into what Hydra's grammar accepts.

    - ``+sweep`` becomes ``+sweep=default`` and ``phase=2`` becomes ``phase='2'``, as do the numbers of ``features``.
    - ``data.root=PATH`` also chooses ``data=folder``, unless a domain or data is given.
    - ``generator=FILE`` becomes ``generator.path=FILE`` and also chooses ``domain=own``, unless a domain is given.
    - ``resume=RUN`` brings back that run's overrides and folder; ``resume=SWEEP`` the sweep's command.
    - ``resume=auto`` is ``resume=RUN`` for the newest unfinished run of the same command, if there is one.
    - Flags such as ``-m`` move to the front.

    Raises:
        UserError: If ``resume`` names neither a run folder, nor a checkpoint in one, nor a sweep.
    """
    typed = [_normalise(argument) for argument in arguments]
    has_domain = typed_value(typed, "domain") is not None or typed_value(typed, "experiment") not in (
        None,
        "null",
    )
    file = typed_value(typed, "generator")
    if file is not None and _is_file_name(file):
        typed = [f"generator.path={quote(file)}" if _key(item) == "generator" else item for item in typed]
        if not has_domain:
            typed.insert(0, "domain=own")
            has_domain = True
    if typed_value(typed, "data.root") is not None and typed_value(typed, "data") is None and not has_domain:
        typed.insert(0, "data=folder")
    typed.sort(key=lambda item: not _is_flag(item))  # argparse loses overrides after a flag
    resume = typed_value(typed, "resume")
    if resume in (None, "", "null") or typed_value(typed, "hydra.run.dir") is not None:
        return typed
    if resume == "auto":
        if "-m" in typed or "--multirun" in typed or typed_value(typed, "sweep") is not None:
            return _resumed_newest_sweep(typed)
        unfinished = _unfinished(typed)
        return typed if unfinished is None else _resumed(typed, str(unfinished))
    return _resumed(typed, str(resume))


# Keys that name a file or a folder: a path needs no quotes for Hydra's grammar, unless it reads as a sweep (``a,b``).
INPUTS = ("data.root", "data.split", "encoder.start_path", "judges.lpips_path", "judges.identity_path")
PATHS = (
    *INPUTS,
    *("generator.path", "phase.from_run", "resume", "paths.outputs", "paths.cache"),
    *("hydra.run.dir", "hydra.sweep.dir"),
)


# Those that Hydra itself makes folders of, from what was typed.
_FOLDERS = ("paths.outputs", "paths.cache", "hydra.run.dir", "hydra.sweep.dir")


def _quoted_path(argument: str) -> str:
    """``data.root=/a=b`` and ``name=é`` as Hydra's grammar reads them, if it cannot read them as they are."""
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or name not in PATHS:
        beyond_ascii = equals and not value.isascii() and not set(value) & set("'\"\\$,:=()[]{}")
        return f"{key}={quote(value)}" if beyond_ascii else argument  # such as name=写真
    if name in _FOLDERS:
        plain = value.strip("'\"").strip()
        if plain in ("", "null"):
            raise UserError(f"{name}={value} names no folder: write a path, or leave {name} out")
        if plain.startswith("~"):
            return f"{key}={quote(str(as_path(plain)))}"
    try:
        read = OverridesParser.create().parse_override(argument).value()
    except (HydraException, ValueError):
        return f"{key}={quote(value)}"
    return f"{key}='{value}'" if isinstance(read, (bool, int, float)) else argument  # a folder called 3


def _normalise(argument: str) -> str:
    if argument == "+sweep":
        return "+sweep=default"
    argument = _quoted_path(argument)
    match = re.fullmatch(r"(phase|features)=([\w,]+)", argument)
    if match:  # Hydra takes names, not numbers
        names = [f"'{name}'" if re.fullmatch("[0-9_]+", name) else name for name in match[2].split(",")]
        return f"{match[1]}={','.join(names)}"
    return argument


def _is_flag(argument: str) -> bool:
    """Whether an argument is a flag that stands alone: ``-m``, or with its value, as ``--config-dir=FOLDER``."""
    return argument in ("-m", "--multirun") or (argument.startswith("-") and "=" in argument)


def _key(argument: str) -> str:
    return argument.split("=", 1)[0].lstrip("+")


def _is_file_name(value: str) -> bool:
    """Whether a value is a file: it holds a slash or a dot, which no option's name does."""
    return "/" in value or "\\" in value or "." in value


def typed_value(arguments: Iterable[str], key: str) -> str | None:
    """The last value given for a key, without quotes; None if it was not typed."""
    values = [a.split("=", 1)[1] for a in arguments if _key(a) == key and "=" in a]
    return values[-1].strip("'\"") if values else None


def _unfinished(typed: Sequence[str]) -> Path | None:
    """The newest unfinished run of the same command."""
    return latest_unfinished(_outputs(typed), typed)


def _outputs(typed: Sequence[str]) -> Path:
    return as_path(typed_value(typed, "paths.outputs") or environment("HYPERINVERTER_OUTPUTS", "outputs"))


def _resumed_newest_sweep(typed: list[str]) -> list[str]:
    """The same sweep or search again: the newest one that has jobs left, else a new one."""
    sweep = latest_unfinished_sweep(_outputs(typed), typed)
    rest = [item for item in typed if _key(item) != "resume"]
    return rest if sweep is None else _resumed_sweep(rest, sweep)


def _resumed(typed: list[str], resume: str) -> list[str]:
    place = as_path(resume)
    if (place / SWEEP).is_file():
        return _resumed_sweep(typed, place)
    if not place.exists():
        raise UserError(
            f"resume={resume} leads to nothing: give a run folder, a checkpoint in one, or a sweep"
        )
    run = place.parent.parent if place.is_file() else place
    card = read_card(run) or {}
    if "overrides" not in card:
        raise UserError(f"resume={resume} is not a run: {run / CARD} is missing or unreadable")
    _say_part_of_a_sweep(run)
    before = carried(card["overrides"], run / CARD, again=("resume", "hydra.run.dir", "hydra.mode"))
    before = [_found_again(_normalise(item), run) for item in before]
    return [*before, *typed, "hydra.mode=RUN", f"hydra.run.dir={quote(str(run))}"]


def _found_again(item: str, run: Path) -> str:
    """A relative path that a run was typed with leads nowhere from another folder: the run's record has all of it."""
    key, _, value = item.partition("=")
    name, place = key.lstrip("+"), Path(value.strip("'\"")).expanduser()
    if name not in (*INPUTS, "generator.path", "phase.from_run") or place.is_absolute() or place.exists():
        return item
    kept = given(load(run / "config.yaml"), name) if (run / "config.yaml").is_file() else None
    return f"{key}={quote(kept)}" if isinstance(kept, str) else item


def _say_part_of_a_sweep(run: Path) -> None:
    """A job can go on alone, but tables and searches know of it only when the sweep goes on."""
    record = read_sweep(run.resolve().parent)
    for job in record.get("jobs") or ():
        if str(job["num"]) == run.resolve().name:
            stopped = ", which the search has stopped because it fell behind" if job.get("pruned") else ""
            say(
                f"{run} is job {job['num']} of a sweep{stopped}; resume={run.parent} goes on with all its jobs and "
                "compares them"
            )


def _resumed_sweep(typed: list[str], sweep: Path) -> list[str]:
    record = read_sweep(sweep)
    if "typed" not in record:
        raise UserError(
            f"resume={sweep} cannot be resumed: its {SWEEP} does not hold its command; resume its jobs one by one "
            f"with resume={sweep}/N"
        )
    again = ("resume", "hydra.sweep.dir")
    before = [_normalise(item) for item in carried(record["typed"], sweep / SWEEP, again, sweep=True)]
    rest = [item for item in typed if item.split("=", 1)[0] not in again and item not in before]
    return [*before, *rest, f"hydra.sweep.dir={quote(str(sweep))}"]


def quote(value: Any) -> str:
    """A value as Hydra's override grammar reads it: ``a b`` becomes ``'a b'``, lists and numbers stay."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)) or OmegaConf.is_list(value):
        return "[" + ",".join(quote(item) for item in value) + "]"
    if isinstance(value, dict) or OmegaConf.is_dict(value):
        return "{" + ",".join(f"{key}:{quote(item)}" for key, item in value.items()) + "}"
    text = str(value)
    word = re.fullmatch(r"[A-Za-z_/][\w./@-]*", text, re.ASCII)
    if word and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Read overrides with Hydra's grammar.

    Raises:
        UserError: If one of them cannot be read.
    """
    try:
        return OverridesParser.create().parse_overrides(list(arguments))
    except OverrideParseException as error:
        raise UserError(unreadable(error)) from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise UserError(f"an override holds a number that is too long: {first_line(error)}") from error
    except RecursionError as error:
        raise UserError("an override is nested too deeply: write fewer brackets") from error


def unreadable(error: OverrideParseException) -> str:
    """The sentence for an override that Hydra's grammar cannot read."""
    return (
        f"cannot read the override '{error.override}': write KEY=VALUE, and put values with spaces, commas, "
        "brackets, equals signs or letters beyond ASCII in quotes (\"key='a,b'\")"
    )


def values_of(override: Override) -> list[str]:
    """The values an override gives to its key: several in a sweep, none for ``glob(*)``, else one; without quotes."""
    if isinstance(override.value(), Glob):
        return []  # the names it stands for are known when the folder of options is read
    if override.is_sweep_override() and override.is_discrete_sweep():
        return [str(value).strip("'\"") for value in override.sweep_string_iterator()]
    return [str(override.value()).strip("'\"")]
