"""The photos of a folder, split by a recorded list.

The hash of a photo's path below the folder decides whether it is for training, validation or test. The list is
written the first time and kept: photos may be added or removed, but none ever changes its split. A folder with
subfolders ``train`` and ``val`` or ``test`` keeps its own split.
"""

import json
import logging
import os
import re
from pathlib import Path

from hyperinverter.contracts import UserError
from hyperinverter.data.listing import SUFFIXES, list_photos
from hyperinverter.system.files import as_path, locked, parse_json, sha256_of, write_bytes, writing_to

SPLITS = ("train", "val", "test")

log = logging.getLogger(__name__)

# As people call them, in any case: Train/, TEST/, val2017/
_SUBFOLDERS = {
    "train": re.compile(r"train(ing|set)?[_-]?\d*", re.IGNORECASE),
    "val": re.compile(r"val(id|idation)?(set)?[_-]?\d*", re.IGNORECASE),
    "test": re.compile(r"test(ing|set)?[_-]?\d*", re.IGNORECASE),
}


def split_folder(
    root: str | Path,
    record: str | Path,
    val_fraction: float = 0.05,
    test_fraction: float = 0.1,
    *,
    report: bool = True,
) -> dict[str, list[str]]:
    """Which photos of a folder belong to train, val and test.

    Args:
        root: The folder.
        record: JSON file with the split; written if missing, completed if there are new photos. A file
            that a person made (without our ``version`` and ``root``) is never written to.
        val_fraction: Share of the photos for validation, if the folder has no ``val`` subfolder.
        test_fraction: Share for testing, if it has no ``test`` subfolder.
        report: Log which files are left out or gone.

    Returns:
        Paths below ``root`` of ``"train"``, ``"val"`` and ``"test"``, in the order of their hashes (a
        prefix is a fair sample). Each has at least one photo.

    Raises:
        UserError: If there are fewer than three photos, or ``record`` is damaged or cannot be written.
    """
    root, record = as_path(root), as_path(record)
    listing = list_photos(root)
    if report and listing.skipped:
        log.warning("%s", listing.report(root))
    if len(listing.names) < 3:
        found = ", ".join(sorted({Path(n).suffix for names in listing.skipped.values() for n in names}))
        raise UserError(
            f"{len(listing.names)} photos below {root}, at least 3 needed (train, val, test); "
            f"formats read: {' '.join(sorted(SUFFIXES))}" + (f"; left out: {found}" if found else "")
        )
    known, own, recorded = _read_record(record, root)
    if report and recorded and recorded != [val_fraction, test_fraction]:
        log.warning(
            "%s decides the split, made with data.val_fraction=%s and data.test_fraction=%s; the new values count for "
            "new photos only. To split again, remove that file or name a new one with data.split=FILE",
            record,
            *recorded,
        )
    if own:
        return _own_split(listing.names, known, record, root, report=report)
    split = _assign(listing.names, known, val_fraction, test_fraction)
    if report and (outside := len(listing.names) - sum(map(len, split.values()))):
        log.warning("%d photos lie outside the train, val and test folders of %s", outside, root)
    gone = sorted({name for side in known.values() for name in side}.difference(listing.names))
    if report and gone:
        log.warning("%d photos listed in %s are gone from %s (%s)", len(gone), record, root, gone[0])
    if _with_new(known, split) == known:
        return split
    return _write_split(record, root, listing.names, val_fraction, test_fraction)


def _write_split(
    record: Path, root: Path, names: list[str], val_fraction: float, test_fraction: float
) -> dict[str, list[str]]:
    """Add the photos that are new to the record, which another process may have done meanwhile; return the split."""
    needed = 2 * sum(len(name.encode("utf-8", "surrogateescape")) + 8 for name in names)
    with (
        writing_to(record.parent, needed, "choose another file with data.split=FILE"),
        locked(record.with_name(f".{record.name}.lock"), "splitting the photos"),
    ):
        known, _, recorded = _read_record(record, root)
        split = _assign(names, known, val_fraction, test_fraction)
        content = {
            "version": 1,
            "root": str(root.resolve()),
            "fractions": recorded or ([] if any(known.values()) else [val_fraction, test_fraction]),
            **_with_new(known, split),
        }
        write_bytes(record, json.dumps(content, indent=1).encode())
    return split


def _with_new(known: dict[str, list[str]], split: dict[str, list[str]]) -> dict[str, list[str]]:
    """The record with new photos at the end; photos that are gone stay in it, in case they come back."""
    return {side: [*known[side], *sorted(set(split[side]).difference(known[side]))] for side in SPLITS}


