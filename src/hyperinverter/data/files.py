"""Writing to disk so that an interrupted, doubled or full-disk run leaves nothing half-made."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperinverter.contracts import UserError

try:
    import fcntl
except ImportError:  # Windows: one process at a time is then the user's care
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing_to(folder: Path, needed: int, way_out: str) -> Iterator[None]:
    """Turn what a disk can refuse into one clear sentence.

    Args:
        folder: Where the block writes; made here.
        needed: Bytes the block is about to write, checked beforehand.
        way_out: What the person can do, e.g. ``"pass paths.cache=FOLDER"``.

    Raises:
        UserError: If there is no space, or ``folder`` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, "not enough space")
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = _free_bytes(folder)
            raise UserError(
                f"no space left for {folder}: {_megabytes(needed)} needed, {_megabytes(free)} free; "
                f"make room or {way_out}"
            ) from error
        if error.errno in _FORBIDDEN or isinstance(error, (FileExistsError, NotADirectoryError)):
            raise UserError(f"cannot write to {folder} ({error.strerror}); {way_out}") from error
        raise


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary neighbour of ``path`` to write; it takes the place of ``path`` if all went well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Let one process at a time, of all that name the same lock file, run the block.

    The system drops the lock when its holder ends, however it ends.

    Args:
        path: The lock file; its folder must exist.
        doing: What the holder does, for the line printed while waiting.
    """
    with path.open("a") as handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("waiting for another process that is %s (%s)", doing, path)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
