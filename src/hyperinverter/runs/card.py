"""The run card: one JSON file that says what a run was, how it went and what it measured."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperinverter.runs.records import RUN, read_record
from hyperinverter.system.files import write_json
from hyperinverter.system.machine import code_state, now, peak_memory_mb, versions

CARD = "run.json"


class RunCard:
    """Facts about one run, written to ``run.json`` at every change, so that a killed run leaves them too.

    ``status`` is ``running``, ``finished``, ``failed`` or ``interrupted``. A resumed run adds its time to that of the
    card it finds, which is kept as ``before``.

    Args:
        folder: The run folder; a card in it is continued.
        facts: What is known from the start.
        write: False in processes other than the first, which leave the file alone.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, write: bool = True) -> None:
        self._path = folder / CARD
        self._write = write
        self.before = before = read_card(folder) or {}
        self._seconds_before = float(before.get("seconds") or 0.0)
        self._peak_before = float(before.get("peak_memory_mb") or 0.0)
        self._begin = time.monotonic()
        started, sessions = before.get("started") or now(), int(before.get("sessions") or 0) + 1
        self.facts: dict[str, Any] = {"status": "running", "error": None, "started": started}
        self.facts |= {
            "finished": None,
            "sessions": sessions,
            **facts,
            **code_state(),
            "versions": versions(),
        }
        self.update()

    def update(self, **facts: Any) -> None:
        """Add facts and write the card."""
        self.facts |= facts
        self.facts["seconds"] = round(self._seconds_before + time.monotonic() - self._begin, 2)
        self.facts["peak_memory_mb"] = round(max(self._peak_before, peak_memory_mb()), 1)
        if self._write:
            write_json(self._path, self.facts)

    def put_back(self) -> None:
        """Write the card as it was found: what was asked of this run has been refused, and nothing of it was done."""
        if self._write and self.before:
            write_json(self._path, self.before)

    def close(self, status: str, error: str | None = None) -> None:
        """Write how the run ended."""
        self.update(status=status, error=error, finished=now())


def read_card(folder: Path) -> dict[str, Any] | None:
    """The run card in a folder; None if there is none, or what is there is no run card, which is then reported."""
    return read_record(folder / CARD, RUN)
