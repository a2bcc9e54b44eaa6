"""Records next to a run's weights, ``run.json`` and ``sweep.json``: data of someone else, checked against a schema.

A folder may come from anywhere. What a record holds has the type that this table gives it, or the record is not one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyperinverter.system.files import parse_json
from hyperinverter.system.terminal import say

LARGEST = 4 << 20  # bytes; the record of a sweep of a thousand jobs has less than one million

Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _number(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return (
        value is None or isinstance(value, float) or value in ("nan", "inf", "-inf")
    )  # which JSON does not have


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_number, value.values()))


def _best(value: Any) -> bool:
    """The best checkpoint: the name of its file, and numbers."""
    return isinstance(value, dict) and all(_text(item) or _number(item) for item in value.values())


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(part, dict) and all(map(_text, part.values())) for part in value.values()
    )


def _jobs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(job, dict)
        and isinstance(job.get("num"), int)
        and isinstance(job.get("name"), str)
        and isinstance(job.get("settings", {}), dict)
        and _number(job.get("seed"))
        for job in value
    )


RUN: Mapping[str, Check] = {
    **dict.fromkeys(("status", "error", "started", "finished", "name", "group", "domain", "rank_by"), _text),
    **dict.fromkeys(("phase", "seed", "seconds", "peak_memory_mb", "complete", "images_seen"), _number),
    "sessions": lambda value: value is None or (isinstance(value, int) and 0 <= value < 1 << 31),
    "overrides": _texts,
    "metrics": _numbers,
    "parameters": _numbers,
    "loaded": _files,
    "changes": lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
    "best": lambda value: value is None or _best(value),
}
SWEEP: Mapping[str, Check] = {
    **dict.fromkeys(("id", "command", "started", "finished"), _text),
    "typed": _texts,
    "jobs": _jobs,
    "factors": lambda value: isinstance(value, dict),
}

_reported: set[tuple[Path, int, int]] = set()  # file, time and size


def read_record(path: Path, schema: Mapping[str, Check]) -> dict[str, Any] | None:
    """The content of a record; None if there is none or it is not one. The latter is reported once, until it changes.

    Args:
        path: The file.
        schema: Key -> what its value must be. Other keys may hold anything.
    """
    if not path.exists():
        return None
    why, state = "", (path, 0, 0)
    try:
        found = path.stat()
        state = (path, found.st_mtime_ns, found.st_size)
        if not path.is_file():  # a folder, or a pipe that nobody writes to
            why = "it is no file"
        elif found.st_size > LARGEST:
            why = f"it is larger than {LARGEST >> 20} MB"
        else:
            content = parse_json(path.read_text(encoding="utf-8-sig"))  # editors of Windows add a mark
            if not isinstance(content, dict):
                why = "it holds no record"
            elif wrong := [key for key, fits in schema.items() if key in content and not fits(content[key])]:
                why = f"its {wrong[0]} is of another kind"
            else:
                return content
    except (OSError, ValueError):
        why = "it cannot be read"
    if state not in _reported:
        _reported.add(state)
        say(f"passed over {path}: {why}")
    return None
