"""Tables of an evaluation: numbers to compute with, to read, and to print, and what may be concluded from them."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyperinverter import measures
from hyperinverter.evaluation import statistics
from hyperinverter.evaluation.published import Row
from hyperinverter.evaluation.statistics import Comparison, Interval

ALPHA = 0.05
Pairs = Mapping[tuple[str, str], Mapping[str, Comparison]]  # (a, b) -> number -> comparison


@dataclass(frozen=True)
class Measured:
    """All numbers of one model.

    Attributes:
        names: Its photos, in order.
        numbers: Name of the number -> ``(N,)`` in that order; NaN where a photo has none.
        sets: Distances of its images from their photos.
    """

    names: list[str]
    numbers: Mapping[str, np.ndarray]
    sets: Mapping[str, float]

    def on(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Its numbers on some of its photos, in that order."""
        place = {name: i for i, name in enumerate(self.names)}
        rows = [place[name] for name in names]
        return {name: values[rows] for name, values in self.numbers.items()}


def common(models: Mapping[str, Measured]) -> list[str]:
    """Photos that all models have, in the order of the first."""
    first, *others = models.values()
    shared = set(first.names).intersection(*(model.names for model in others))
    return [name for name in first.names if name in shared]


def per_photo(models: Mapping[str, Measured]) -> str:
    """CSV, one row per photo and model: ``photo, model, l2, psnr, ...``; empty where a photo has no such number."""
    columns = _columns(models)
    rows = [
        [name, label, *(_exact(model.numbers[c][i]) if c in model.numbers else "" for c in columns)]
        for label, model in models.items()
        for i, name in enumerate(model.names)
    ]
    return _csv([["photo", "model", *columns], *rows])


def summary(models: Mapping[str, Measured], published: Sequence[Row] = ()) -> str:
    """CSV, one row per model: its photos, and mean, low and high end of the 95 % interval of each number.

    With published rows there is a column ``source``, which says ``measured`` or where a row was published.
    """
    columns, sets = _columns(models), _sets(models)
    heads = [f"{column}{end}" for column in columns for end in ("", "_low", "_high")]
    missing = [f"{column}_missing" for column in columns if _any_missing(models, column)]
    rows = []
    for label, model in models.items():
        ends = [_exact(end) for interval in means(model, columns) for end in interval]
        gaps = [str(_missing(model, column.removesuffix("_missing"))) for column in missing]
        rows.append([label, str(len(model.names)), *ends, *gaps, *(_exact(model.sets.get(s)) for s in sets)])
    head = ["model", "n", *heads, *missing, *sets]
    if published:
        head.append("source")
        rows = [[*row, "measured"] for row in rows]
        rows += [
            [row.model, "", *(_exact(row.numbers.get(column)) for column in head[2:-1]), row.source]
            for row in published
        ]
    return _csv([head, *rows])


def means(model: Measured, columns: Sequence[str]) -> list[Interval]:
    """Mean and interval of each number of a model; NaN for numbers it does not have."""
    nothing = np.full(len(model.names), np.nan)
    return statistics.mean_intervals(np.stack([model.numbers.get(c, nothing) for c in columns], axis=1))


