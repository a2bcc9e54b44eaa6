"""Tables and the plane of editability: what an inverter keeps of a photo, and what it still lets one change."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from hyperinverter.evaluation import statistics, tables
from hyperinverter.evaluation.editability import Edits, Way, equal_changes
from hyperinverter.system.files import parse_json, write_json, write_text


def keep_edits(path: Path, edits: Edits) -> None:
    """Write what was measured of one model."""
    write_json(path, asdict(edits))


def read_edits(path: Path) -> Edits | None:
    """What ``keep_edits`` wrote; None if it is not there."""
    if not path.is_file():
        return None
    said = parse_json(path.read_bytes())
    assert isinstance(said, dict)
    ways = {name: Way(**way) for name, way in said["ways"].items()}
    return Edits(said["numbers"], ways, [tuple(point) for point in said["curve"]])


def write_edits(
    out: Path,
    models: Mapping[str, Edits],
    seconds: Mapping[str, float],
    names: list[str],
    odd: str | None = None,
) -> None:
    """Write ``edits_per_photo.csv``, ``edits.csv``, ``edits_pairs.csv``, ``strengths.csv``, ``edits.md`` and
    ``plane.png``.

    Args:
        out: Folder of the evaluation.
        models: Label -> what was measured.
        seconds: Label -> seconds per photo.
        names: Of the photos.
        odd: Whose residuals made the odd details.
    """
    columns = list(dict.fromkeys(name for edits in models.values() for name in edits.numbers))
    rows = [
        [photo, label, *(f"{edits.numbers[c][i]:.9g}" if c in edits.numbers else "" for c in columns)]
        for label, edits in models.items()
        for i, photo in enumerate(names)
    ]
    write_text(out / "edits_per_photo.csv", _csv([["photo", "model", *columns], *rows]))
    levels = equal_changes(models)
    table, readable = [], []
    for label, edits in models.items():
        values = np.array([edits.numbers.get(c, [math.nan] * len(names)) for c in columns]).T  # (N, columns)
        intervals = statistics.mean_intervals(values)
        same = [
            edits.ways[d].identity_at(level) if d in edits.ways else math.nan for d, level in levels.items()
        ]
        table.append(
            [label, str(len(names)), *(f"{x:.9g}" for i in intervals for x in i), *(f"{x:.9g}" for x in same)]
        )
        cells = [f"{i.value:.4g} ± {(i.high - i.low) / 2:.2g}" for i in intervals]
        readable.append([label, *cells, *(f"{x:.3f}" for x in same)])
    ends = [f"{c}{end}" for c in columns for end in ("", "_low", "_high")]
    identity = [f"identity_at_{d}_{level:.2f}" for d, level in levels.items()]
    write_text(out / "edits.csv", _csv([["model", "n", *ends, *identity], *table]))
    curves = [
        [label, *(f"{x:.6g}" for x in point)] for label, edits in models.items() for point in edits.curve
    ]
    if curves:
        write_text(out / "strengths.csv", _csv([["model", "strength", "l2", "truth_l2", "effect"], *curves]))
    measured = {
        label: tables.Measured(names, {c: np.array(v) for c, v in edits.numbers.items()}, {})
        for label, edits in models.items()
    }
    found = tables.pairs(measured)
    write_text(out / "edits_pairs.csv", tables.pairs_csv(found))
    text = _about(len(names), odd) + _markdown(["model", *columns, *identity], readable)
    if found:
        short = {pair: {c: row[c] for c in row if c.startswith(_SAID)} for pair, row in found.items()}
        said = "\n".join(f"- {sentence}" for sentence in tables.sentences(short))
        text += f"\n## What may be concluded\n\n{_PAIRED}\n\n{said}\n"
    write_text(out / "edits.md", text)
    draw_plane(models, seconds, out / "plane.png")


_SAID = ("effect_", "flip_l2", "flip_id", "back_l2")  # numbers of which sentences speak
_PAIRED = (
    "Of effects, mirror images and the way back; `edits_pairs.csv` has every number. Paired on the same photos; "
    "sign-flip test, Holm over all pairs."
)
_ABOUT = """# Edits, on {n} photos

