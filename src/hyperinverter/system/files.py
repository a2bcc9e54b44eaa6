"""Files that are complete or not there, whatever happens while they are written; locks; hashes."""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import hashlib
import io
import json
import logging
import math
import os
import platform
import re
import shutil
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hyperinverter.contracts import UserError, cell, shown

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are then the user's care
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_LOCK = ".lock"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PATH = _FORBIDDEN | {errno.ENAMETOOLONG, errno.ELOOP}
_NO_FOLDER = (FileExistsError, NotADirectoryError)
OTHER_OUTPUTS = "choose another place with paths.outputs=PATH"


# A disk that refuses -------------------------------------------------------------------------------------


@contextmanager
def writing(place: Path, way_out: str = OTHER_OUTPUTS, needed: int = 0) -> Iterator[None]:
    """Turn what a disk refuses while the block writes into one sentence.

    Args:
        place: The file or folder that the block writes.
        way_out: What the person can do besides making room.
        needed: Bytes the block writes, for the message; 0 if unknown.

    Raises:
        UserError: If the disk is full, or ``place`` cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _refusal(error, place, way_out, needed)
        if cause is None:
            raise
        raise UserError(f"cannot write {place}: {cause}") from error


@contextmanager
def writing_to(folder: Path, needed: int, way_out: str) -> Iterator[None]:
    """As ``writing``, for a folder that is made here and must have ``needed`` bytes free before the block begins.

    Raises:
        UserError: If there is no space, or ``folder`` cannot be written.
    """
    with writing(folder, way_out, needed):
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield


def as_path(given: object) -> Path:
    """What people give for a file or a folder, with ``~`` written out.

    Raises:
        UserError: For a value that is none, for an address, and for a path that the system cannot look up.
    """
    if isinstance(given, bytes) or not isinstance(given, (str, os.PathLike)):
        raise UserError(
            f"expected the path of a file, got {type(given).__name__}; give a text or a pathlib.Path"
        )
    text = os.fspath(given)
    if not text:
        raise UserError("the path is empty; give the path of a file")
    if isinstance(given, str) and re.match(r"[a-z][a-z0-9+.-]+://", given, re.IGNORECASE):
        raise UserError(
            f"{shown(given, 300)} is an address, not a file: download it first, and give its path"
        )
    try:
        path = Path(os.fsdecode(text)).expanduser()
        path.lstat()
    except RuntimeError as error:  # the home of somebody who is not known here
        raise UserError(
            f"{shown(text, 300)} cannot be written out ({error}); give the complete path"
        ) from error
    except ValueError as error:
        raise UserError(f"{shown(text, 300)} holds a character that no path has; check the path") from error
    except OSError as error:
        if error.errno in _NO_PATH:  # what merely is not there is for the caller to say
            raise UserError(
                f"{shown(text, 300)} cannot be opened: {error.strerror}; check the path and its permissions"
            ) from error
    return path


def check_readable(file: Path) -> None:
    """Raise ``UserError`` for a file that the system does not let this process read."""
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; check its permissions and the disk"
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether an error says that no space is left."""
    return isinstance(error, OSError) and error.errno in _FULL


def _refusal(error: BaseException, place: Path, way_out: str, needed: int) -> str | None:
    """Cause and way out; None for an error that has nothing to do with the disk."""
    if is_full(error):
        free = f"{_megabytes(needed)} needed, {_megabytes(_free_bytes(place))} free" if needed else ""
        return f"no space is left{f' ({free})' if free else ''}: make room, or {way_out}"
    if isinstance(error, OSError) and (
        error.errno in _FORBIDDEN or isinstance(error, _NO_FOLDER) or _is_about(error, place)
    ):
        return f"{error.strerror}: {way_out}"
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):  # how torch.save reports it
        return f"the file could not be completed, most likely no space is left: make room, or {way_out}"
    return None


def _is_about(error: OSError, place: Path) -> bool:
    """Whether the system refuses this very name, such as one that is too long or below a folder it makes itself."""
    if error.errno not in (errno.ENAMETOOLONG, errno.ENOENT, errno.EINVAL, errno.ELOOP) or not error.filename:
        return False
    named = Path(os.fsdecode(error.filename))
    return named == place or named in place.parents


