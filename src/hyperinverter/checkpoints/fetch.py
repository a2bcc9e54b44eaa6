"""Download weight files that do not ship: on request, checked, each complete or not at all."""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from hyperinverter.checkpoints.registry import Fetched, state_of
from hyperinverter.contracts import UserError

CHUNK_BYTES = 1 << 20


def fetch(source: Fetched, path: Path, timeout_seconds: float = 30.0) -> None:
    """Make sure the file is at ``path``, complete and unaltered.

    A file that is there with the right SHA-256 is left alone, a damaged one is fetched again. A file
    appears under its name only when it is complete, so an interrupted download leaves nothing half done.

    Args:
        source: What to fetch.
        path: Where to put it; folders are made.
        timeout_seconds: How long to wait for the server at each step.

    Raises:
        UserError: If the file cannot be fetched or arrives altered, with its address and the place to put it.
    """
    if state_of(path, source) != "found":
        _fetch(source, path, timeout_seconds)


def _fetch(source: Fetched, path: Path, timeout_seconds: float) -> None:
    """Download one file next to ``path``, check it, and move it into place in one step."""
    way_out = f"download {source.page} by hand and put it at {path}"
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{source.file}.")
        temporary = Path(name)
        digest = hashlib.sha256()
        with (
            os.fdopen(handle, "wb") as file,
            urllib.request.urlopen(source.url, timeout=timeout_seconds) as reply,
        ):
            while chunk := reply.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != source.sha256:
            raise UserError(
                f"{source.url} sent a file with SHA-256 {digest.hexdigest()}, expected {source.sha256} "
                f"(a login or quota page, or a cut connection?); try again or {way_out}"
            )
        os.replace(temporary, path)
    except OSError as error:  # no network, no such page, no space left, no permission
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UserError(f"cannot fetch {source.file} ({reason}); {way_out}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
