"""Runs and sweeps on disk: where they are, and what their files say."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hyperinverter.contracts import UserError, current_name, shown
from hyperinverter.runs.card import CARD, read_card
from hyperinverter.runs.records import SWEEP as RECORD
from hyperinverter.runs.records import read_record
from hyperinverter.system.command import train_command
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import as_path, held
from hyperinverter.system.terminal import say

SWEEP = "sweep.json"  # what a sweep is, next to its numbered jobs


def cards(outputs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every run folder under ``outputs/runs`` with its card; an empty one where it cannot be read."""
    for path in (outputs.expanduser() / "runs").glob(f"*/{CARD}"):
        yield path.parent, read_card(path.parent) or {}


def latest_unfinished(outputs: Path, overrides: Sequence[str]) -> Path | None:
    """The newest unfinished run of the same command that no process is working on; None if there is none.

    Args:
        outputs: Where runs write.
        overrides: The command; their order, and whether it is resumed, do not matter.
    """
    command, found = settings(overrides), []
    for run, card in cards(outputs):
        same = settings(card.get("overrides") or []) == command
        if same and card.get("status") != "finished" and not held(run):
            found.append((instant(card.get("started")), run))
    return max(found)[1] if found else None


def latest_unfinished_sweep(outputs: Path, overrides: Sequence[str]) -> Path | None:
    """The newest sweep or search of the same command with jobs that have not finished; None if there is none.

    One that another process runs does not count.

    Args:
        outputs: Where sweeps write.
        overrides: The command; their order does not matter.
    """
    command, found = settings(overrides), []
    for path in (outputs.expanduser() / "sweeps").glob(f"*/{SWEEP}"):
        record = read_sweep(path.parent)
        if (
            settings(record.get("typed") or []) == command
            and not held(path.parent)
            and _has_jobs_left(record, path)
        ):
            found.append((instant(record.get("started")), path.parent))
    return max(found)[1] if found else None


def _has_jobs_left(record: Mapping[str, Any], path: Path) -> bool:
    if not record.get("finished"):
        return True
    waiting = [job["num"] for job in record.get("jobs") or () if not job.get("pruned")]
    return any((read_card(path.parent / str(num)) or {}).get("status") != "finished" for num in waiting)


def instant(text: Any) -> float:
    """A time of a card in seconds, so that times of two zones compare as they should; the earliest if it is none."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        return -math.inf


def settings(overrides: Sequence[Any]) -> list[str]:
    """What was typed for a run, sorted, without what does not change its result; of a key typed twice the last."""
    typed = [str(item) for item in overrides if not str(item).startswith(("resume=", "hydra.", "-"))]
    return sorted({item.lstrip("+~").split("=", 1)[0]: item for item in typed}.values())


def latest_finished(outputs: Path, *, domain: str, phase: int, generator: str | None = None) -> Path | None:
    """The newest run under ``outputs/runs`` that trained this phase to its full length; None if there is none.

    Args:
        outputs: Where runs write.
        domain: Its name.
        phase: 1 or 2.
        generator: Packaged name or path; runs with another one do not count. None takes all.
    """
    found = []
    for run, card in cards(outputs):
        same = card.get("domain") == domain and card.get("phase") == phase
        same = same and card.get("method", "hyperinverter") == "hyperinverter"  # a rival is no first phase
        drawn_by = ((card.get("loaded") or {}).get("generator") or {}).get("path")
        if generator is not None and drawn_by is not None:
            same = same and _complete(drawn_by) == _complete(generator)
        if same and card.get("status") == "finished" and card.get("complete"):
            weights = (card.get("best") or {}).get("file")
            found.append((instant(card.get("finished")), run, str(weights or "")))
    for _, run, weights in sorted(found, reverse=True):
        if (run / weights).exists():
            return run
        say(f"passed over {run}: its {shown(weights)} is gone")  # copied without it, or tidied away
    return None


def _complete(path: str) -> Path:
    return Path(path).expanduser().absolute()


def jobs(sweep: Path | str) -> list[Path]:
    """The job folders of a sweep, in the order they were numbered.

    Raises:
        UserError: If there are none.
    """
    folder = as_path(sweep)
    found = sorted(
        (p.parent for p in folder.glob(f"*/{CARD}") if p.parent.name.isdigit()), key=lambda p: int(p.name)
    )
    if not found:
        raise UserError(f"{folder} is not a sweep: it has no numbered job with a {CARD}")
    return found


def latest_sweep(outputs: Path | str) -> Path:
    """The newest sweep under ``outputs/sweeps``.

    Raises:
        UserError: If there is none.
    """
    found = [path.parent for path in (as_path(outputs) / "sweeps").glob(f"*/{SWEEP}")]
    if not found:
        raise UserError(
            f"there is no sweep under {outputs}/sweeps yet; run `{train_command()} phase=2 +sweep`"
        )
    return max(found, key=lambda path: (path / SWEEP).stat().st_mtime)


def read_sweep(sweep: Path | str) -> dict[str, Any]:
    """What ``sweep.json`` says; an empty dictionary for a folder that has none, or something else in its place."""
    return read_record(as_path(sweep) / SWEEP, RECORD) or {}


def read_metrics(run: Path | str) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv``, under the names of today."""
    return read_table(as_path(run) / "metrics.csv")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a file of metrics, under the names of today.

    Raises:
        UserError: If it is no table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [current_name(name) for name in reader.fieldnames or ()]
            return list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is no table of metrics ({first_line(error)}); restore it, or remove it"
        ) from error
