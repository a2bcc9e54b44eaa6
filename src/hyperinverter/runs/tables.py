"""A sweep's ranking to read: as Markdown, and in the terminal."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinverter import measures
from hyperinverter.contracts import printable
from hyperinverter.runs.compare import summary

if TYPE_CHECKING:
    import pandas as pd  # takes most of a second to import


def markdown(frame: pd.DataFrame) -> str:
    """A summary as a Markdown table; mean ± spread in one cell."""
    shown = _readable(frame)
    lines = ["| " + " | ".join(map(_escaped, shown[0])) + " |", "|" + " --- |" * len(shown[0])]
    lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in shown[1:]]
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    """A cell that no reader of Markdown takes for a bar, HTML or a line break."""
    return html.escape(printable(cell), quote=False).replace("|", "\\|")


def show(sweep: Path | str) -> None:
    """Print a sweep's ranking to the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    frame = summary(sweep)
    console = Console()
    if not console.is_terminal:
        console = Console(width=190)  # a log file has no edge to wrap at
    # A narrow terminal shows the ranking and the first numbers; table.md has all.
    header, *rows = [line if console.width >= 150 else line[:6] for line in _readable(frame)]
    printed = Table(title=Text(Path(sweep).name), title_justify="left")
    for index, name in enumerate(header):
        printed.add_column(Text(name), justify="left" if index == 1 else "right", overflow="fold")
    for row in rows:
        printed.add_row(*(Text(printable(cell)) for cell in row))  # fusion=[a] is not markup
    console.print(printed)


def _readable(frame: pd.DataFrame) -> list[list[str]]:
    """Header and rows as text: mean and spread in one cell, no factor columns, phase I as the last row."""
    names = [str(name) for name in frame]
    metrics = [name for name in names if f"{name}_std" in names and not name.startswith("phase1/")]
    always = ["rank", "name", "seeds", *metrics, "parameters", "seconds"]
    columns = always + (["failed"] if frame.failed.any() else [])
    rows = [columns]
    for _, row in frame.iterrows():
        cells = []
        for name in columns:
            spread = row[f"{name}_std"] if name in metrics else math.nan
            cells.append(_cell(row[name], name) + ("" if math.isnan(spread) else f" ± {spread:.2g}"))
        rows.append(cells)
    started = {name: frame[f"phase1/{name}"].mean() for name in metrics if f"phase1/{name}" in frame}
    if started:
        rows.append(["phase I" if n == "name" else _cell(started.get(n, math.nan), n) for n in columns])
    return rows


def _cell(value: Any, name: str) -> str:
    return value if isinstance(value, str) else measures.shown(value, name)
