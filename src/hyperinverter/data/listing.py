"""The photos below a folder, by their names and beginnings, and which of them can be opened."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from hyperinverter.contracts import UserError, shown
from hyperinverter.data.opening import unreadable_header
from hyperinverter.system import kinds
from hyperinverter.system.files import as_path, parse_json, write_bytes, writing_to

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff"),
    *(".gif", ".ppm", ".pgm", ".pnm", ".tga", ".jp2", ".avif"),
}
_OTHER_FORMATS = {".heic", ".heif", ".raw", ".cr2", ".nef", ".dng", ".jxl"}
# How photos begin, for files whose ending says nothing.
_BEGINNINGS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP")

_NO_PHOTOS = ("not photos", "hidden")


@dataclass
class Listing:
    """Photos below a folder, and the files that look like photos but are left out."""

    names: list[str]  # paths below the folder with "/", sorted
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> paths

    def report(self, root: Path) -> str:
        """One line about the files left out, empty if there are none."""
        parts = [
            f"{len(paths)} {reason} ({shown(paths[0], 200)})"
            for reason, paths in sorted(self.skipped.items())
        ]
        return f"left out below {shown(str(root), 200)}: {', '.join(parts)}" if parts else ""

    def with_unreadable(self) -> Listing:
        """Photos that cannot be read among the others: a command that answers for every photo says so of each.

        What is no photo, and what is hidden, stays left out.
        """
        left_out = {reason: names for reason, names in self.skipped.items() if reason in _NO_PHOTOS}
        unreadable = [n for reason, names in self.skipped.items() if reason not in left_out for n in names]
        return Listing(sorted([*self.names, *unreadable]), left_out)


def check_root(root: object) -> Path:
    """The folder of photos, before anything below it is looked at.

    Raises:
        UserError: If ``root`` names no folder, is missing, is no folder of photos, or may not be read.
    """
    if root is None or not str(root).strip():
        raise UserError(
            f"data.root={'null' if root is None else ''} names no folder; give photos with data.root=PATH"
        )
    root = as_path(root)
    if _is_closed(root):
        raise UserError(f"the folder {root} may not be read; change its permissions")
    if not root.exists():
        raise UserError(f"no folder at {root}; give the folder of your photos with data.root=PATH")
    if not root.is_dir():
        known = kinds.archive(root)
        what, way_out = known or ("is a file", "give the folder that holds the photos")
        raise UserError(f"{root} {what}; {way_out}, and name the folder with data.root=PATH")
    if (root / "data.mdb").is_file():
        raise UserError(
            f"{root} is an LMDB database, not a folder of photos; write its photos to files (the lmdb package iterates "
            "over them), and name their folder with data.root=PATH"
        )
    return root


def list_photos(root: str | Path) -> Listing:
    """Find photos below ``root``, at any depth, through symbolic links.

    Raises:
        UserError: If ``root`` is missing, is no folder, or cannot be read.
    """
    root = check_root(root)
    listing = Listing([])
    seen: set[str] = set()

    def leave_out(reason: str, name: str) -> None:
        listing.skipped.setdefault(reason, []).append(name)

    def closed(error: OSError) -> None:
        place = Path(os.fsdecode(error.filename or root))
        leave_out("in folders that may not be read", place.relative_to(root).as_posix())

    for folder, subfolders, file_names in os.walk(root, followlinks=True, onerror=closed):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above, or another path to the same photos
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and s != "__MACOSX")
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for file_name in sorted(file_names):  # plain strings and one stat each: there may be 100,000s of them
            name = prefix + file_name
            suffix = os.path.splitext(file_name)[1].lower()
            if suffix in _OTHER_FORMATS:
                leave_out("in another format", name)
            elif suffix not in SUFFIXES and file_name.startswith("."):
                continue
            elif suffix not in SUFFIXES and not _begins_like_a_photo(os.path.join(folder, file_name)):
                leave_out("not photos", name)
            elif file_name.startswith("."):  # "._x.jpg" is what macOS leaves next to x.jpg on other disks
                leave_out("hidden", name)
            elif (size := _size(os.path.join(folder, file_name))) is None:
                leave_out("broken link", name)
            elif size == 0:
                leave_out("empty", name)
            else:
                listing.names.append(name)
    listing.names.sort()
    return listing


def _is_closed(folder: Path) -> bool:
    """Whether the system does not let this process look into a folder, or as far as to it."""
    try:
        return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)
    except PermissionError:
        return True


def _begins_like_a_photo(path: str) -> bool:
    """Whether a file whose ending says nothing holds a photo; only files with unknown endings are asked."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(12)
    except OSError:
        return False
    if beginning[4:8] == b"ftyp":  # a container of several formats: HEIC is one that is not read
        return beginning[8:12] in (b"avif", b"avis")
    return beginning.startswith(_BEGINNINGS) and (beginning[:4] != b"RIFF" or beginning[8:] == b"WEBP")


def _size(path: str) -> int | None:
    """Bytes of a file; None if there is none, as with a broken link."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def check_headers(root: Path, names: Sequence[str], memo: Path) -> dict[str, str]:
    """Open every photo's header once; a later call opens only files that changed.

    Args:
        root: Folder of the photos.
        names: Their paths below it.
        memo: JSON file that keeps the results.

    Returns:
        Photos that cannot be read -> why. (Damage after the header is found when the photo is decoded.)
    """
    try:
        known = parse_json(memo.read_text(encoding="utf-8"))
        known = {name: (tuple(stamp), why) for name, (stamp, why) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        known = {}  # only a cache: it is written again
    found: dict[str, tuple[tuple[int, int], str]] = {}
    new = False
    for name in tqdm(names, desc="checking photos", unit="photo", delay=2, leave=False):
        status = (root / name).stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if name in known and known[name][0] == stamp:
            found[name] = known[name]
        else:
            found[name], new = (stamp, unreadable_header(root / name)), True
    if new:
        content = json.dumps({**known, **found}).encode()
        with writing_to(memo.parent, len(content), "choose another folder with paths.cache=FOLDER"):
            write_bytes(memo, content)
    return {name: why for name, (_, why) in found.items() if why}
