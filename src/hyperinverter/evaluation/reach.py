"""How long a search takes until it is as close to a photo as a model that needs one forward pass."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inversion.optimise import Optimiser
from hyperinverter.inversion.tuning import PivotalTuning
from hyperinverter.system.files import parse_json, write_json

Trace = list[tuple[float, float]]  # seconds since the start, squared error
_FILE = "trace.json"


def keep_trace(folder: Path, model: Drawing, photo: Tensor) -> None:
    """Note how the error of one photo ``(1, 3, R, R)`` falls while it is searched for; nothing for other models."""
    if not isinstance(model, (Optimiser, PivotalTuning)):
        return
    if not model.trace or any(len(error) != 1 for _, error in model.trace):  # the last call had more photos
        model.invert(photo)
    write_json(folder / _FILE, [[seconds, float(error[0])] for seconds, error in model.trace])


def read_trace(folder: Path) -> Trace:
    """What was noted; nothing if the model is no search, or was not timed."""
    try:
        return [
            (float(seconds), float(error)) for seconds, error in parse_json((folder / _FILE).read_bytes())
        ]
    except (OSError, ValueError, TypeError):
        return []


def seconds_until(trace: Sequence[tuple[float, float]], error: float) -> float:
    """Seconds until the squared error is as low; NaN if it never is."""
    return next((seconds for seconds, found in trace if found <= error), math.nan)


def reach_csv(traces: Mapping[str, Trace], errors: Mapping[str, float]) -> str:
    """CSV, one row per search and model: the model's error on the photo, and the seconds until the search has it.

    Args:
        traces: Label of a search -> how its error falls on the first photo.
        errors: Label of any other model -> its L2 on the same photo.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["search", "model", "l2", "seconds"])
    for search, trace in traces.items():
        for label, error in errors.items():
            seconds = seconds_until(trace, error)
            table.writerow([search, label, f"{error:.6g}", "" if math.isnan(seconds) else f"{seconds:.4g}"])
    return text.getvalue()


def reach_markdown(traces: Mapping[str, Trace], errors: Mapping[str, float]) -> str:
    """The same, one row per search and one column per model."""
    head = ["search", *(f"{label} ({error:.4f})" for label, error in errors.items())]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for search, trace in traces.items():
        seconds = [seconds_until(trace, error) for error in errors.values()]
        lines.append(
            f"| {search} | " + " | ".join("never" if math.isnan(s) else f"{s:.3g}" for s in seconds) + " |"
        )
    return "\n".join(lines) + "\n"
