"""How a recipe ends when what was typed is wrong: one sentence and exit status 1."""

from __future__ import annotations

from collections.abc import Callable

from hyperinverter.contracts import UserError
from hyperinverter.system.terminal import fail


def said(main: Callable[[], object]) -> None:
    """Run a recipe; a ``UserError``, or a file that is not there, is its sentence on the terminal.

    Raises:
        SystemExit: With status 1 after such a sentence.
    """
    try:
        main()
    except UserError as error:
        fail(str(error))
    except FileNotFoundError as error:
        reason = (
            f"there is no {error.filename}" if error.filename else str(error)
        )  # safetensors has it in words
        fail(f"{reason}; check what was typed")