def markdown_table(models: Mapping[str, Measured], published: Sequence[Row] = ()) -> str:
    """Markdown, one row per model, the best measured one of each column in bold; published rows below, marked."""
    head, rows = _readable(models, published)
    best = _best(models)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [
            f"**{cell}**" if best.get(column) == row[0] else cell
            for column, cell in zip(head, row, strict=True)
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def latex_table(models: Mapping[str, Measured], published: Sequence[Row] = ()) -> str:
    """LaTeX, a ``tabular`` of the package booktabs with one row per model, as ``markdown_table``."""
    head, rows = _readable(models, published)
    best = _best(models)
    lines = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule"]
    lines += [" & ".join(_latex(cell) for cell in head) + r" \\", r"\midrule"]
    for number, row in enumerate(rows):
        if number == len(models):
            lines.append(r"\midrule")
        cells = [
            rf"\textbf{{{_latex(cell)}}}" if best.get(column) == row[0] else _latex(cell)
            for column, cell in zip(head, row, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


_SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def _latex(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)


# What may be concluded -----------------------------------------------------------------------------------


def pairs(models: Mapping[str, Measured]) -> Pairs:
    """Every two models compared on the photos that both have: (a, b) -> number -> comparison."""
    found = {}
    for a, b in itertools.combinations(models, 2):
        names = common({a: models[a], b: models[b]})
        if not names:
            continue
        one, other = models[a].on(names), models[b].on(names)
        found[a, b] = {
            column: statistics.compare(
                one[column], other[column], higher_is_better=bool(measures.higher_is_better(column))
            )
            for column in one
            if column in other and _is_quality(column)
        }
    return found


def corrected(found: Pairs) -> dict[tuple[str, str, str], float]:
    """Holm's p over all pairs, for each number apart: (a, b, number) -> p."""
    adjusted: dict[tuple[str, str, str], float] = {}
    for column in sorted({column for row in found.values() for column in row}):
        keys = [(a, b, column) for (a, b), row in found.items() if column in row]
        ps = statistics.holm([found[a, b][column].p for a, b, _ in keys])
        adjusted.update(zip(keys, ps, strict=True))
    return adjusted


def pairs_csv(found: Pairs) -> str:
    """CSV, one row per pair and number."""
    head = ["a", "b", "number", "n", "difference", "difference_low", "difference_high"]
    head += ["ratio", "ratio_low", "ratio_high", "improved", "p", "p_holm"]
    adjusted = corrected(found)
    rows = [
        [
            a,
            b,
            column,
            str(c.count),
            *map(_exact, (*c.difference, *c.ratio, c.improved, c.p, adjusted[a, b, column])),
        ]
        for (a, b), row in found.items()
        for column, c in row.items()
    ]
    return _csv([head, *rows])


def sentences(found: Pairs) -> list[str]:
    """One sentence per pair: in which numbers one is better, by how much, and where nothing can be said."""
    adjusted = corrected(found)
    said = []
    for (a, b), row in found.items():
        better: list[str] = []
        worse: list[str] = []
        open_: list[str] = []
        count = 0
        for column, comparison in row.items():
            p = adjusted[a, b, column]
            count = max(count, comparison.count)
            if comparison.count == 0:
                continue
            if not p < ALPHA:
                open_.append(column)
                continue
            rises = comparison.difference.value > 0
            good = rises == measures.higher_is_better(column)
            (better if good else worse).append(_effect(column, comparison, p))
        parts = [
            f"better than {b} in {_listed(better)}" if better else "",
            f"{'worse' if better else f'worse than {b}'} in {_listed(worse)}" if worse else "",
        ]
        verdict = " and ".join(part for part in parts if part)
        rest = f"nothing can be said about {_listed(open_)}" if open_ else ""
        verb = f"is {verdict}" if verdict else f"does not differ measurably from {b}"
        ending = f"; {rest}" if rest and verdict else ""
        said.append(f"On {count} photos, **{a}** {verb}{ending}.")
    return said


def _effect(column: str, c: Comparison, p: float) -> str:
    """``l2 (-32 %, on 97 % of photos)``; the difference itself where a ratio means nothing."""
    share = c.improved
    if measures.higher_is_better(column):
        size = f"{c.difference.value:+.3g} [{c.difference.low:+.3g}, {c.difference.high:+.3g}]"
    else:
        size = f"{(c.ratio.value - 1) * 100:+.0f} % [{(c.ratio.low - 1) * 100:+.0f}, {(c.ratio.high - 1) * 100:+.0f}]"
    shown_p = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{column} ({size}, better on {share * 100:.0f} % of photos, {shown_p})"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


# Cells ---------------------------------------------------------------------------------------------------


def _readable(
    models: Mapping[str, Measured], published: Sequence[Row] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows as a person reads them: mean ± half of the 95 % interval; published rows last."""
    columns, sets = _columns(models), _sets(models)
    head = ["model", "n", *columns, *sets]
    if any("id" in row.numbers for row in published):
        head.append("id")  # of another network than any that is measured
    rows = []
    for label, model in models.items():
        cells = [label, str(len(model.names))]
        for column, interval in zip(columns, means(model, columns), strict=True):
            gap = _missing(model, column)
            note = f" ({gap} missing)" if gap and gap < len(model.names) else ""
            cells.append(_with_spread(column, interval) + note)
        cells += [measures.shown(model.sets.get(name), name) for name in sets]
        rows.append(cells + [""] * (len(head) - len(cells)))
    for row in published:
        cells = [_as_printed(row.numbers.get(column)) for column in head[2:]]
        rows.append([f"{row.model} (published, {row.source})", "", *cells])
    return head, rows


def _as_printed(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _with_spread(column: str, interval: Interval) -> str:
    if math.isnan(interval.value):
        return ""
    if column == "seconds":
        return f"{interval.value:.3g}"
    half = (interval.high - interval.low) / 2
    spread = f" ± {half:.2g}" if math.isfinite(half) and half > 0 else ""
    return f"{measures.shown(interval.value, column)}{spread}"


def _best(models: Mapping[str, Measured]) -> dict[str, str]:
    """Column -> the model that is best in it, where several have it on the same photos."""
    if len(models) < 2 or len({tuple(model.names) for model in models.values()}) > 1:
        return {}
    found = {}
    for column in [*_columns(models), *_sets(models)]:
        higher = measures.higher_is_better(column)
        values = {
            label: model.sets[column] if column in model.sets else _mean(model.numbers.get(column))
            for label, model in models.items()
        }
        known = {label: v for label, v in values.items() if not math.isnan(v)}
        if higher is not None and known:
            found[column] = (max if higher else min)(known, key=lambda label: known[label])
    return found


def _mean(values: np.ndarray | None) -> float:
    if values is None or not np.isfinite(values).any():
        return math.nan
    return float(values[np.isfinite(values)].mean())


def _columns(models: Mapping[str, Measured]) -> list[str]:
    """Numbers of photos that any model has, in order, seconds last."""
    names = list(dict.fromkeys(name for model in models.values() for name in model.numbers))
    return [n for n in names if n != "seconds"] + [n for n in names if n == "seconds"]


def _sets(models: Mapping[str, Measured]) -> list[str]:
    return list(dict.fromkeys(name for model in models.values() for name in model.sets))


def _is_quality(column: str) -> bool:
    return measures.higher_is_better(column) is not None and column != "seconds"


def _missing(model: Measured, column: str) -> int:
    return int(np.isnan(model.numbers[column]).sum()) if column in model.numbers else 0


def _any_missing(models: Mapping[str, Measured], column: str) -> bool:
    return any(_missing(model, column) for model in models.values())


def _exact(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.9g}"


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
