"""Photos decoded once: one file of 8-bit pixels per split, mapped into memory.

Decoding is most of the cost of small photos; from this file a batch is a copy of a few rows.
"""

import json
import logging
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hyperinverter.contracts import UserError
from hyperinverter.data.transforms import VERSION, read_pixels
from hyperinverter.system.files import locked, parse_json, replacing, write_bytes, writing_to

log = logging.getLogger(__name__)

WAY_OUT = "choose another folder with paths.cache=FOLDER"


@dataclass
class Decoded:
    """Readable photos of one split and their pixels."""

    names: list[str]
    pixels: np.ndarray  # uint8 (N, R, R, 3), mapped read-only
    unreadable: dict[str, str]  # name -> why


def stamps(root: Path, names: Sequence[str]) -> list[list[int]]:
    """Size and time of change of every file, to notice one that was replaced; zeros if it is gone."""
    found = []
    for name in names:
        try:
            status = (root / name).stat()
            found.append([status.st_size, status.st_mtime_ns])
        except OSError:
            found.append([0, 0])
    return found


def decode_photos(
    root: Path,
    names: Sequence[str],
    folder: Path,
    split: str,
    resolution: int,
    resize: str = "bilinear",
    *,
    fit: str = "crop",
    white: int | None = None,
    thorough: bool = True,
) -> Decoded:
    """Open the decoded photos of one split; decode them first if they are missing or damaged.

    The file is made again if it is damaged, or if a photo, the resolution or the steps of
    ``transforms`` changed. A list that is the beginning of the decoded one is served as it is.

    Args:
        root: Folder of the photos.
        names: Their paths below it.
        folder: Of the decoded file.
        split: Part of the file name.
        resolution: Side ``R`` in pixels.
        resize: Filter, see ``squares.FILTERS``.
        fit: For photos that are not square, see ``squares.FITS``.
        white: See ``transforms.read_photo``.
        thorough: Compare the checksum of all pixels; only the first process needs to.

    Raises:
        UserError: If ``folder`` has no space or cannot be written.
    """
    other = ("" if fit == "crop" else f"-{fit}") + ("" if white is None else f"-{white}")
    path = folder / f"{split}-{resolution}-{resize}{other}-v{VERSION}.u8"
    found = _open(path, root, names, resolution, thorough=thorough)
    if found is not None:
        return found
    with (
        writing_to(folder, len(names) * resolution**2 * 3, WAY_OUT),
        locked(folder / ".lock", "decoding the photos"),
    ):
        found = _open(path, root, names, resolution, thorough=True)  # another process may have been first
        if found is None:
            _decode(path, root, names, lambda photo: read_pixels(photo, resolution, resize, fit, white))
            found = _open(path, root, names, resolution, thorough=False)
    assert found is not None
    return found


def _decode(path: Path, root: Path, names: Sequence[str], read: Callable[[Path], np.ndarray]) -> None:
    seen = stamps(root, names)  # before reading: a file that is replaced meanwhile will not match
    unreadable: dict[str, str] = {}
    checksum = 0
    quiet = not sys.stderr.isatty()
    with replacing(path) as part, part.open("wb") as file:
        # Written in order, not through a map: a full disk then raises an error instead of a bus error.
        for name in tqdm(
            names, desc=f"decoding {path.stem}", unit="photo", mininterval=10 if quiet else 0.2, delay=1
        ):
            try:
                content = read(root / name).tobytes()
            except UserError as error:
                unreadable[name] = str(error)
                continue
            file.write(content)
            checksum = zlib.crc32(content, checksum)
        note = {"names": list(names), "stamps": seen, "unreadable": unreadable, "crc32": checksum}
    # A crash between the two leaves a note about other pixels; size and checksum show it.
    write_bytes(path.with_suffix(".json"), json.dumps(note).encode())


def _open(path: Path, root: Path, names: Sequence[str], resolution: int, *, thorough: bool) -> Decoded | None:
    note_path = path.with_suffix(".json")
    if not path.exists() or not note_path.exists():
        return None
    try:
        note = parse_json(note_path.read_text(encoding="utf-8"))
        known, unreadable, checksum = note["names"], note["unreadable"], note["crc32"]
        same = known[: len(names)] == list(names) and note["stamps"][: len(names)] == stamps(root, names)
        rows = len(known) - len(unreadable)
    except (ValueError, KeyError, TypeError, OSError):
        log.warning("the decoded photos %s are damaged; decoding again", path)
        return None
    if not same:
        return None
    row_bytes = resolution**2 * 3
    if path.stat().st_size != rows * row_bytes or (thorough and _checksum(path) != checksum):
        log.warning("the decoded photos %s are damaged; decoding again", path)
        return None
    readable = [name for name in names if name not in unreadable]
    shape = (len(readable), resolution, resolution, 3)
    pixels = np.memmap(path, np.uint8, "r", shape=shape) if readable else np.zeros(shape, np.uint8)
    return Decoded(readable, pixels, {name: unreadable[name] for name in names if name in unreadable})


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return value
