"""An error in one line."""

from __future__ import annotations

from hyperinverter.contracts import UserError


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's message that is not empty, else the name of its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:limit]


def cause(error: BaseException) -> str:
    """An error in one line: a ``UserError`` as it stands, of others the class as well."""
    line, kind = first_line(error), type(error).__name__
    return line if isinstance(error, UserError) or line == kind else f"{kind}: {line}"
