"""Results of evaluations and trainings on the page: tables, pictures and photos, found once and asked for by number."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from hyperinverter import runs
from hyperinverter.contracts import UserError
from hyperinverter.data.transforms import load_rgb
from hyperinverter.evaluation.kept import Kept
from hyperinverter.system.errors import first_line
from hyperinverter.system.terminal import say

PICTURES = ("worst_best.png", "plane.png", "panel.png")
_MOST = 50  # folders
_ENDS = 8  # photos that are shown of either end of a ranking
_TESTED = "test_photos"  # of a run: NAME/photo.png, NAME/w_image.png and NAME/image.png
_DRAWN = {"this run": "image", "phase I": "w_image"}

T = TypeVar("T")


@dataclass
class Entry:
    """One folder: an evaluation, a sweep or a run.

    Attributes:
        rows: Its table, the heads first.
        pictures: Sheets of pictures.
        photos: Names of its photos.
        models: Whose images are kept.
        numbers: What photos can be ranked by.
        kept: The photos of an evaluation; None for a run, which keeps files.
    """

    folder: Path
    rows: list[list[str]]
    pictures: list[Path]
    photos: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    kept: Kept | None = None

    def shown(self, model: int, number: int) -> list[tuple[int, float | None]]:
        """Places of the photos to show: the worst and the best ones, or all that a run has kept."""
        if self.kept is None:
            return [(place, None) for place in range(min(len(self.photos), 2 * _ENDS))]
        ranked = self.kept.ranked(_at(self.models, model), _at(self.numbers, number))
        if len(ranked) > 2 * _ENDS:
            ranked = ranked[:_ENDS] + ranked[-_ENDS:]
        place = {name: index for index, name in enumerate(self.photos)}
        return [(place[name], value) for name, value in ranked]

    def photo(self, place: int, model: int | None = None) -> tuple[str, Image.Image]:
        """Name of a photo, and the photo or what a model drew of it.

        Raises:
            UserError: If there is none.
        """
        name = _at(self.photos, place)
        label = None if model is None else _at(self.models, model)
        if self.kept is not None:
            return name, self.kept.picture(name, label)
        file = "photo" if label is None else _DRAWN[label]
        return name, load_rgb(self.folder / _TESTED / name / f"{file}.png")


class Gallery:
    """Folders below one folder that hold an evaluation, a sweep or a run.

    Args:
        root: Where to look; read once.

    Raises:
        UserError: If there is no such folder, or nothing in it.
    """

    def __init__(self, root: Path) -> None:
        place = root.expanduser()
        if not place.is_dir():
            raise UserError(f"there is no folder {root}; give one with results of `hyperinverter evaluate`")
        found = {path.parent for path in place.rglob("table.csv")}
        found |= {path.parent for path in place.rglob(_TESTED) if path.is_dir()}
        if not found:
            raise UserError(
                f"{root} holds no table.csv and no {_TESTED}; give a folder with results of `hyperinverter evaluate`, "
                "a sweep or a run"
            )
        self.root, self.folders = place, sorted(found)[:_MOST]

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """What is in the folders."""
        return [_entry(folder) for folder in self.folders]

    def listed(self) -> list[dict[str, Any]]:
        """Name, table, pictures and what photos can be ranked by, of each folder."""
        return [
            {
                "name": str(entry.folder.relative_to(self.root.parent)),
                "rows": entry.rows,
                "pictures": [
                    {"url": f"/api/gallery/{index}/{number}", "title": path.name}
                    for number, path in enumerate(entry.pictures)
                ],
                "photos": len(entry.photos),
                "models": entry.models,
                "numbers": entry.numbers,
            }
            for index, entry in enumerate(self.entries)
        ]

    def ranked(self, index: int, model: int, number: int) -> list[dict[str, Any]]:
        """The photos of a folder to look at, the worst first: ``place``, ``name``, ``value``."""
        entry = _at(self.entries, index)
        return [
            {"place": place, "name": entry.photos[place], "value": value}
            for place, value in entry.shown(model, number)
        ]

    def photo(self, index: int, place: int, model: int | None = None) -> tuple[str, Image.Image]:
        """A photo by its place in the listing, see ``Entry.photo``.

        Raises:
            UserError: If there is none.
        """
        return _at(self.entries, index).photo(place, model)

    def picture(self, index: int, number: int) -> Path:
        """A picture by its place in the listing.

        Raises:
            UserError: If there is none.
        """
        path = _at(_at(self.entries, index).pictures, number)
        if not path.is_file():
            raise UserError("there is no such picture")
        return path


def _entry(folder: Path) -> Entry:
    try:
        rows = _table(folder / "table.csv")
    except (OSError, ValueError, csv.Error) as error:  # one folder must not take the others with it
        say(f"passed over {folder / 'table.csv'}: it is no table ({first_line(error)})")
        rows = []
    pictures = [folder / name for name in PICTURES if (folder / name).is_file()]
    if (folder / _TESTED).is_dir():
        return _run(folder, rows, pictures)
    try:
        kept = Kept(folder)
    except (
        UserError,
        OSError,
        ValueError,
        csv.Error,
    ) as error:  # its table and pictures can be looked at still
        say(f"the photos of {folder} cannot be shown: {first_line(error)}")
        return Entry(folder, rows, pictures)
    if not kept.models:  # a sweep, or a table that was published alone
        return Entry(folder, rows, pictures)
    return Entry(folder, rows, pictures, kept.names, kept.models, kept.numbers, kept)


def _table(path: Path) -> list[list[str]]:
    """The beginning of a table without the ends of its intervals; empty if there is none."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        table = [row for row, _ in zip(csv.reader(lines), range(40), strict=False)]
    keep = [k for k, head in enumerate(table[0]) if not head.endswith(("_low", "_high"))] if table else []
    return [[row[k] if k < len(row) else "" for k in keep][:10] for row in table]


def _run(folder: Path, rows: list[list[str]], pictures: list[Path]) -> Entry:
    """A run: the numbers of its card, its last panel, and the photos it was tested on."""
    numbers = (runs.read_card(folder) or {}).get("metrics") or {}
    if not rows and numbers:
        heads = [name for name in numbers if "/" not in name.removeprefix("test/")][:10]
        rows = [heads, [str(numbers[name]) for name in heads]]
    last = sorted((folder / "panels").glob("*.png"))[-1:]
    tested = folder / _TESTED
    photos = sorted(path.name for path in tested.iterdir() if (path / "photo.png").is_file())
    drawn = [
        label for label, file in _DRAWN.items() if photos and (tested / photos[0] / f"{file}.png").is_file()
    ]
    return Entry(folder, rows, [*pictures, *last], photos, drawn)


def _at(items: Sequence[T], place: int) -> T:
    if not 0 <= place < len(items):
        raise UserError("the page asked for something that the folder does not hold: load it again")
    return items[place]
