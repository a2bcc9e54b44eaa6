"""The console command ``hyperinverter``: typer reads what was typed, the command runs here.

To add a command ``NAME``:

1. Write ``commands/NAME.py`` with a function ``NAME``. Its typed parameters are the command's arguments and options
   (https://typer.tiangolo.com), its docstring is what ``hyperinverter NAME --help`` says, and what it returns is the
   exit status. What the person can fix is raised as ``UserError``. Import torch inside functions, not at the head of
   the file: ``--help`` imports the file. A package ``commands/NAME/__init__.py`` works as well.
2. Give the file a constant ``EXAMPLE``: a complete command that works on the packaged model. ``--help`` shows it and
   ``tests/commands/test_commands.py`` reads it. ``CONTEXT`` is optional: settings of typer's parser.
3. Add a line to ``COMMANDS``.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from hyperinverter.contracts import UserError
from hyperinverter.system.errors import cause
from hyperinverter.system.terminal import prepare_streams, put, write

# Name of the command, of its module and of the function in it -> what `hyperinverter --help` says of it.
COMMANDS = {
    "train": "Train one phase, or a sweep of runs.",
    "align": "Find the faces of photos and cut them out.",
    "paste": "Put edited crops back into their photos.",
    "invert": "Invert photos: images, codes and residuals in files.",
    "edit": "Edit photos along directions: pictures, strips, animations.",
    "interpolate": "Go from one photo to another in equal steps.",
    "mix": "Draw one photo's code with another photo's residuals.",
    "directions": "List, show, fit or discover directions of editing.",
    "serve": "Open the editor: a photo in the browser, and sliders.",
    "evaluate": "Measure and compare ways to invert, on the same photos.",
    "doctor": "Show what this machine has, and what a domain still needs.",
    "weights": "Fetch weight files, once and checked, or list them.",
    "bench": "Measure speed, memory and arithmetic on this machine.",
}

DEBUG = "HYPERINVERTER_DEBUG"  # 1 shows tracebacks, as for training
Call = Callable[[], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every expected failure is one sentence on stderr.

    Args:
        arguments: As typed after ``hyperinverter``; default those of this process.
    """
    prepare_streams()
    typed = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = _status(_parse(typed))
        _flush()  # here, where a reader that has gone is expected
        return status
    except typer.TyperException as error:  # of the parser: an option that does not exist, a missing argument
        write(f"error: {_sentence(error, typed[0])}\n")
        return 2
    except UserError as error:
        write(f"error: {error}\n")
        return 1
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has nowhere to go
        return 141  # as of a process that the signal for it ended
    except KeyboardInterrupt:
        write("\ninterrupted\n")
        return 130
    except Exception as error:  # what no part of the command has foreseen: still one sentence
        if os.environ.get(DEBUG) == "1":
            write(traceback.format_exc())
        write(f"error: {_unforeseen(error)}\n")
        return 1


def _flush() -> None:
    """Write what is left for standard output; it may be closed or on a full disk, which is no failure."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else its end would change the exit status


def _parse(typed: list[str]) -> Call | int:
    """The call that was asked for, or the exit status where typer has answered by itself (``--help``)."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.callback()(_root)
    for name, about in COMMANDS.items():
        if name == typed[0]:  # only this one is imported: `hyperinverter --help` answers at once
            module = importlib.import_module(f"hyperinverter.commands.{name}")
            register = app.command(
                name, epilog=f"Example: {module.EXAMPLE}", context_settings=getattr(module, "CONTEXT", None)
            )
            register(_later(getattr(module, name)))
        else:
            app.command(name, help=about)(_root)
    result: Call | int = get_command(app).main(typed, prog_name="hyperinverter", standalone_mode=False)
    return result


def _later(command: Callable[..., int]) -> Callable[..., Call]:
    """The command, called later with what typer has read: outside of typer, which has its own way with Ctrl-C."""

    @functools.wraps(command)
    def keep(**given: Any) -> Call:
        return functools.partial(command, **given)

    return keep


def _status(asked: Call | int | None) -> int:
    return asked() if callable(asked) else asked or 0


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        put(f"hyperinverter {version('hyperinverter')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Invert photos into StyleGAN2 in one forward pass, and compare designs by experiment.

    Every command explains itself: hyperinverter COMMAND --help
    """


def _unforeseen(error: Exception) -> str:
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)} may not be read or written; change its permissions"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}; check the path and the disk"
    return f"{cause(error)}: check what was typed ({DEBUG}=1 shows where it happened)"


def _sentence(error: typer.TyperException, first: str) -> str:
    """What the parser says, on one line, and where to read more."""
    text = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    more = f"{first} --help" if first in COMMANDS else "--help"
    return f"{text[:1].lower()}{text[1:]}; see hyperinverter {more}".replace("?;", "?")
