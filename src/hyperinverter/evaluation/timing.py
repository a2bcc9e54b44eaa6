"""How long ways to invert take: what is timed, how often, on what; never with reading, aligning or saving.

Photos and weights are on the device, the device is waited for on both sides of a call, and calls to warm up come first.
A way that takes minutes is timed a few times only; the number of calls stands next to every median.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
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
BUDGET = 20.0  # seconds for the calls of one model; at least one call is made
SLOW, SLOW_CALLS = (
    6,
    3,
)  # models whose first call takes longer than the budget, but not six budgets, are called three times
BATCHES = (1, 8)
ROUNDS = 2 * len(BATCHES) * CALLS  # inversions and edits
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
    styles: Mapping[str, Tensor] = field(default_factory=dict)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """The processor or GPU, by its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def time_models(
    models: Mapping[str, Drawing],
    photos: Tensor,
    budget: float = BUDGET,
    advance: Callable[[int], None] = lambda rounds: None,
) -> dict[str, list[Timing]]:
    """Time the inversion of one photo and of eight, its parts, and an edit, of models that take turns.

    Call by call, so that all models meet what else the machine does, and their seconds can be divided by each other.

    Args:
        models: By their labels; on their device, in eval mode.
        photos: ``(N, 3, R, R)`` on the same device; with fewer than eight they are repeated.
        budget: Seconds for the calls of one model. One whose first call takes longer is slow: it is called
            ``SLOW_CALLS`` times, or only once if that call takes ``SLOW`` budgets, and on a single photo.
        advance: Called after every round, ``ROUNDS`` in all.

    Returns:
        The rows of every model.
    """
    rows: dict[str, list[Timing]] = {label: [] for label in models}
    left = dict(models)
    for batch in BATCHES:
        some = photos[torch.arange(batch) % len(photos)]
        inverting = {
            label: _Turns(_inverting(model, some), some.device, budget) for label, model in left.items()
        }
        _take_turns(list(inverting.values()), budget, advance)
        fast = {label: model for label, model in left.items() if not inverting[label].slow}
        edited = left if batch == 1 else fast
        editing = {
            label: _Turns(_editing(model, inverting[label].found["inversion"]), some.device, budget)
            for label, model in edited.items()
        }
        _take_turns(list(editing.values()), budget, advance)
        for label in left:
            rows[label] += inverting[label].rows(batch)
            rows[label] += editing[label].rows(batch) if label in editing else []
        left = fast
    return rows


def _inverting(model: Drawing, photos: Tensor) -> dict[str, Callable[[], Any]]:
    calls: dict[str, Callable[[], Any]] = {"inversion": partial(model.invert, photos)}
    phase1 = getattr(model, "w_inverter", None)
    if isinstance(phase1, Drawing):
        calls["phase I"] = partial(phase1.invert, photos)
    return calls


def _editing(model: Drawing, inversion: Inversion) -> dict[str, Callable[[], Any]]:
    step = _Step("step", torch.full((inversion.w.shape[-1],), 0.01, device=inversion.w.device))
    calls: dict[str, Callable[[], Any]] = {"edit": lambda: model.edit(inversion, step, 1.0)}
    if len(inversion.w) == 1:
        prepared, moved = model.prepare(inversion), inversion.w + step.shift
        calls["prepared edit"] = lambda: prepared(moved)
    return calls


