"""Where an edit lets go of details that moved along: python -m hyperinverter_recipes.moved_choice --out FILE

``features.rule=picture`` lets go of a detail where the edit changes the generator's own picture by as much as
``easing.MOVED`` says. What an edit must do is known, and a setting is judged by what it misses of it, in parts of
each, added up:

- yaw and smile effect on real photos at 0.95 of phase I's,
- error against the true edit on odd faces at 0.75 of the paper's design's (mean of yaw and smile),
- error there and back at 1.1 of the inversion's own.

The smallest sum wins. A setting whose sum differs from it by less than half of the 95 % interval of that difference
(bootstrap over photos, paired) is its equal; of equals the one with more identity at the same change wins (mean of
yaw and smile, three decimals), then the one that was in use. All settings are tried on few photos; the best three and
the two that had been in use on more. Test photos are not seen. All of this was fixed before the first run.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from hyperinverter.contracts import Inversion
from hyperinverter.evaluation.editability import Editing, Edits, equal_changes
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inversion.easing import Change, distance, eased
from hyperinverter.inversion.given import Strength
from hyperinverter.inversion.moving import Moved, Moving
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.factored import Residual
from hyperinverter.system.files import write_csv
from hyperinverter.system.progress import counted
from hyperinverter.system.terminal import put
from hyperinverter_recipes.edit_strengths import validation_faces
from hyperinverter_recipes.running import said

LEAST, PART = (0.04, 0.08, 0.16), (0.5, 0.7, 0.85, 1.0)
FIRST, SECOND = (
    Change(0.08, 1.0, 0),
    Change(0.08, 0.7, 0),
)  # had been in use, one after the other, before the choice
EFFECT, ODD, BACK = 0.95, 0.75, 1.1  # of phase I's, of the paper's design's, of the inversion's own
KEPT = 3  # settings of the first stage that are measured again
RESAMPLES, SEED = 2000, 0
DIRECTIONS = ("yaw", "smile")
HEAD = (
    "photos",
    "least",
    "part",
    *(f"{name}_effect" for name in DIRECTIONS),
    "odd_ratio",
    "back_ratio",
    *(f"identity_{name}" for name in DIRECTIONS),
    "shortfall",
    "more_than_smallest",
    "half_interval",
    "chosen",
)

Result = TypeVar("Result")


class Last(Generic[Result]):
    """The results of the last few calls, by what they were called with."""

    def __init__(self, room: int) -> None:
        self.room, self.found = room, OrderedDict[bytes, Result]()

    def __call__(self, make: Callable[[], Result], *given: Tensor) -> Result:
        key = b"".join(tensor.contiguous().cpu().numpy().tobytes() for tensor in given)
        if key not in self.found:
            self.found[key] = make()
            if len(self.found) > self.room:
                self.found.popitem(last=False)
        self.found.move_to_end(key)
        return self.found[key]


class Remembering(Drawing):
    """A model that inverts the same photos once; ``moved`` has edits before anything is let go of."""

    def __init__(self, model: Drawing) -> None:
        super().__init__()
        self.model, self.rule, self.edit_strength = model, model.rule, model.edit_strength
        self._inversions, self.moved = Last[Inversion](8), Last[Moved](64)

    @property
    def generator(self) -> Generator:
        return self.model.generator

    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        if strength != 1:
            return self.model.invert(images, strength)
        return self._inversions(lambda: self.model.invert(images), images)


class Trial(Drawing):
    """A model with another ``MOVED``, and nothing left or gained in edits; ``shared`` has what no setting changes."""

    rule = "picture"
    edit_strength = 0.0

    def __init__(self, shared: Remembering, full: Change) -> None:
        super().__init__()
        self.shared, self.full = shared, full

    @property
    def generator(self) -> Generator:
        return self.shared.generator

    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        return self.shared.invert(images, strength)

    def edited(
        self,
        before: Tensor,
        after: Tensor,
        residuals: Mapping[str, Residual],
        *,
        styles: Mapping[str, Tensor] | None = None,
        w_image: Tensor | None = None,
    ) -> Tensor:
        if styles or not residuals:
            raise ValueError("settings are tried on moved codes and with residuals")

        def make() -> Moved:
            return Moving(self.generator.synthesis, before, self.draw_unseen(before, residuals))(after)

        plain, detail, moved = self.shared.moved(make, before, after)
        far = distance(before, after, self._covariance)
        return eased(plain + detail, plain, moved, far, self.edit_strength, self.full)


@dataclass
class Stage:
    """What was measured on some photos.

    Attributes:
        settings: In the order of the rows.
        rows: ``(S, N, 5)``: effects of yaw and smile, error on odd faces, there and back, of the inversion.
        bases: ``(N, 3)``: phase I's effects, the paper's design's error on odd faces.
        identity: Of each setting at the same change, yaw and smile; empty: not measured.
    """

    settings: list[Change]
    rows: np.ndarray
    bases: np.ndarray
    identity: list[tuple[float, float]]

    def ratios(self, weights: np.ndarray | None = None) -> np.ndarray:
        """``(..., S, 4)``: effects, odd, back, over all photos or with weights ``(..., N)``."""
        count = len(self.bases)
        weights = np.full(count, 1 / count) if weights is None else weights / count
        rows = np.einsum("...n,snk->...sk", weights, self.rows)
        bases = np.einsum("...n,nk->...k", weights, self.bases)[..., None, :]
        return np.concatenate([rows[..., :3] / bases, rows[..., 3:4] / rows[..., 4:]], axis=-1)

    def more(self) -> tuple[np.ndarray, np.ndarray]:
        """By how much each setting's sum is above the smallest one, and half of its 95 % interval, ``(S,)`` each."""
        sums, count = shortfall(self.ratios()), len(self.bases)
        draw = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        drawn = shortfall(self.ratios(draw.astype(float)))
        best = int(sums.argmin())
        low, high = np.percentile(drawn - drawn[:, best : best + 1], (2.5, 97.5), axis=0)
        return sums - sums[best], (high - low) / 2