def _assign(
    names: list[str], known: dict[str, list[str]], val_fraction: float, test_fraction: float
) -> dict[str, list[str]]:
    """Give every photo a split: the recorded one, that of its subfolder, or by its hash."""
    sides = {name: side for side in SPLITS for name in known[side]}
    top = {name.split("/")[0] for name in names if "/" in name}
    folders = {f: side for side in SPLITS for f in sorted(top) if _SUBFOLDERS[side].fullmatch(f)}
    if len(set(folders.values())) < 2 or "train" not in folders.values():
        folders = {}  # a "train" without the others is a folder like any other
    has_folder = set(folders.values())
    split: dict[str, list[str]] = {side: [] for side in SPLITS}
    for name in sorted(names, key=_position):
        side = sides.get(name) or folders.get(name.split("/")[0])
        if folders and name not in sides and side is None:
            continue  # outside the named subfolders
        if name not in sides and side in (None, "train"):
            # Splits without a folder of their own are taken from the training photos.
            test = 0.0 if "test" in has_folder else test_fraction
            val = 0.0 if "val" in has_folder else val_fraction
            place = _position(name)
            side = "test" if place < test else "val" if place < test + val else "train"
        assert side is not None
        split[side].append(name)
    for side in SPLITS:  # with few photos, a split may be empty by chance
        if split[side]:
            continue
        movable = [
            (len(split[other]), name) for other in SPLITS for name in split[other][1:] if name not in sides
        ]
        if not movable:
            raise UserError(
                f"no photo is left for {side}: add photos, or remove the recorded split to split again"
            )
        _, name = max(movable)
        for other in SPLITS:
            split[other] = [n for n in split[other] if n != name]
        split[side] = [name]
    return split


def _position(name: str) -> float:
    """Where a path falls in [0, 1): the same on every machine, unrelated to its neighbours in the folder."""
    return int(sha256_of(name)[:12], 16) / 2**48


def _own_split(
    names: list[str], known: dict[str, list[str]], record: Path, root: Path, *, report: bool
) -> dict[str, list[str]]:
    """The split of a file that a person made: as it is, without photos it does not list."""
    there = set(names)
    split = {side: [name for name in known[side] if name in there] for side in SPLITS}
    listed, found = sum(map(len, known.values())), sum(map(len, split.values()))
    for side in SPLITS:
        if not split[side]:
            raise UserError(
                f"none of the {len(known[side])} {side} photos of {record} lies below {root}; "
                f"list at least one, by its path below that folder"
            )
    if report and (found < listed or found < len(names)):
        log.warning(
            "%s decides the split: %d of its photos are gone, %d photos below %s are not in it and are left out",
            record,
            listed - found,
            len(names) - found,
            root,
        )
    return split


def _below(name: str, root: Path) -> str:
    """A path as it is listed below ``root``; absolute ones and those that begin with ``./`` are understood."""
    if not name.startswith(("/", "./")) and not os.path.isabs(name):
        return name
    for base in (root.absolute(), root.resolve()):
        path = Path(name) if os.path.isabs(name) else base / name
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return name


def _read_record(path: Path, root: Path) -> tuple[dict[str, list[str]], bool, list[float]]:
    """The recorded sides (empty ones if there is no record yet), whether a person made the file, and its fractions."""
    if not path.exists():
        return {side: [] for side in SPLITS}, False, []
    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
        missing = [side for side in SPLITS if side not in stored]
        if missing:
            raise UserError(
                f"the recorded split {path} cannot be used: it has no list of photos for {', '.join(missing)}; add it, "
                "or remove the file to split again"
            )
        sides = {side: stored[side] for side in SPLITS}
        names = [name for side in sides.values() for name in side]
        if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ValueError("a photo is listed twice, or is not a path")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"the recorded split {path} cannot be used ({error!r}); restore it, or remove it to split again"
        ) from error
    own = "version" not in stored or "root" not in stored
    if own:
        sides = {side: [_below(name, root) for name in sides[side]] for side in SPLITS}
    recorded = stored.get("fractions")
    valid = isinstance(recorded, list) and len(recorded) == 2
    return sides, own, recorded if valid else []


def default_record(cache_dir: str | Path, root: str | Path) -> Path:
    """Where the split of ``root`` is recorded if no file is named."""
    where = sha256_of(str(Path(root).expanduser().resolve()))[:16]
    return Path(cache_dir).expanduser() / "folders" / where / "split.json"