class _Turns:
    """Calls of one model that belong together, and their seconds.

    The first calls are made at once and alone, so that the peak of the memory is this model's.

    Attributes:
        seconds: Name -> of every call.
        found: Name -> what the first call returned.
        first: Seconds of the first calls, together.
        slow: Whether that is more than the budget.
    """

    @torch.no_grad()
    def __init__(self, calls: Mapping[str, Callable[[], Any]], device: torch.device, budget: float) -> None:
        self._calls, self._device = calls, device
        _reset_peak(device)
        made = {name: _seconds(call, device) for name, call in calls.items()}
        self._peak = _peak_bytes(device)
        self.seconds = {name: [seconds] for name, (seconds, _) in made.items()}
        self.found = {name: found for name, (_, found) in made.items()}
        self.first = sum(seconds for seconds, _ in made.values())
        self.slow = self.first > budget

    @torch.no_grad()
    def call(self) -> None:
        for name, call in self._calls.items():
            self.seconds[name].append(_seconds(call, self._device)[0])

    def spent(self) -> float:
        return sum(sum(seconds) for seconds in self.seconds.values())

    def forget(self) -> None:
        """Leave out the calls that warmed up."""
        self.seconds = {name: [] for name in self.seconds}

    def rows(self, batch: int) -> list[Timing]:
        taken = dict(self.seconds)
        if (
            "phase I" in taken
        ):  # the second network and the second image: what an inversion takes more, call by call
            taken["phase II"] = [a - b for a, b in zip(taken["inversion"], taken["phase I"], strict=True)]
        return [_row(part, batch, seconds, self._peak, self._device) for part, seconds in taken.items()]


def _take_turns(models: Sequence[_Turns], budget: float, advance: Callable[[int], None]) -> None:
    """Call all models in turn: fast ones ``CALLS`` times, after calls to warm up; slow ones now and then in between."""
    fast = [model for model in models if not model.slow]
    again = [model for model in models if model.slow and model.first <= SLOW * budget]
    for model in fast:
        for _ in range(WARM_UP - 1):
            model.call()
            if model.spent() > budget / 4:
                break
        model.forget()
    pauses = {CALLS * call // SLOW_CALLS for call in range(1, SLOW_CALLS)}
    for made in range(CALLS):
        for model in again if made in pauses else ():
            model.call()
        for model in fast:
            if not made or model.spent() <= budget:
                model.call()
        advance(1)


def _row(part: str, batch: int, seconds: Sequence[float], peak: int, device: torch.device) -> Timing:
    p5, median, p95 = (float(p) for p in np.percentile(seconds, (5, 50, 95)))
    memory, name = round(peak / 2**20, 1), device_name(device)
    return Timing(part, batch, median, p5, p95, len(seconds), memory, name, torch.get_num_threads())


def _seconds(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    synchronise(device)
    begin = time.perf_counter()
    found = call()
    synchronise(device)
    return time.perf_counter() - begin, found


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_ram()


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_ram_bytes()


# Files and tables --------------------------------------------------------------------------------------------------


def keep_timings(folder: Path, rows: Sequence[Timing], moment: str) -> None:
    """Note what was timed of a model in the folder of its pieces, and a name for the turns it was timed in."""
    write_json(folder / _FILE, {"moment": moment, "rows": [asdict(row) for row in rows]})


def read_timings(folder: Path) -> list[Timing]:
    """What was timed of a model; nothing if it was not."""
    return _stored(folder)[1]


def timed_together(folders: Sequence[Path], device: str) -> bool:
    """Whether all of these models were timed on this device, in the same turns."""
    stored = [_stored(folder) for folder in folders]
    return (
        all(rows and rows[0].device == device for _, rows in stored)
        and len({moment for moment, _ in stored}) == 1
    )


def _stored(folder: Path) -> tuple[str, list[Timing]]:
    try:
        stored = parse_json((folder / _FILE).read_bytes())
        return str(stored["moment"]), [Timing(**row) for row in stored["rows"]]
    except (OSError, ValueError, TypeError, KeyError):
        return "", []  # not timed yet, or by another version: timed again


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
        + ("." if len(timings) == 1 else "; the models took turns, call by call."),
    ]
    return "\n".join(lines) + "\n"


def _spread(row: Timing) -> str:
    many = f" ({row.p5:.3g} to {row.p95:.3g})" if row.calls > 1 else ""
    return f"{row.median:.3g}{many}"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
