"""How long a way to invert takes: what is timed, how often, on what; never with reading, aligning or saving.

Photos and weights are on the device, the device is waited for on both sides of a call, and calls to warm up come first.
A way that takes minutes is timed a few times only; the number of calls stands next to every median.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.system.files import parse_json, write_json
from hyperinverter.system.machine import cpu_name, peak_ram_bytes, reset_peak_ram

WARM_UP, CALLS = 10, 50
BUDGET = 20.0  # seconds for the calls of one row; at least one call is made
BATCHES = (1, 8)
_FILE = "timing.json"


@dataclass(frozen=True)
class Timing:
    """One row of ``timing.csv``: seconds of a call, for a whole batch."""

    part: str  # inversion, phase I, phase II, edit, prepared edit
    batch: int
    median: float
    p5: float
    p95: float
    calls: int
    peak_mb: float  # of the device's memory while it was called; weights included
    device: str
    threads: int


@dataclass(frozen=True)
class _Step:
    """A direction of no meaning, to time an edit with."""

    name: str
    shift: Tensor


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """The processor or GPU, by its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def time_model(model: Drawing, photos: Tensor, budget: float = BUDGET) -> list[Timing]:
    """Time the inversion of one photo and of eight, its parts, and an edit.

    Args:
        model: On its device, in eval mode.
        photos: ``(N, 3, R, R)`` on the same device; with fewer than eight they are repeated.
        budget: Seconds for the calls of one row. A way whose first call takes longer is timed with that call alone,
            and only on a single photo.
    """
    device, rows = photos.device, []
    for batch in BATCHES:
        some = photos[torch.arange(batch) % len(photos)]
        calls: dict[str, Callable[[], Any]] = {"inversion": partial(model.invert, some)}
        phase1 = getattr(model, "w_inverter", None)
        if isinstance(phase1, Drawing):
            calls["phase I"] = partial(phase1.invert, some)
        taken, peak = _times(calls, device, budget)
        if (
            "phase I" in taken
        ):  # the second network and the second image: what the inversion takes more, call by call
            taken["phase II"] = [a - b for a, b in zip(taken["inversion"], taken["phase I"], strict=True)]
        rows += [_row(part, batch, seconds, peak, device) for part, seconds in taken.items()]
        slow = len(taken["inversion"]) == 1
        if batch == 1 or not slow:
            rows += _time_edits(model, model.invert(some), batch, budget)
        if slow:
            break
    return rows


def _time_edits(model: Drawing, inversion: Inversion, batch: int, budget: float) -> list[Timing]:
    device = inversion.w.device
    step = _Step("step", torch.full((inversion.w.shape[-1],), 0.01, device=device))
    calls: dict[str, Callable[[], Any]] = {"edit": lambda: model.edit(inversion, step, 1.0)}
    if batch == 1:
        prepared, moved = model.prepare(inversion), inversion.w + step.shift
        calls["prepared edit"] = lambda: prepared(moved)
    taken, peak = _times(calls, device, budget)
    return [_row(part, batch, seconds, peak, device) for part, seconds in taken.items()]


@torch.no_grad()
def _times(
    calls: Mapping[str, Callable[[], Any]], device: torch.device, budget: float
) -> tuple[dict[str, list[float]], int]:
    """Seconds of calls that take turns, so that all meet what else the machine does; and the peak, in bytes."""
    _reset_peak(device)
    first = {name: [_seconds(call, device)] for name, call in calls.items()}
    together = sum(seconds[0] for seconds in first.values())
    if together > budget:  # slow: the first call is all there is
        return first, _peak_bytes(device)
    begin = time.perf_counter()
    for _ in range(WARM_UP - 1):
        for call in calls.values():
            call()
        if time.perf_counter() - begin > budget / 4:
            break
    taken: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for made in range(CALLS):
        if made and time.perf_counter() - begin > budget:
            break
        for name, call in calls.items():
            taken[name].append(_seconds(call, device))
    return taken, _peak_bytes(device)


def _row(part: str, batch: int, seconds: Sequence[float], peak: int, device: torch.device) -> Timing:
    p5, median, p95 = (float(p) for p in np.percentile(seconds, (5, 50, 95)))
    memory, name = round(peak / 2**20, 1), device_name(device)
    return Timing(part, batch, median, p5, p95, len(seconds), memory, name, torch.get_num_threads())


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    synchronise(device)
    begin = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - begin


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_ram()


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_ram_bytes()


# Files and tables --------------------------------------------------------------------------------------------------


def keep_timings(folder: Path, rows: Sequence[Timing]) -> None:
    """Note what was timed of a model in the folder of its pieces."""
    write_json(folder / _FILE, [asdict(row) for row in rows])


def read_timings(folder: Path) -> list[Timing]:
    """What was timed of a model; nothing if it was not."""
    try:
        stored = parse_json((folder / _FILE).read_bytes())
        return [Timing(**row) for row in stored]
    except (OSError, ValueError, TypeError):
        return []  # not timed yet, or by another version: timed again


def timing_csv(timings: Mapping[str, Sequence[Timing]]) -> str:
    """CSV, one row per model, part and batch."""
    names = [field.name for field in fields(Timing)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["model", *names])
    for label, rows in timings.items():
        table.writerows([label, *(_cell(getattr(row, name)) for name in names)] for row in rows)
    return text.getvalue()


def timing_markdown(timings: Mapping[str, Sequence[Timing]]) -> str:
    """Markdown, one row per model: medians in seconds with 5 and 95 %, memory, and where."""
    columns = [
        ("inversion", 1),
        ("phase I", 1),
        ("phase II", 1),
        ("edit", 1),
        ("prepared edit", 1),
        ("inversion", 8),
    ]
    head = [
        "model",
        *(f"{part}, {batch} photo{'s' if batch > 1 else ''}" for part, batch in columns),
        "MB",
        "calls",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for label, rows in timings.items():
        by = {(row.part, row.batch): row for row in rows}
        cells = [_spread(by[column]) if column in by else "" for column in columns]
        first = by["inversion", 1]
        lines.append("| " + " | ".join([label, *cells, f"{first.peak_mb:.0f}", str(first.calls)]) + " |")
    where = {(row.device, row.threads) for rows in timings.values() for row in rows}
    lines += [
        "",
        "On "
        + "; ".join(f"{device}, {threads} thread{'s' * (threads > 1)}" for device, threads in sorted(where))
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _spread(row: Timing) -> str:
    many = f" ({row.p5:.3g} to {row.p95:.3g})" if row.calls > 1 else ""
    return f"{row.median:.3g}{many}"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
