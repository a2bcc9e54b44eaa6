"""What has been measured so far, in pieces that are complete or not there: nothing is lost, nothing is done twice.

A piece holds some photos of one model. Pieces are written by any number of processes; whoever reads takes all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from hyperinverter.system.files import plain, replacing, sha256_of

_NUMBER, _FEATURES, _PICTURE = "number/", "features/", "picture"
_ENDING = ".safetensors"


@dataclass
class Piece:
    """What was measured of some photos."""

    names: list[str]
    numbers: dict[str, np.ndarray]  # name -> float64 (B,)
    features: dict[str, np.ndarray]  # network -> float32 (B, F)
    pictures: np.ndarray  # uint8 (B, s, s, 3), small

    def chosen(self, names: Sequence[str]) -> Piece:
        """The part of these photos, in this order."""
        place = {name: i for i, name in enumerate(self.names)}
        rows = [place[name] for name in names]
        return Piece(
            list(names),
            {k: v[rows] for k, v in self.numbers.items()},
            {k: v[rows] for k, v in self.features.items()},
            self.pictures[rows],
        )


class Work:
    """The pieces of one model in a folder.

    Args:
        folder: Of all pieces, made when it is needed.
        label: Of the model.
        identity: Everything that the numbers depend on; what was measured of another is not found.
    """

    def __init__(self, folder: Path, label: str, identity: Any) -> None:
        digest = sha256_of(json.dumps(plain(identity), sort_keys=True))[:12]
        self.folder = folder / f"{label}-{digest}"

    @classmethod
    def at(cls, folder: Path) -> Work:
        """The pieces in a folder that was noted before."""
        work = cls.__new__(cls)
        work.folder = folder
        return work

    def keep(self, piece: Piece) -> None:
        """Write a piece, completely or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {_PICTURE: piece.pictures}
        tensors |= {_NUMBER + name: values for name, values in piece.numbers.items()}
        tensors |= {_FEATURES + name: values for name, values in piece.features.items()}
        digest = sha256_of("\n".join(piece.names))[:16]
        with replacing(self.folder / f"{digest}{_ENDING}") as part:
            whole = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
            save_file(whole, part, {"names": json.dumps(piece.names)})

    def done(self) -> set[str]:
        """Names of the photos that are measured."""
        return {name for path in self._paths() for name in _names(path)}

    def read(self, names: Sequence[str]) -> Piece:
        """All that was measured of these photos, which must be ``done``, in this order."""
        known = {path: _names(path) for path in self._paths()}
        pieces = [load_file(path) for path, found in known.items() if found]
        joined = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
        numbers, features = (
            {key.removeprefix(kind): values for key, values in joined.items() if key.startswith(kind)}
            for kind in (_NUMBER, _FEATURES)
        )
        measured = [name for found in known.values() for name in found]
        return Piece(measured, numbers, features, joined[_PICTURE]).chosen(names)

    def picture(self, name: str) -> np.ndarray | None:
        """The small picture of one photo, ``uint8 (s, s, 3)``; None if it is not measured."""
        for path in self._paths():
            names = _names(path)
            if name in names:
                with safe_open(path, "np") as file:
                    return np.asarray(file.get_slice(_PICTURE)[names.index(name)])
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"[!.]*{_ENDING}")) if self.folder.is_dir() else []


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, "np") as file:
            names = json.loads(file.metadata()["names"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return []  # damaged: measured again
    return [str(name) for name in names]