- The ends of a direction are two standard deviations of w along it, or less where less is safe.
- `effect_NAME`: how far the reading moves on real photos from one end to the other, in its standard deviations.
- `truth_*`: against an edit to the positive end whose result is known{odd}.
- `flip_*`: a photo moved to the code of its mirror image, against that image; favours nobody.
- `back_l2`: error after an edit and its reverse; `inversion_l2`: before.
- `identity_at_NAME_CHANGE`: identity of edited photos where the reading has moved by so many standard deviations, which
  every model reaches that edits at all.

"""


_ODD = """, drawn plainly and with odd details. Odd details
  are residuals that {odd} found on other photos, which favours {odd} if it is in the table"""


def _about(count: int, odd: str | None) -> str:
    return _ABOUT.format(n=count, odd="" if odd is None else _ODD.format(odd=f"`{odd}`"))


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    """The table on its side: one row per number, which are many."""
    labels = [row[0] for row in rows]
    lines = [
        f"| | {' | '.join(label.replace('|', chr(92) + '|') for label in labels)} |",
        "|" + " --- |" * (len(rows) + 1),
    ]
    lines += [f"| {name} | {' | '.join(row[i] for row in rows)} |" for i, name in enumerate(head) if i > 0]
    return "\n".join(lines) + "\n"


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


_FEW = 10  # models whose colours differ, and whose legend fits between the points


def draw_plane(models: Mapping[str, Edits], seconds: Mapping[str, float], path: Path) -> None:
    """Error of the inversion against error of the edit and against its effect, one point per model.

    Crosses are 95 % intervals, the area of a point grows with the logarithm of its seconds. A line is one model at
    strengths of its residuals from 0 to 1.
    """
    effects = [c for edits in models.values() for c in edits.numbers if c.startswith("effect_")]
    figure = Figure(figsize=(11 if effects else 6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if effects else 1, squeeze=False)[0]
    for index, (label, edits) in enumerate(models.items()):
        colour: Any = f"C{index % 10}" if len(models) <= _FEW else colormaps["tab20"](index % 20)
        truth = sorted(c for c in edits.numbers if c.startswith("truth_l2_"))
        odd = [c for c in truth if c.endswith("_odd")] or truth
        pictures = [("inversion_l2", odd)]
        if effects:
            pictures.append(("inversion_l2", sorted(set(effects))))
        for axis, (x, ys) in zip(axes, pictures, strict=True):
            across = statistics.mean_intervals(np.array(edits.numbers[x])[:, None])[0]
            up = statistics.mean_intervals(np.mean([edits.numbers[y] for y in ys], axis=0)[:, None])[0]
            size = 40 + 25 * max(0.0, math.log10(max(seconds.get(label, 0.0), 1e-3)) + 3)
            axis.errorbar(
                across.value,
                up.value,
                xerr=[[across.value - across.low], [across.high - across.value]],
                yerr=[[up.value - up.low], [up.high - up.value]],
                color=colour,
                lw=1,
            )
            axis.scatter([across.value], [up.value], s=size, color=colour, label=label, zorder=3, alpha=0.8)
        if edits.curve:
            errors, truths, moved = zip(*(point[1:] for point in edits.curve), strict=True)
            for axis, up_curve in zip(axes, (truths, moved), strict=False):
                axis.plot(errors, up_curve, color=colour, lw=1, alpha=0.6)
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xlabel("error of the inversion (L2), real photos")
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    for scale in (axes[0].yaxis, *(axis.xaxis for axis in axes)):
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))  # few enough not to overlap
        scale.set_major_formatter(FormatStrFormatter("%g"))
        scale.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("error of an edit with known truth (L2)")
    axes[0].set_title("lower left is better; lines: strength of the residuals", fontsize=10)
    if effects:
        axes[1].set_ylabel("effect on real photos (sd of the reading)")
        axes[1].set_title("upper left is better; lines: strength of the residuals", fontsize=10)
    if len(models) <= _FEW:
        axes[-1].legend(fontsize=8, framealpha=0.9)
    else:
        figure.legend(*axes[-1].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=130)
