"""How far long work is: a bar where a person looks, a line now and then in a log; both with rate and time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from hyperinverter.system.terminal import duration, say

if TYPE_CHECKING:
    from rich.progress import Progress

_EVERY = 30.0  # seconds between two lines of a log


def progress() -> AbstractContextManager[Progress]:
    """A bar with rate and time left, on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Rate(TextColumn):
        def render(self, task: Any) -> Any:
            self.text_format = f"{task.speed:.1f}/s" if task.speed else ""
            return super().render(task)

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(""),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


@contextmanager
def counted(doing: str, total: int, every: float = _EVERY) -> Iterator[Callable[[float], None]]:
    """Count work that is done: a bar at a terminal, else a line every ``every`` seconds.

    Args:
        doing: Such as "evaluating".
        total: Of the parts.
        every: Seconds between two lines.

    Returns:
        Called with the parts that were done since the last call.
    """
    begin = last = time.monotonic()
    done = 0.0
    with progress() as bar:
        task = bar.add_task(doing, total=total)

        def advance(parts: float) -> None:
            nonlocal done, last
            done += parts
            bar.advance(task, parts)
            now = time.monotonic()
            if bar.disable and done and now - last >= every:
                last, rate = now, done / (now - begin)
                say(
                    f"{doing}: {done:,.0f} of {total:,}, {rate:.3g}/s, {duration((total - done) / rate)} left"
                )

        yield advance