def _free_bytes(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def distinct(stem: str, taken: Callable[[str], bool]) -> str:
    """A name for results: ``NAME``, or the first of ``NAME-2``, ``NAME-3``, ... that is not taken.

    ``NAME_2`` is not used: that is the third face of a photo.
    """
    name, number = stem, 1
    while taken(name):
        number += 1
        name = f"{stem}-{number}"
    return name


# Complete files ------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, *, durable: bool = False, sole: bool = False) -> Iterator[Path]:
    """Give a scratch file next to ``path`` to write; it takes the place of ``path`` if the block succeeds.

    A reader finds the old file or the new one, never half of one. It gets the usual permissions (umask): safetensors
    makes files that only their owner can read.

    Args:
        path: The file to replace or to make; its folder must exist.
        durable: Whether that must be true after a power cut too.
        sole: Whether no other process writes ``path``. The scratch file then always has the same name, so that
            processes that are killed leave one large file behind at most.
    """
    part = path.with_name(f".{path.name}.part" if sole else f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        part.touch()
        usual = stat.S_IMODE(part.stat().st_mode)
        part.unlink()
        yield part
        if stat.S_IMODE(part.stat().st_mode) != usual:
            part.chmod(usual)
        if durable:
            with part.open("rb") as file:
                os.fsync(file.fileno())  # else the new name may reach the disk before the content does
        os.replace(part, path)
        if durable:
            _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can promise that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        os.fsync(handle)
    except OSError:
        return  # some network file systems cannot
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a complete file or none."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """As ``write_bytes``, in UTF-8; bytes of file names that are no UTF-8 as escapes."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """As ``write_text``; no cell is a formula to a spreadsheet, or steers a terminal."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    write_text(path, text.getvalue())


def write_json(path: Path, content: Any) -> None:
    """As ``write_bytes``, in JSON."""
    write_text(path, json.dumps(plain(content), indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text of someone else stands for.

    Raises:
        ValueError: If it is none, or nested more deeply than anything people write.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries; not-a-number and infinities as strings, as JSON has none."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return plain(value.item()) if hasattr(value, "item") else str(value)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file of which this process is the only writer, so that the copy survives a power cut."""
    with replacing(target, durable=True, sole=True) as part:
        shutil.copyfile(source, part)


def keep_as(source: Path, target: Path) -> None:
    """Give a file a second name, replacing the file that had it; ``source`` stays in place all the time."""
    with replacing(target, sole=True) as part:
        try:
            os.link(source, part)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, part)


def sha256_of(what: Path | bytes | str) -> str:
    """SHA-256 of a file, of bytes or of a text, as hexadecimal digits.

    Raises:
        UserError: If the file may not be read.
    """
    if isinstance(what, str):
        what = what.encode("utf-8", "surrogateescape")  # also the name of a file that is no valid UTF-8
    if isinstance(what, bytes):
        return hashlib.sha256(what).hexdigest()
    check_readable(what)
    with what.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def unpacked(path: Path) -> bytes:
    """The content of a file; of a ``.gz``, what is compressed in it.

    Raises:
        ValueError: If it is damaged.
    """
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path.name} cannot be unpacked: {error}") from error


# Locks ---------------------------------------------------------------------------------------------------
# The system drops a lock when its holder ends, however it ends.


def hold(folder: Path) -> IO[str] | None:
    """Claim a run folder for this process, for as long as the returned file is open; None if another has it."""
    file = (folder / _LOCK).open("a", encoding="utf-8")
    if not _lock(file):
        file.close()
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    return file


def held(folder: Path) -> str | None:
    """Which living process works in this run folder, such as ``process 71 on box``; None if there is none."""
    path = folder / _LOCK
    if not path.is_file():
        return None
    with path.open("a", encoding="utf-8") as file:
        if _lock(file):
            return None
    with contextlib.suppress(OSError, ValueError):
        return shown(path.read_text(encoding="utf-8")) or "another process"
    return "another process"


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Let one process at a time, of all that name the same lock file, run the block.

    Args:
        path: The lock file; its folder must exist.
        doing: What the holder does, for the line printed while waiting.
    """
    with path.open("a", encoding="utf-8") as file:
        if not _lock(file):
            log.warning("waiting for another process that is %s (%s)", doing, path)
            _lock(file, wait=True)
        yield


def _lock(file: IO[str], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False if another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True
