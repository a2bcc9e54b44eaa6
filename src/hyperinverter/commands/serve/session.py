"""Who has the page open: a session for each browser, with its photos and a temporary folder; all of it bounded."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import TypeVar

from hyperinverter.commands.serve.studio import Opened, Photo
from hyperinverter.contracts import UserError

MOST_SESSIONS = 24
MOST_PHOTOS = 4  # uploads that a session keeps
MOST_OPENED = 6  # inversions that a session keeps; about 4 MB each at 64 px
IDLE = 3600.0  # seconds after which a session may go

T = TypeVar("T")


class Session:
    """What one browser has opened. Ids cannot be guessed, and mean nothing in another session."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hyperinverter-editor-")
        self.folder = Path(self._folder.name)
        self.photos: OrderedDict[str, Photo] = OrderedDict()
        self.opened: OrderedDict[str, Opened] = OrderedDict()
        self.used = time.monotonic()
        self.progress: tuple[int, int] | None = None
        self.cancelled = False

    def add_photo(self, photo: Photo) -> str:
        """Keep a photo; the oldest goes, with its file."""
        self.photos[(key := secrets.token_urlsafe(9))] = photo
        while len(self.photos) > MOST_PHOTOS:
            _, old = self.photos.popitem(last=False)
            if not any(opened.source == old.path for opened in self.opened.values()):
                old.path.unlink(missing_ok=True)
        return key

    def add_opened(self, opened: Opened) -> str:
        """Keep an opened photo; the oldest goes."""
        self.opened[(key := secrets.token_urlsafe(9))] = opened
        while len(self.opened) > MOST_OPENED:
            self.opened.popitem(last=False)
        return key

    def photo(self, key: object) -> Photo:
        """A photo by its id."""
        return _found(self.photos, key)

    def open(self, key: object) -> Opened:
        """An opened photo by its id."""
        return _found(self.opened, key)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        self.photos.clear()
        self.opened.clear()
        self._folder.cleanup()


def _found(kept: OrderedDict[str, T], key: object) -> T:
    if not isinstance(key, str) or key not in kept:
        raise UserError("this photo is not open any more: open it again")
    kept.move_to_end(key)
    return kept[key]


class Sessions:
    """All sessions; the one that was idle longest goes when there are too many."""

    def __init__(self, most: int = MOST_SESSIONS) -> None:
        self.most = most
        self._kept: OrderedDict[str, Session] = OrderedDict()

    def of(self, key: str | None) -> tuple[str, Session]:
        """The session of a cookie; a new one, under a key of its own, where there is none."""
        now = time.monotonic()
        for old in [name for name, session in self._kept.items() if now - session.used > IDLE]:
            self._kept.pop(old).close()
        if key is None or key not in self._kept:
            key = secrets.token_urlsafe(24)
            self._kept[key] = Session()
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)[1].close()
        self._kept.move_to_end(key)
        self._kept[key].used = now
        return key, self._kept[key]

    def close(self) -> None:
        """Close all."""
        while self._kept:
            self._kept.popitem()[1].close()
