"""Download weight files that do not ship: on request, checked, each complete or not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
from tqdm import tqdm

from hyperinverter.checkpoints.registry import Fetched, state_of
from hyperinverter.contracts import UserError
from hyperinverter.system.files import locked, replacing, sha256_of, writing_to
from hyperinverter.system.terminal import write

ATTEMPTS = 3  # for connections that break; each begins at the first byte, since not every server can go on
_CHUNK_BYTES = 1 << 16


def fetch(source: Fetched, path: Path, timeout_seconds: float = 30.0) -> None:
    """Make sure the file is at ``path``, complete and unaltered; progress goes to stderr.

    A file that is there with the right SHA-256 is left alone, a damaged one is fetched again. A file gets its name
    only when its SHA-256 is right, so an interrupted download leaves nothing half done. Of several processes that
    ask for the same file one fetches it and the others wait.

    Args:
        source: What to fetch.
        path: Where to put it; folders are made.
        timeout_seconds: How long to wait for the server at each step.

    Raises:
        UserError: If the file cannot be fetched or stored, or arrives altered, with its address and the place to put
            it.
    """
    if state_of(path, source) == "found":
        return
    needed = (source.megabytes or 0) * 1_000_000
    with (
        writing_to(path.parent, needed, "choose another folder with paths.cache=FOLDER"),
        locked(path.with_name(f".{path.name}.lock"), f"fetching {path.name}"),
    ):
        if state_of(path, source) == "found":  # by the process that had the lock
            return
        with replacing(path, sole=True) as part:
            _download(source, path, part, timeout_seconds)
            _check(source, path, part)


def _download(source: Fetched, path: Path, part: Path, timeout_seconds: float) -> None:
    """Write what the address sends to ``part``."""
    for attempt in range(1, ATTEMPTS + 1):
        quiet = not sys.stderr.isatty()
        with _Progress(
            desc=source.file,
            unit="B",
            unit_scale=True,
            mininterval=10 if quiet else 0.2,  # a log file wants few lines
        ) as progress:
            download = pooch.HTTPDownloader(
                progressbar=progress, chunk_size=_CHUNK_BYTES, timeout=timeout_seconds
            )
            try:
                download(source.url, str(part), None)
                return
            except requests.RequestException as error:
                broke = progress.n > 0  # a server that never answered will not answer now
                if not broke or attempt == ATTEMPTS:
                    raise UserError(
                        f"cannot fetch {source.file} ({_reason(error, source, broke)}); {_by_hand(source, path)}"
                    ) from error
        write(f"the connection broke; from the start again, attempt {attempt + 1} of {ATTEMPTS}\n")


def _check(source: Fetched, path: Path, part: Path) -> None:
    found = sha256_of(part)
    if found != source.sha256:
        raise UserError(
            f"{source.url} sent a file with SHA-256 {found}, expected {source.sha256} (a login or quota page?); "
            f"try again later, or {_by_hand(source, path)}"
        )


def _by_hand(source: Fetched, path: Path) -> str:
    return f"download {source.page} by hand and put it at {path}"


def _reason(error: requests.RequestException, source: Fetched, broke: bool) -> str:
    """In a few words: what requests says itself takes lines."""
    host = urlsplit(source.url).hostname
    if error.response is not None:
        return f"{host} answered {error.response.status_code} {error.response.reason}"
    if broke:
        return f"the connection broke {ATTEMPTS} times"
    if isinstance(error, requests.Timeout):
        return f"{host} does not answer"
    return f"no connection to {host}"


class _Progress(tqdm):
    """A bar with rate and time left that ends with the rate of all bytes.

    pooch counts the last piece as a full one, and then resets the bar and adds everything at once.
    """

    def __bool__(self) -> bool:  # pooch asks before it has set the total
        return True

    def update(self, n: float | None = 1) -> bool | None:
        return super().update(min(n or 0, self.total - self.n) if self.total else n)

    def reset(self, total: Any = None) -> None:
        pass
