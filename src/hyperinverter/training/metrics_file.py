"""Every logged number as a row of metrics.csv, against the photos seen."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from hyperinverter.runs.find import read_table
from hyperinverter.system.files import replacing

AXIS = "images"  # column and step of every log: photos seen in training


class MetricsFile(Logger):
    """Every logged number as a row of ``metrics.csv``; a new name adds a column.

    Args:
        path: The file; rows already there are kept, so that a resumed run appends to them. Columns get the names of
            today.
        seen: Says how many photos training has seen.
    """

    def __init__(self, path: Path, seen: Callable[[], int]) -> None:
        super().__init__()
        self._path, self._seen, self._begin = path, seen, time.monotonic()
        self._columns: list[str] = [AXIS, "epoch", "seconds"]
        self._offset = 0.0
        if path.is_file():
            rows = self._rows()
            self._columns = list(rows[0]) if rows else self._columns
            self._offset = float(rows[-1].get("seconds") or 0.0) if rows else 0.0
        self._count = len(self._rows())

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row: dict[str, Any] = {
            AXIS: self._seen(),
            "seconds": round(self._offset + time.monotonic() - self._begin, 2),
        }
        row |= {name: float(value) for name, value in metrics.items()}
        row["epoch"] = int(row.get("epoch", 0))
        new = [name for name in row if name not in self._columns]
        if new:
            self._widen(sorted(new))
        fresh = not self._path.is_file()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        self._count += 1

    def forget_after(self, images: int) -> None:
        """Drop rows beyond a point in training: a run resumed from there will write them again."""
        self._rewrite([row for row in self._rows() if int(row[AXIS]) <= images])

    def keep(self, rows: int) -> None:
        """Drop all but the first rows: those that were there when a checkpoint was saved."""
        self._rewrite(self._rows()[:rows])

    def begin_again(self) -> None:
        """Drop what an earlier run in this folder left if it ended before its first save."""
        self._path.unlink(missing_ok=True)
        self._columns, self._offset, self._count = [AXIS, "epoch", "seconds"], 0.0, 0

    def count(self) -> int:
        """How many rows there are."""
        return self._count

    def _widen(self, new: list[str]) -> None:
        rows = self._rows()
        self._columns = [*self._columns, *new]
        if self._path.is_file():  # a header alone grows too
            self._rewrite(rows)

    def _rows(self) -> list[dict[str, str]]:
        if not self._path.is_file():
            return []
        return read_table(self._path)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with replacing(self._path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        self._count = len(rows)
