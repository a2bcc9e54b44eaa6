"""From models and photos to the folder with all tables, for the command and for the end of a training run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hyperinverter.evaluation import report
from hyperinverter.evaluation.measure import Measuring
from hyperinverter.evaluation.report import Results
from hyperinverter.system.progress import counted
from hyperinverter.system.terminal import say


def evaluate(
    measuring: Measuring, out: Path, *, timed: bool, together: Callable[[int], None] | None = None
) -> Results:
    """Measure what is not measured yet, time what is not timed yet, and write the tables.

    Args:
        measuring: Models, photos and protocol.
        out: The folder; scores of another protocol or of other photos in it are refused.
        timed: Whether models are timed alone as well.
        together: Measures in several processes; called with the number of photos that are left.

    Raises:
        UserError: If the folder holds other scores or cannot be written.
    """
    report.refuse_mixing(out, measuring.protocol, measuring.photos)
    report.write_record(out, measuring)
    if together is not None and (total := measuring.left()):
        together(total)
    with counted(
        "evaluating", measuring.left()
    ) as advance:  # all, or what a process that was stopped has left
        measuring.run(advance=advance)
    if timed:
        for label in measuring.models:
            say(f"timing {label}")
            measuring.time(label)
    return report.write_report(out, measuring.protocol)
