"""Runs on disk: find them, compare the jobs of a sweep, publish what is worth citing.

For notebooks: ``from hyperinverter import runs``. Nothing here loads torch, and pandas only where a table is made.
"""

from hyperinverter.runs.card import CARD, RunCard, read_card
from hyperinverter.runs.compare import best_is_highest, curves, metric_names, rank_by, summary, table
from hyperinverter.runs.find import (
    SWEEP,
    cards,
    jobs,
    latest_finished,
    latest_sweep,
    latest_unfinished,
    latest_unfinished_sweep,
    read_metrics,
    read_sweep,
    settings,
)
from hyperinverter.runs.panel import panel
from hyperinverter.runs.publish import publish, write_comparison
from hyperinverter.runs.tables import markdown, show

__all__ = [
    "CARD",
    "SWEEP",
    "RunCard",
    "best_is_highest",
    "cards",
    "curves",
    "jobs",
    "latest_finished",
    "latest_sweep",
    "latest_unfinished",
    "latest_unfinished_sweep",
    "markdown",
    "metric_names",
    "panel",
    "publish",
    "rank_by",
    "read_card",
    "read_metrics",
    "read_sweep",
    "settings",
    "show",
    "summary",
    "table",
    "write_comparison",
]
