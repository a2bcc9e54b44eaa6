"""Who has the page open: a session for each browser, with its photos and a temporary folder; all of it bounded."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from hyperinverter.commands.serve.studio import Opened, Photo
from hyperinverter.contracts import UserError

MOST_SESSIONS = 24
MOST_PHOTOS = 4  # uploads that a session keeps
MOST_OPENED = 6  # opened photos that a session keeps
MOST_KEPT = 2 << 30  # bytes of inversions in all sessions; one takes about 4 MB at 64 px
IDLE = 3600.0  # seconds after which a session may go

T = TypeVar("T")


class Search:
    """A slow inversion that a session waits for. It stops at its next step once it is cancelled."""

    def __init__(self) -> None:
        self.step, self.steps = 0, 0
        self.cancelled = False

    def __call__(self, step: int, steps: int) -> None:
        """Note a step; called by the model."""
        self.step, self.steps = step, steps
        self.go_on()

    def go_on(self) -> None:
        """Raise ``Cancelled`` if nobody waits for it any more."""
        if self.cancelled:
            raise Cancelled


class Cancelled(Exception):
    """A search that the person stopped."""


class Session:
    """What one browser has opened. Ids cannot be guessed, and mean nothing in another session."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hyperinverter-editor-")
        self.folder = Path(self._folder.name)
        self.photos: OrderedDict[str, Photo] = OrderedDict()
        self.opened: OrderedDict[str, Opened] = OrderedDict()
        self.used = time.monotonic()
        self.searches: dict[
            tuple[str, int], Search
        ] = {}  # (id of the opened photo, model) -> what it waits for

    def add_photo(self, photo: Photo) -> str:
        """Keep a photo; the oldest goes, with its file."""
        self.photos[(key := secrets.token_urlsafe(9))] = photo
        if len(self.photos) > MOST_PHOTOS:
            self.release([next(iter(self.photos))], [])
        return key

    def add_opened(self, opened: Opened) -> str:
        """Keep an opened photo; the oldest goes."""
        self.opened[(key := secrets.token_urlsafe(9))] = opened
        if len(self.opened) > MOST_OPENED:
            self.release([], [next(iter(self.opened))])
        return key

    def release(self, photos: Sequence[str], opened: Sequence[str]) -> None:
        """Forget photos by their ids, with files that nothing needs any more."""
        gone = [self.photos.pop(key).path for key in photos if key in self.photos]
        gone += [source for key in opened if key in self.opened and (source := self.opened.pop(key).source)]
        used = {photo.path for photo in self.photos.values()} | {each.source for each in self.opened.values()}
        for path in set(gone) - used:
            path.unlink(missing_ok=True)

    def photo(self, key: object) -> Photo:
        """A photo by its id."""
        return _found(self.photos, key)

    def open(self, key: object) -> Opened:
        """An opened photo by its id."""
        return _found(self.opened, key)

    def close(self) -> None:
        """Stop its searches, and remove the folder with all that is in it."""
        for search in self.searches.values():
            search.cancelled = True
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

    def bound(self, most: int = MOST_KEPT) -> None:
        """Forget the opened photos that were used longest ago, until what is kept fits; the last one stays."""
        opened = [(session, key) for session in self._kept.values() for key in session.opened]
        kept = sum(session.opened[key].bytes() for session, key in opened)
        for session, key in opened[:-1]:
            if kept <= most:
                return
            kept -= session.opened[key].bytes()
            session.release([], [key])

    def close(self) -> None:
        """Close all."""
        while self._kept:
            self._kept.popitem()[1].close()
