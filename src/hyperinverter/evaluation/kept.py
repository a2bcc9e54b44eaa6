"""What an evaluation has kept of its photos: those on which a model does worst and best, and their pictures."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from PIL import Image

from hyperinverter.contracts import UserError
from hyperinverter.evaluation.measure import IMAGES, PHOTO, WORK, safe_name
from hyperinverter.evaluation.report import read_record, stored_photos
from hyperinverter.evaluation.work import Work
from hyperinverter.measures import higher_is_better
from hyperinverter.pictures import read_picture

PER_PHOTO = "per_photo.csv"


class Kept:
    """The photos of a finished evaluation.

    Args:
        folder: Of the evaluation.

    Attributes:
        names: Of the photos, in order; none where only the tables were copied, without ``work`` and ``images``.
        models: Labels, in the order of the tables.
        numbers: What was measured of each photo, the first column first.

    Raises:
        UserError: If its record is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._record = folder, read_record(folder)
        kept = any((folder / part).is_dir() for part in (WORK, IMAGES))
        self.names = [name for name in stored_photos(folder) if kept and safe_name(name) == name]
        self._rows: dict[str, dict[str, dict[str, float]]] = {}  # model -> photo -> number -> value
        self.numbers: list[str] = []
        path = folder / PER_PHOTO
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as lines:
                table = csv.DictReader(lines)
                self.numbers = [head for head in table.fieldnames or () if head not in ("photo", "model")]
                for row in table:
                    values = {name: _number(row.get(name)) for name in self.numbers}
                    self._rows.setdefault(str(row.get("model")), {})[str(row.get("photo"))] = values
        known = self._record.get("models")
        self._about: dict[str, Any] = known if isinstance(known, dict) else {}
        self.models = [label for label in self._rows if label in self._about and safe_name(label) == label]

    def ranked(self, model: str, number: str) -> list[tuple[str, float]]:
        """Photos and values of a number, the worst first; photos without the number are left out."""
        values = [(name, self._rows[model].get(name, {}).get(number, math.nan)) for name in self.names]
        known = [(name, value) for name, value in values if not math.isnan(value)]
        return sorted(known, key=lambda each: each[1], reverse=not higher_is_better(number))

    def picture(self, name: str, model: str | None = None) -> Image.Image:
        """The photo as it was measured, or what a model drew of it.

        In full size where it is small or ``--save-images`` has kept it, otherwise with sides of 128 px.

        Raises:
            UserError: If the evaluation did not keep it.
        """
        label = PHOTO if model is None else model
        file = self.folder / IMAGES / label / f"{name}.png"
        if file.is_file():
            return read_picture(file)
        work = self._record.get("photo_work") if model is None else self._about[label].get("work")
        if isinstance(work, str) and work and Path(work).name == work:
            pixels = Work.at(self.folder / WORK / work).picture(name)
            if pixels is not None:
                return Image.fromarray(pixels)
        raise UserError(f"the evaluation has not kept the photo {name}: run it again")


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
