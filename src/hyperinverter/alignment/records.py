"""Files around crops: their names, ``alignment.json``, ``report.csv``, and landmarks that people bring."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperinverter.alignment.align import AlignedFace, Alignment
from hyperinverter.alignment.geometry import Crop
from hyperinverter.contracts import UserError
from hyperinverter.system.files import distinct, parse_json, sha256_of, write_csv, write_json

RECORD = "alignment.json"
REPORT = "report.csv"

_VERSION = 1
_COLUMNS = (
    *("photo", "status", "faces", "face", "crop", "side_px", "padding", "score", "points"),
    *("left", "top", "right", "bottom", *(f"m{row}{column}" for row in range(3) for column in range(3))),
    "message",
)


@dataclass(frozen=True)
class Recorded:
    """One crop in ``alignment.json``."""

    photo: Path
    sha256: str  # of the photo's file
    crop: Crop
    framing: str


class Record:
    """All crops of a folder: file name -> :class:`Recorded`, kept in its ``alignment.json``.

    Args:
        path: The file, or the folder that holds it.

    Raises:
        UserError: If there is a file and it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / RECORD if path.is_dir() or path.suffix != ".json" else path
        self.crops: dict[str, Recorded] = {}
        if self.path.is_file():
            self.crops = self._read()

    def _read(self) -> dict[str, Recorded]:
        try:
            stored = parse_json(self.path.read_text(encoding="utf-8"))
            if stored["version"] != _VERSION:
                raise ValueError(f"version {stored['version']}, this program knows {_VERSION}")
            return {name: self._entry(each) for name, each in stored["crops"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(
                f"{self.path} cannot be used ({error}); restore it, or move it away and align again"
            ) from error

    def _entry(self, stored: Mapping[str, Any]) -> Recorded:
        matrix = np.asarray(stored["matrix"], dtype=np.float64)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
            raise ValueError("a matrix is not an invertible 3x3 matrix")
        photo = self.path.parent / stored["photo"]
        return Recorded(
            photo, str(stored["sha256"]), Crop(matrix, int(stored["size"])), str(stored["framing"])
        )

    def write(self) -> None:
        """Replace the file. Photos are named relative to it, so that a tree of folders can be moved."""
        crops = {
            name: {
                "photo": _relative(each.photo, self.path.parent),
                "sha256": each.sha256,
                "size": each.crop.size,
                "framing": each.framing,
                "matrix": each.crop.matrix.tolist(),
            }
            for name, each in sorted(self.crops.items())
        }
        write_json(self.path, {"version": _VERSION, "crops": crops})

    def of(self, edited: Path) -> str:
        """The crop that a file ``NAME.png`` or ``NAME.anything.png`` belongs to.

        Raises:
            UserError: If it belongs to none.
        """
        stems = {Path(name).stem: name for name in self.crops}
        parts = edited.name.split(".")
        for end in range(len(parts), 0, -1):
            if ".".join(parts[:end]) in stems:
                return stems[".".join(parts[:end])]
        known = ", ".join(sorted(self.crops)[:5]) or "none"
        raise UserError(
            f"{edited.name} belongs to no crop in {self.path} (there: {known}); name it NAME.edit.png after the "
            f"crop NAME.png, or say which one with --crop NAME.png"
        )


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(path.resolve())


class Names:
    """File names for crops in a folder: those of the photos, and distinct.

    Args:
        folder: Where the crops go.
        record: What is there from earlier calls; a photo keeps its names, and replaces its own crops.
        several: Whether one photo may have several crops, ``NAME_0.png`` and so on.
    """

    def __init__(self, folder: Path, record: Record, several: bool) -> None:
        self.folder, self.several = folder, several
        self.ours = {name.casefold() for name in record.crops}
        self.owners: dict[str, Path] = {}  # stem, without case -> photo
        for name, each in record.crops.items():
            self.owners[Path(name).stem.casefold()] = each.photo.resolve()

    def stem(self, photo: Path) -> str:
        """The name of a photo's crops without ending."""
        photo = photo.resolve()
        stem = distinct(photo.stem, lambda name: self._taken(name, photo))
        self.owners[stem.casefold()] = photo
        return stem

    def of(self, stem: str, faces: list[AlignedFace]) -> list[str]:
        """File names of a photo's crops."""
        return [f"{stem}.png"] if len(faces) == 1 else [f"{stem}_{face.number}.png" for face in faces]

    def _taken(self, stem: str, photo: Path) -> bool:
        names = [stem, f"{stem}_0", re.sub(r"_\d+$", "", stem)] if self.several else [stem]
        if any(self.owners.get(name.casefold(), photo) != photo for name in names):
            return True
        # A file that is no crop of ours stays as it is; it may be the photo itself.
        files = [f"{name}.png" for name in names[:2]]
        return any(file.casefold() not in self.ours and (self.folder / file).exists() for file in files)


def row(photo: Path, result: Alignment, face: AlignedFace | None = None, crop: str = "") -> dict[str, Any]:
    """One line of the report: a crop, or a photo without one."""
    line = dict.fromkeys(_COLUMNS, "")
    line |= {"photo": str(photo), "status": result.status, "message": result.message}
    if result.found is not None:
        line["faces"] = str(result.found)
    if face is not None:
        line |= {"crop": crop, "side_px": f"{face.crop.side:.1f}", "padding": f"{face.padding:.3f}"}
        line |= {f"m{at // 3}{at % 3}": repr(float(value)) for at, value in enumerate(face.crop.matrix.flat)}
        if face.face is not None:
            line |= {"face": str(face.number), "score": f"{face.face.score:.3f}"}
            line |= {"points": str(len(face.face.points))}
            edges = zip(("left", "top", "right", "bottom"), face.face.box, strict=True)
            line |= {edge: f"{value:.1f}" for edge, value in edges}
    return line


def write_report(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``report.csv``."""
    write_csv(path, [_COLUMNS, *([row[column] for column in _COLUMNS] for row in rows)])


def recorded(photo: Path, face: AlignedFace, framing: str) -> Recorded:
    """What ``alignment.json`` keeps of a crop."""
    return Recorded(photo, sha256_of(photo), face.crop, framing)


def read_landmarks(path: Path) -> dict[str, list[np.ndarray]]:
    """Read points of faces by the name of their photo.

    Two layouts, both in pixels of the upright photo, a pixel's centre being an integer (as dlib and the FFHQ
    list count them):

    * JSON: ``{"me.jpg": [[x, y], ... 68 or 5 of them], "us.jpg": [[[x, y], ...], [[x, y], ...]]}``
    * CSV with a header: the photo, then x0, y0, x1, y1, ...; one line per face.

    Args:
        path: A ``.json`` or ``.csv`` file.

    Returns:
        File name of the photo -> its faces, ``(68, 2)`` or ``(5, 2)`` each.

    Raises:
        UserError: If the file cannot be read so.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        faces = _from_csv(text) if path.suffix.lower() == ".csv" else _from_json(text)
        for name, each in faces.items():
            for points in each:
                if points.shape not in ((68, 2), (5, 2)) or not np.isfinite(points).all():
                    raise ValueError(f"{name} has points of shape {points.shape}, not (68, 2) or (5, 2)")
    except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"the landmarks {path} cannot be used ({error}); wanted: JSON with photo -> points, or CSV with "
            f"photo,x0,y0,..."
        ) from error
    return faces


def _from_json(text: str) -> dict[str, list[np.ndarray]]:
    faces = {}
    for name, value in parse_json(text).items():
        points = [np.asarray(each, dtype=np.float64) for each in value]
        single = bool(points) and points[0].ndim == 1
        faces[Path(name).name] = [np.stack(points)] if single else points
    return faces


def _from_csv(text: str) -> dict[str, list[np.ndarray]]:
    faces: dict[str, list[np.ndarray]] = {}
    for line in list(csv.reader(io.StringIO(text)))[1:]:
        if line:
            points = np.array([float(number) for number in line[1:]]).reshape(-1, 2)
            faces.setdefault(Path(line[0]).name, []).append(points)
    return faces
