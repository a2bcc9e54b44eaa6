"""How a sweep is doing: a line per ended job, and on a terminal a live table of the running ones."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from hyperinverter.contracts import printable
from hyperinverter.runs import read_card
from hyperinverter.system.files import parse_json
from hyperinverter.system.terminal import duration, write_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_EVERY = 1.0  # seconds between two drawings of the table


class Shown(Protocol):
    """What the board asks of a job."""

    num: int
    name: str
    folder: Path
    given_up: bool

    @property
    def failed(self) -> bool:
        """Whether it ended without finishing."""

    def cause(self) -> str:
        """Why it failed, in one sentence."""


class Board:
    """A line per ended job on stderr; on a terminal also a live table of the running jobs below them.

    Args:
        total: How many jobs there are.
        console: Where to draw the table; default stderr, if it is a terminal.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        from rich.console import Console  # only sweeps need it, and every command loads this module
        from rich.live import Live

        console = console or Console(stderr=True)
        self._total, self._done, self._drawn = total, 0, -_EVERY
        live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live = live if console.is_terminal else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._live is None:
            write_line(line)
        else:
            self._live.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def skipped(self, count: int) -> None:
        """Report jobs that had finished before this sweep began."""
        self._done += count
        self.say(f"{count} of {self._total} jobs have finished before")

    def ended(self, job: Shown) -> None:
        """Report a job that has ended, however it did."""
        self._done += 1
        self._drawn = -_EVERY  # the table still shows it: draw the next one at once
        self.say(f"[{self._done}/{self._total}] job {job.num} {job.name}: {_outcome(job)}")

    def show(self, running: Sequence[Shown], waiting: int) -> None:
        """Draw the table again, if it is time for it."""
        if self._live is None or time.monotonic() - self._drawn < _EVERY:
            return
        self._drawn = time.monotonic()
        table = live_table([(job.num, job.name, job.folder) for job in running])
        table.caption = f"{self._done} of {self._total} done, {waiting} waiting"
        self._live.update(table, refresh=True)


def _outcome(job: Shown) -> str:
    if job.failed:
        return "stopped early" if job.given_up else f"FAILED: {job.cause()} ({job.folder}/log.txt)"
    card = read_card(job.folder) or {}
    metrics, rank = card.get("metrics") or {}, card.get("rank_by")
    score = f"{str(rank).removeprefix('test/')} {metrics[rank]:.4g}, " if rank in metrics else ""
    return f"{score}{card.get('seconds', 0):.0f} s"


def live_table(running: Sequence[tuple[int, str, Path]]) -> Table:
    """One row per running job: what it does, photos seen, loss, rate and time left.

    Args:
        running: Number, name and folder of each.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="", caption_justify="left")
    table.add_column("job", no_wrap=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis", max_width=32)
    for head in ("doing", "kimg", "loss", "images/s", "left"):
        table.add_column(head, no_wrap=True, justify="left" if head == "doing" else "right")
    for num, name, folder in running:
        table.add_row(str(num), _plain_text(name), *_progress(folder))
    return table


def _plain_text(name: str) -> Any:
    from rich.text import Text

    return Text(printable(name))  # a name such as [0.1,0.2] is not markup


def _progress(folder: Path) -> list[str]:
    """What ``progress.json`` says; a job that has not written it is starting."""
    try:
        state = parse_json((folder / "progress.json").read_text(encoding="utf-8"))
        loss, rate, left = (state.get(key) for key in ("loss", "images_per_second", "seconds_left"))
        return [
            str(state["stage"]),
            f"{state['images'] / 1000:.2f}/{state['total'] / 1000:g}",
            "" if loss is None else f"{loss:.4f}",
            f"{rate:.1f}" if rate else "",
            "" if left is None else duration(left),
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return ["starting", "", "", "", ""]


class Signals:
    """Counts SIGINT, SIGTERM and SIGHUP instead of ending by them."""

    def __enter__(self) -> Signals:
        self.received, self._woken = 0, threading.Event()
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, *_: object) -> None:
        self.received += 1
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond a signal."""
        self._woken.wait(seconds)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