def shortfall(ratios: np.ndarray) -> np.ndarray:
    """What is missed, in parts of what must be, added up: ``(..., 4)`` -> ``(...)``."""
    must = np.array([EFFECT, EFFECT, ODD, BACK])
    side = np.array([1, 1, -1, -1])  # effects must not be below, errors not above
    return (np.maximum(0, side * (must - ratios)) / must).sum(-1)


def chosen(stage: Stage) -> Change:
    """The setting that wins."""
    more, half = stage.more()
    equal = [i for i in range(len(more)) if more[i] == 0 or more[i] < half[i]]
    kept = {i: round(sum(stage.identity[i]) / 2, 3) for i in equal}
    most = [i for i in equal if kept[i] == max(kept.values())]
    for i in most:
        if stage.settings[i] == SECOND:
            return SECOND
    return stage.settings[min(most, key=lambda i: float(more[i]))]


def goes_on(stage: Stage) -> list[Change]:
    """Which settings are measured on more photos."""
    order = np.argsort(shortfall(stage.ratios()), kind="stable")[:KEPT]
    return list(dict.fromkeys([*(stage.settings[i] for i in order), SECOND, FIRST]))


def table(stage: Stage, winner: Change | None) -> list[list[str]]:
    """One row per setting, as ``HEAD`` says."""
    ratios, (more, half) = stage.ratios(), stage.more()
    found = []
    for i, setting in enumerate(stage.settings):
        kept = [f"{x:.3f}" for x in stage.identity[i]] if stage.identity else ["", ""]
        cells = [*(f"{x:.3f}" for x in ratios[i]), *kept]
        sums = [f"{x:.3f}" for x in (shortfall(ratios[i]), more[i], half[i])]
        found.append(
            [
                str(len(stage.bases)),
                f"{setting.least:g}",
                f"{setting.part:g}",
                *cells,
                *sums,
                "yes" if setting == winner else "",
            ]
        )
    return found


class Makers(NamedTuple):
    """Models by their part in the choice: of the settings, the paper's design, and of odd details."""

    best: Drawing
    paper: Drawing
    odd: Drawing


def measured(settings: Sequence[Change], photos: Tensor, models: Makers, identity: bool) -> Stage:
    """Measure settings on photos ``(N, 3, R, R)``."""
    from hyperinverter.judges.catalogue import build_judge

    phase1 = models.best.w_inverter
    assert isinstance(phase1, Drawing)
    odd = Remembering(models.odd)
    editing = Editing(photos, models.best.generator, None, None, odd)
    # what no must is about is left out, which is most of the time
    editing.ends = [end for end in editing.ends if end.name in DIRECTIONS]
    editing.kinds = ("odd",)
    shared = Remembering(models.best)
    trials: dict[str, Drawing] = {str(i): Trial(shared, full) for i, full in enumerate(settings)}
    with counted("editing", (len(trials) + 2) * editing.steps()) as advance:
        base = editing.measure_together({"": phase1}, advance, ("effect",))[""]
        paper = editing.measure_together({"": models.paper}, advance, ("truth",))[""]
        if identity:
            editing.identity = build_judge("id_descriptor")
        found = editing.measure_together(trials, advance, ("effect", "truth", "back"))
    changes = equal_changes(found)
    return Stage(
        list(settings),
        np.stack([_rows(edits) for edits in found.values()]),
        np.stack([*_effects(base), _odd(paper)], 1),
        [
            (e.ways["yaw"].identity_at(changes["yaw"]), e.ways["smile"].identity_at(changes["smile"]))
            for e in found.values()
        ]
        if identity
        else [],
    )


def _rows(edits: Edits) -> np.ndarray:
    back = [np.array(edits.numbers[name]) for name in ("back_l2", "inversion_l2")]
    return np.stack([*_effects(edits), _odd(edits), *back], 1)


def _effects(edits: Edits) -> list[np.ndarray]:
    return [np.array(edits.numbers[f"effect_{name}"]) for name in DIRECTIONS]


def _odd(edits: Edits) -> np.ndarray:
    return np.mean([edits.numbers[f"truth_l2_{name}_odd"] for name in DIRECTIONS], axis=0)


def main() -> None:
    from hyperinverter.inverters import load_inverter

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, nargs=2, default=(64, 256), help="of both stages")
    parser.add_argument(
        "--odd", default="digiface", help="whose residuals make odd faces, as of hyperinverter evaluate"
    )
    parser.add_argument("--out", type=Path, help="a CSV; grows stage by stage")
    given = parser.parse_args()
    models = Makers(*(load_inverter(name) for name in ("digiface_best", "digiface", given.odd)))
    settings = [Change(least, part, 0) for least in LEAST for part in PART]
    rows = [list(HEAD)]
    for count in given.photos:
        last = count == given.photos[-1]
        stage = measured(settings, validation_faces(count), models, identity=last)
        rows += table(stage, chosen(stage) if last else None)
        put("\n".join(",".join(row) for row in rows))
        if given.out:
            write_csv(given.out, rows)
        settings = goes_on(stage)


if __name__ == "__main__":
    said(main)
