"""What a person reads in the terminal: lines, the sentence of a failure, durations, short paths."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn, TextIO

from hyperinverter.contracts import printable
from hyperinverter.system.processes import is_first

_warned: set[str] = set()


def say(line: str) -> None:
    """Print a line for the person at the terminal, once however many processes there are."""
    if is_first():
        write_line(line)


def write_line(line: str) -> None:
    """Print a line from this process; a name in it that holds a line break is still part of the line."""
    write(printable(line, keep="\t") + "\n")


def write(text: str) -> None:
    """Print text from this process, as far as it can be printed: no run ends because nobody can read what it says.

    The stream may be closed or on a full disk, and its encoding may not have every letter.
    """
    with contextlib.suppress(OSError, ValueError):
        _print(text, sys.stderr)


def put(line: str) -> None:
    """Print a line of a result to standard output, as far as it can be printed.

    Raises:
        BrokenPipeError: If the reader has seen enough, as behind ``| head``.
    """
    try:
        _print(f"{line}\n", sys.stdout)
    except BrokenPipeError:
        raise
    except (OSError, ValueError):
        return


def _print(text: str, stream: TextIO | None) -> None:
    """Print a text without what steers a terminal; letters that the stream does not have become escapes."""
    if stream is None:
        return
    text = printable(text, keep="\n\t\r")
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def warn_once(log: logging.Logger, about: str, sentence: str, *values: object) -> None:
    """Log a warning, the first time in this process of all that have the same ``about``.

    A folder may hold thousands of photos that deserve it.
    """
    if about not in _warned:
        _warned.add(about)
        log.warning(sentence, *values)


class _Lines(logging.Handler):
    """Prints what is logged as every other line: names in it cannot steer the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        write(f"{line}\n") if record.exc_info else write_line(line)


def prepare_streams() -> None:
    """Make the standard streams safe to print to, at the start of a command.

    What is logged goes the way of every other line. A stream that the process was started without, as by ``2>&-``, is
    opened on nothing: else the next file to be opened takes its number, and what libraries print goes into that.
    """
    logging.lastResort = _Lines(logging.WARNING)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # to the end


def fail(sentence: str, *, debug: bool = False, everywhere: bool = False) -> NoReturn:
    """Say why, and leave with exit status 1.

    Args:
        sentence: Why.
        debug: Whether to show the traceback of the current exception too.
        everywhere: Whether every process speaks: what is wrong in one of several may not show in the first.
    """
    if debug:
        write(traceback.format_exc())
    (write_line if everywhere else say)(f"error: {sentence}")
    leave(1)


def leave(status: int) -> NoReturn:
    """End this process with a status, whatever is left in its streams: a closed one would turn 0 into 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # closed, as behind `| head`, or on a full disk
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def duration(seconds: float) -> str:
    """Seconds as people say them: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def short(path: Path) -> str:
    """A path as one would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
