"""Do edits survive? Edits with known truth, edits of photos, and edits there and back, for any way to invert.

Reconstruction alone rewards an inverter that refuses to edit. Three questions are asked of each direction:

- *Truth*: x = G(w0) and x' = G(w0 + d) are drawn, so the edit is known. x is inverted and edited, and compared with x'
  (StyleFeatureEditor's training pairs, as a measure). Drawn plainly, and with odd details: residuals of another photo.
- *Effect*: how far a reading of real photos moves between two powers, in its standard deviations over photos. And what
  identity is left where it has moved by one.
- *Back*: an edit and its reverse, each on a picture that is inverted anew, against the error of the inversion itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hyperinverter.contracts import Inversion, UserError
from hyperinverter.editing import catalogue
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.readings import FaceReadings
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.judges.base import Judge
from hyperinverter.networks.generator import Generator, Residuals

WANTED = {"digiface": ("yaw", "smile")}  # directions of a catalogue whose readings move most
COMPONENTS = ("pc0", "pc1")  # of generators without one: truth and the way back need no reading
POWER = 2.0  # both ways; a power is one standard deviation of the reading, or of w along a component
POWERS = (-2.0, -1.0, 1.0, 2.0)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_BATCH = 8
_SEED = 7

Advance = Callable[[int], None]


@dataclass
class Edits:
    """What was measured of one model.

    Attributes:
        numbers: Name -> one number per photo, ``(N,)``: ``effect_yaw``, ``truth_l2_yaw``, ``back_l2`` and so on.
        identity: Direction -> identity where its reading has moved by one standard deviation; NaN if it never does.
        curve: Strength of the residuals -> mean squared errors of the inversion and of the edit with known truth.
    """

    numbers: dict[str, list[float]] = field(default_factory=dict)
    identity: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[float, float, float]] = field(default_factory=list)


class Editing:
    """Measure how models edit; everything that does not depend on the model is drawn once.

    Args:
        photos: ``(N, 3, R, R)`` in [-1, 1].
        generator: Of the models.
        perceptual: Distance of the true edit.
        identity: Of edited photos; None leaves it out.
        odd: A model whose residuals make the odd details; None: edits with known truth are drawn plainly only.

    Raises:
        UserError: For fewer than two photos.
    """

    def __init__(
        self,
        photos: Tensor,
        generator: Generator,
        perceptual: Judge,
        identity: Judge | None,
        odd: Drawing | None = None,
    ) -> None:
        if len(photos) < 2:
            raise UserError("edits are measured on at least 2 photos; give more, or leave --edits out")
        self.photos, self.generator = photos, generator
        self.perceptual, self.identity = perceptual, identity
        self.read, self.directions = self._directions()
        self.spread: dict[str, float] = {}
        if self.read is not None:
            found = [self._readings(part) for part in photos.split(_BATCH)]
            self.spread = {
                d.name: float(torch.cat([f[d.name] for f in found]).std()) for d in self.directions
            }
        random = torch.Generator().manual_seed(_SEED)
        z = torch.randn(len(photos), generator.z_dim, generator=random).to(generator.w_avg)
        with torch.no_grad():
            self.w = torch.cat([generator.mapping(part)[:, 0] for part in z.split(100)])  # (N, D)
        self.odd = odd
        self.kinds = ("plain", "odd") if odd is not None else ("plain",)

    def _directions(self) -> tuple[FaceReadings | None, list[Direction]]:
        known = catalogue.for_generator(self.generator)
        if names := WANTED.get(self.generator.source):
            return FaceReadings().to(self.generator.w_avg.device), [known[name] for name in names]
        return None, [known[name] for name in COMPONENTS if name in known]

    def steps(self) -> int:
        """How many parts ``measure`` counts."""
        return len(self.photos)

    @torch.no_grad()
    def measure(self, model: Drawing, advance: Advance = lambda done: None) -> Edits:
        """Measure one model, in eval mode; ``advance`` is told of photos that are done."""
        found = Edits()
        changes: dict[str, list[Tensor]] = {d.name: [] for d in self.directions}
        same: dict[str, list[Tensor]] = {d.name: [] for d in self.directions}
        curve = torch.zeros(len(STRENGTHS), 2, dtype=torch.float64)
        for start in range(0, len(self.photos), _BATCH):
            part = slice(start, min(start + _BATCH, len(self.photos)))
            photo = self.photos[part]
            inversion = model.invert(photo)
            rows = self._on_photos(model, photo, inversion, changes, same)
            rows |= self._truth(model, part, curve)
            rows |= self._back(model, photo, inversion)
            if inversion.residuals:
                curve[:, 0] += torch.stack(
                    [_l2(self._at(model, inversion, s), photo).sum().double().cpu() for s in STRENGTHS]
                )
            for name, values in rows.items():
                found.numbers.setdefault(name, []).extend(values.double().cpu().tolist())
            advance(len(photo))
        found.identity = {
            name: _at_change(torch.cat(changes[name]), torch.cat(same[name]))
            for name in changes
            if same[name]
        }
        if curve[:, 0].any():
            both = (curve / len(self.photos)).tolist()
            found.curve = [(s, a, b) for s, (a, b) in zip(STRENGTHS, both, strict=True)]
        return found

    @staticmethod
    def _at(model: Drawing, inversion: Inversion, strength: float) -> Tensor:
        return model.render(inversion.w, inversion.residuals, strength)

    def _readings(self, images: Tensor) -> dict[str, Tensor]:
        assert self.read is not None
        return self.read(images.clamp(-1, 1))

    def _on_photos(
        self,
        model: Drawing,
        photo: Tensor,
        inversion: Inversion,
        changes: dict[str, list[Tensor]],
        same: dict[str, list[Tensor]],
    ) -> dict[str, Tensor]:
        """Effects on real photos; collects the change and the identity at every power for the curve of both."""
        rows: dict[str, Tensor] = {}
        if self.read is None:
            return rows
        before = self._readings(inversion.image)
        mine = None if self.identity is None else self.identity.embed(photo)
        for direction in self.directions:
            name, readings, kept = direction.name, [], []
            for power in POWERS:
                edited = model.edit(inversion, direction, power).clamp(-1, 1)
                readings.append((self._readings(edited)[name] - before[name]) / self.spread[name])
                if self.identity is not None and mine is not None:
                    kept.append(self.identity.compare(self.identity.embed(edited), mine))
            rows[f"effect_{name}"] = readings[-1] - readings[0]
            changes[name].append(torch.stack(readings, 1))  # (B, powers)
            if kept:
                same[name].append(torch.stack(kept, 1))
        return rows

    def _truth(self, model: Drawing, part: slice, curve: Tensor) -> dict[str, Tensor]:
        """Errors against edits whose result is known; adds those at every strength of the residuals to ``curve``."""
        rows: dict[str, Tensor] = {}
        w = self.w[part]
        for kind in self.kinds:
            details = self._details(part) if kind == "odd" else {}
            x = self._draw(w, details)
            inversion = model.invert(x)
            for direction in self.directions:
                true = (
                    self._draw(w + POWER * direction.shift.to(w), details)
                    if direction.shift.ndim == 1
                    else None
                )
                if true is None:
                    continue
                edited = model.edit(inversion, direction, POWER).clamp(-1, 1)
                rows[f"truth_l2_{direction.name}_{kind}"] = _l2(edited, true)
                rows[f"truth_{self.perceptual.label}_{direction.name}_{kind}"] = self.perceptual(edited, true)
                if kind == self.kinds[-1] and inversion.residuals:
                    errors = [
                        _l2(model.edit(inversion, direction, POWER, strength=s).clamp(-1, 1), true)
                        for s in STRENGTHS
                    ]
                    curve[:, 1] += torch.stack([e.sum().double().cpu() for e in errors]) / len(
                        self.directions
                    )
        return rows

    def _details(self, part: slice) -> Residuals:
        """Residuals of other photos: those of the set, moved on by half of it."""
        assert self.odd is not None
        others = self.photos.roll(len(self.photos) // 2, 0)[part]
        return self.odd.invert(others).residuals

    def _draw(self, w: Tensor, details: Residuals) -> Tensor:
        return self.generator.synthesis(w, details).clamp(-1, 1)

    def _back(self, model: Drawing, photo: Tensor, inversion: Inversion) -> dict[str, Tensor]:
        """The photo after an edit and its reverse, the edited picture inverted in between; and without."""
        direction = self.directions[0]
        there = model.edit(inversion, direction, POWER).clamp(-1, 1)
        back = model.edit(model.invert(there), direction, -POWER).clamp(-1, 1)
        return {"back_l2": _l2(back, photo), "inversion_l2": _l2(inversion.image.clamp(-1, 1), photo)}


def _l2(image: Tensor, other: Tensor) -> Tensor:
    return (image - other).square().mean((1, 2, 3))


def _at_change(changes: Tensor, same: Tensor) -> float:
    """Identity where the mean change reaches one standard deviation, on either side; the mean of both sides.

    Args:
        changes: ``(N, powers)``, in standard deviations.
        same: Identities of the same images.

    Returns:
        NaN if the change never reaches one on some side.
    """
    change, kept = changes.mean(0).tolist(), same.mean(0).tolist()
    found = []
    for side in (-1, 1):
        points = sorted((side * c, k) for p, c, k in zip(POWERS, change, kept, strict=True) if p * side > 0)
        crossed = [
            low[1] + (high[1] - low[1]) * (1 - low[0]) / (high[0] - low[0])
            for low, high in itertools.pairwise(points)
            if low[0] < 1 <= high[0]
        ]
        if not crossed and points[0][0] >= 1:
            crossed = [points[0][1]]  # the smallest power does more already
        if not crossed:
            return float("nan")
        found.append(crossed[0])
    return sum(found) / len(found)


def relative(models: Mapping[str, Edits], to: str) -> dict[str, dict[str, float]]:
    """Model -> direction -> effect as a part of the effect of the model ``to``."""
    found: dict[str, dict[str, float]] = {}
    for label, edits in models.items():
        effects = {n: _mean(v) for n, v in edits.numbers.items() if n.startswith("effect_")}
        base = {n: _mean(models[to].numbers[n]) for n in effects}
        found[label] = {n.removeprefix("effect_"): effects[n] / base[n] for n in effects if base[n]}
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
