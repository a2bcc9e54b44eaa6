"""A limited time shared out among the parts of a measurement, the most important first.

A part is asked to stop when its share is used up, and says what it left out. What it did not need goes to the parts
after it. A part that fails says so in a sentence, and the next one begins. ``Limit`` ends the process where nothing
else would.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

Clock = Callable[[], float]


@dataclass
class Share:
    """The time of one part, in seconds."""

    seconds: float
    clock: Clock
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def taken(self) -> float:
        return self.clock() - self.began

    def over(self, what: str) -> bool:
        """Whether the share is used up; if so, ``what`` is noted as left out."""
        if self.taken < self.seconds:
            return False
        self.left_out.append(what)
        return True


class Part(NamedTuple):
    """A measurement."""

    name: str
    weight: float  # of its share, against those of the parts after it
    run: Callable[[Share], None]


class Outcome(NamedTuple):
    """What became of a part."""

    name: str
    seconds: float
    share: float
    said: str
    failed: bool = False


def share_out(
    parts: Sequence[Part],
    seconds: float,
    clock: Clock = time.perf_counter,
    after_each: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run parts one after the other, each within its share of the seconds that are left; none begins without any."""
    began, outcomes = clock(), []
    for number, part in enumerate(parts):
        left = seconds - (clock() - began)
        share = Share(left * part.weight / sum(one.weight for one in parts[number:]), clock)
        outcomes.append(
            _run(part, share) if left > 0 else Outcome(part.name, 0, 0, "not begun: no time was left")
        )
        after_each(outcomes[-1])
    return outcomes


def _run(part: Part, share: Share) -> Outcome:
    try:
        part.run(share)
    except Exception as error:  # of any kind: the other parts are to be measured all the same
        first = (str(error).splitlines() or [""])[0]
        said = f"failed: {type(error).__name__}{': ' * bool(first)}{first}"
        return Outcome(part.name, share.taken, share.seconds, said, failed=True)
    said = f"left out: {', '.join(share.left_out)}" if share.left_out else "done"
    return Outcome(part.name, share.taken, share.seconds, said)


class Limit:
    """Within, the process ends with code 1 after some seconds, even in a call that does not return.

    Args:
        seconds: From entering on.
        last_words: Called before the end, in a thread of its own.
        end: Ends the process; it does not wait for other threads.
    """

    def __init__(
        self, seconds: float, last_words: Callable[[], None], end: Callable[[int], object] = os._exit
    ) -> None:
        self._last_words, self._end = last_words, end
        self._timer = threading.Timer(seconds, self._stop)
        self._timer.daemon = True

    def _stop(self) -> None:
        try:
            self._last_words()
        finally:
            self._end(1)

    def __enter__(self) -> Limit:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
