"""The jobs of a sweep as tables: one row per job, one per setting, and every logged number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinverter import measures
from hyperinverter.contracts import UserError
from hyperinverter.runs.card import read_card
from hyperinverter.runs.find import jobs, read_sweep
from hyperinverter.system.errors import first_line

if TYPE_CHECKING:
    import pandas as pd  # takes most of a second to import

_COSTS = ("seconds", "peak_memory_mb", "commit", "error")  # keys of the card, and the table's last columns


def table(sweep: Path | str) -> pd.DataFrame:
    """One row per job: its settings, its test numbers, and what it cost.

    Columns: ``job``, ``name``, ``status``, one per factor of the sweep, ``seed``, one per test number (without
    ``test/``), ``parameters`` (trained), ``images``, ``seconds``, ``peak_memory_mb``, ``commit``, ``error``.
    """
    import pandas as pd

    described = {int(job["num"]): job for job in read_sweep(sweep).get("jobs", [])}
    rows = []
    for folder in jobs(sweep):
        card = read_card(folder) or {}
        job = described.get(int(folder.name), {})
        row: dict[str, Any] = {"job": int(folder.name)}
        row["name"] = job.get("name") or card.get("name") or folder.name
        row |= {"status": card.get("status", "unknown"), **job.get("settings", {})}
        row["seed"] = card.get("seed", job.get("seed"))
        for name, value in (card.get("metrics") or {}).items():
            row[name.removeprefix("test/")] = _number(value)
        row["parameters"] = (card.get("parameters") or {}).get("trained")
        row["images"] = card.get("images_seen")
        row |= {key: card.get(key) for key in _COSTS}
        rows.append(row)
    frame = pd.DataFrame(rows)
    last = ["seed", *metric_names(sweep), "parameters", "images", *_COSTS]
    return frame[[c for c in frame if c not in last] + [c for c in last if c in frame]]


def metric_names(sweep: Path | str) -> list[str]:
    """Names of the test numbers of a sweep's jobs, without ``test/``, the ranking one first."""
    names: dict[str, None] = {}
    for folder in jobs(sweep):
        names |= {name.removeprefix("test/"): None for name in (read_card(folder) or {}).get("metrics") or {}}
    rank = rank_by(sweep)
    return sorted(names, key=lambda name: (name != rank, name))


def rank_by(sweep: Path | str) -> str:
    """The test number that orders this sweep, without ``test/``."""
    for folder in jobs(sweep):
        name = (read_card(folder) or {}).get("rank_by")
        if name:
            return str(name).removeprefix("test/")
    return "l2"


def best_is_highest(metric: str) -> bool:
    """Whether a ranking by this number starts with its largest value.

    Raises:
        UserError: If its name does not say which way is better.
    """
    higher = measures.higher_is_better(metric)
    if higher is None:
        raise UserError(f"it is not known whether a high or a low {metric} is better: rank by another number")
    return higher


def summary(sweep: Path | str, by: str | None = None) -> pd.DataFrame:
    """One row per setting, best first: the mean of every test number, and its spread over seeds.

    Args:
        sweep: The sweep folder.
        by: The test number that orders the rows; default the sweep's own.

    Returns:
        Columns ``rank``, ``name``, the factors, ``seeds`` (how many finished), then for each number ``NUMBER`` (mean)
        and ``NUMBER_std`` (sample standard deviation, empty for one seed), ``parameters``, ``seconds``, ``failed``.
    """
    import pandas as pd

    frame, metrics = table(sweep), metric_names(sweep)
    by = (by or rank_by(sweep)).removeprefix("test/")
    if metrics and by not in metrics:
        raise UserError(f"no job measured {by}; there are: {', '.join(metrics)}")
    factors = [name for name in read_sweep(sweep).get("factors", {}) if name in frame]
    rows = []
    for name, group in frame.groupby("name", sort=False):
        done = group[group.status == "finished"]
        done = done[done.seed.isna() | ~done.seed.duplicated()]  # a search may try a setting twice
        row: dict[str, Any] = {"name": name, **{factor: group[factor].iloc[0] for factor in factors}}
        row["seeds"] = len(done)
        for metric in metrics:
            row[metric] = done[metric].mean() if len(done) else math.nan
            row[f"{metric}_std"] = done[metric].std() if len(done) > 1 else math.nan
        for cost in ("parameters", "seconds"):
            row[cost] = done[cost].mean() if len(done) else math.nan
        row["failed"] = int((group.status != "finished").sum())
        rows.append(row)
    result = pd.DataFrame(rows)
    if metrics:
        result = result.sort_values(by, ascending=not best_is_highest(by), na_position="last", kind="stable")
    result.insert(0, "rank", range(1, len(result) + 1))
    return result.reset_index(drop=True)


def curves(sweep: Path | str) -> pd.DataFrame:
    """Every logged number of every job: all ``metrics.csv`` in one table, with ``job`` and ``name`` in front."""
    import pandas as pd

    names = {int(job["num"]): job["name"] for job in read_sweep(sweep).get("jobs", [])}
    frames = []
    for folder in jobs(sweep):
        path = folder / "metrics.csv"
        if path.is_file() and path.stat().st_size:
            try:
                frame = pd.read_csv(path)
            except ValueError as error:  # the family of all that pandas says of a file that is no table
                raise UserError(
                    f"{path} is no table of metrics ({first_line(error)}); restore it, or remove it"
                ) from error
            frame.insert(0, "job", int(folder.name))
            name = names.get(int(folder.name)) or (read_card(folder) or {}).get("name")
            frame.insert(1, "name", name or folder.name)
            frames.append(frame)
    if not frames:
        raise UserError(f"no job of {sweep} has a metrics.csv yet")
    return pd.concat(frames, ignore_index=True)


def _number(value: Any) -> float:
    return float(value) if value is not None else math.nan  # the card writes not-a-number as a string
