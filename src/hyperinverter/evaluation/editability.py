"""Do edits survive? Edits with known truth, edits of photos, and edits there and back, for any way to invert.

Reconstruction alone rewards an inverter that refuses to edit. Four questions are asked:

- *Truth*: x = G(w0) and x' = G(w0 + d) are drawn, so the edit is known. x is inverted and edited, and compared with x'
  (StyleFeatureEditor's training pairs, as a measure). Drawn plainly, and with odd details: residuals of another photo.
- *Flip*: a photo and its mirror image are inverted; the first code is moved to the second one, and the result compared
  with the mirror image. An edit of a real photo, with real details, whose truth is known and belongs to no model.
- *Effect*: how far a reading of real photos moves between both ends, in its standard deviations over photos; and what
  identity is left on the way, so that models can be compared where they have changed a face by the same amount.
- *Back*: an edit and its reverse, each on a picture that is inverted again, against the error of the inversion itself.

The ends of a direction are two standard deviations of w along it, or less where less is safe.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hyperinverter.contracts import Inversion, UserError
from hyperinverter.editing import catalogue
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.discovery import pca
from hyperinverter.editing.readings import FaceReadings
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inversion.easing import FAR
from hyperinverter.judges.base import Judge
from hyperinverter.networks.generator import Generator, Residuals

WANTED = {"digiface": ("yaw", "smile")}  # directions of a catalogue whose readings move most
COMPONENTS = ("pc0", "pc1")  # of generators without one; pc0 of the others, too: it needs no reading
PARTS = (-1.0, -2 / 3, -1 / 3, 1 / 3, 2 / 3, 1.0)  # of the way to an end
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
QUESTIONS = ("truth", "flip", "effect", "back", "strengths")  # those above, and the curve over STRENGTHS
LEAST_CHANGE = 0.1  # sd of a reading: who changes less does not edit, and is not compared at equal change
_BATCH = 8
_SEED = 7
_CODES = 2000  # whose spread says how far an end is

Advance = Callable[[int], None]


@dataclass
class Way:
    """What happens to photos on the way along a direction, mean over photos.

    Attributes:
        parts: Of the way to an end, see ``PARTS``.
        change: Of the reading, in its standard deviations.
        identity: Against the photo.
    """

    parts: list[float]
    change: list[float]
    identity: list[float]

    def reached(self) -> float:
        """The change that is reached on both sides."""
        low = min(c for p, c in zip(self.parts, self.change, strict=True) if p < 0)
        high = max(c for p, c in zip(self.parts, self.change, strict=True) if p > 0)
        return max(0.0, min(-low, high))

    def identity_at(self, change: float) -> float:
        """Identity where the reading has moved by so much, mean of both sides; NaN if it never does."""
        found = []
        for side in (-1, 1):
            points = [(0.0, None), *self._side(side)]
            crossed = [(a, b) for a, b in itertools.pairwise(points) if a[0] < change <= b[0]]
            if not crossed:
                return float("nan")
            (low, before), (high, after) = crossed[0]
            assert after is not None
            # below the first part nothing was drawn: its identity stands for what is before it
            found.append(
                after if before is None else before + (after - before) * (change - low) / (high - low)
            )
        return sum(found) / len(found)

    def _side(self, side: int) -> list[tuple[float, float]]:
        found = [
            (p * side, c * side, i)
            for p, c, i in zip(self.parts, self.change, self.identity, strict=True)
            if p * side > 0
        ]
        return [(c, i) for _, c, i in sorted(found)]


@dataclass
class Edits:
    """What was measured of one model.

    Attributes:
        numbers: Name -> one number per photo, ``(N,)``: ``effect_yaw``, ``truth_l2_yaw_plain``, ``flip_l2`` and so on.
        ways: Direction -> change and identity on the way to both ends; none without readings or an identity.
        curve: At every strength of the residuals: the strength, mean squared errors of the inversion and of the edit
            with known truth, and the effect (0 without readings).
    """

    numbers: dict[str, list[float]] = field(default_factory=dict)
    ways: dict[str, Way] = field(default_factory=dict)
    curve: list[tuple[float, float, float, float]] = field(default_factory=list)


class _Gathered:
    """What was measured of one model so far; ``changes`` and ``same`` are of the way, ``(B, parts)`` each."""

    def __init__(self, seen: Sequence[str]) -> None:
        self.numbers: dict[str, list[float]] = {}
        self.changes: dict[str, list[Tensor]] = {name: [] for name in seen}
        self.same: dict[str, list[Tensor]] = {name: [] for name in seen}
        self.curve = torch.zeros(len(STRENGTHS), 3, dtype=torch.float64)

    def edits(self, photos: int) -> Edits:
        found = Edits(self.numbers)
        for name, kept in self.same.items():
            if kept:
                change, same = torch.cat(self.changes[name]).mean(0), torch.cat(kept).mean(0)
                found.ways[name] = Way(list(PARTS), change.tolist(), same.tolist())
        if self.curve[:, 0].any():
            means = (self.curve / photos).tolist()
            found.curve = [(s, *point) for s, point in zip(STRENGTHS, means, strict=True)]
        return found


class Editing:
    """Measure how models edit; everything that does not depend on the model is drawn once.

    Args:
        photos: ``(N, 3, R, R)`` in [-1, 1].
        generator: Of the models.
        perceptual: Distance of the true edit; None leaves it out.
        identity: Of edited photos; None leaves it out, and then nothing is drawn on the way to an end.
        odd: A model whose residuals make the odd details; None: edits with known truth are drawn plainly only.

    Attributes:
        ends: Directions whose power 1 is the end on the positive side.
        seen: Names of those that a reading exists for.
        kinds: How edits with known truth are drawn: ``plain``, ``odd``.

    Raises:
        UserError: For fewer than two photos.
    """

    def __init__(
        self,
        photos: Tensor,
        generator: Generator,
        perceptual: Judge | None,
        identity: Judge | None,
        odd: Drawing | None = None,
    ) -> None:
        if len(photos) < 2:
            raise UserError("edits are measured on at least 2 photos; give more, or leave --edits out")
        self.photos, self.generator = photos, generator
        self.perceptual, self.identity = perceptual, identity
        codes = generator.sample_codes(_CODES)
        self.read, known = self._directions(codes)
        self.ends = [end_of(direction, codes) for direction in known]
        self.seen = [
            end.name for end in self.ends if end.name in WANTED.get(catalogue.catalogue_of(generator), ())
        ]
        self.spread: dict[str, float] = {}
        if self.read is not None:
            found = [self._readings(part) for part in photos.split(_BATCH)]
            self.spread = {name: float(torch.cat([f[name] for f in found]).std()) for name in self.seen}
        random = torch.Generator().manual_seed(_SEED)
        z = torch.randn(len(photos), generator.z_dim, generator=random).to(generator.w_avg)
        with torch.no_grad():
            self.w = torch.cat([generator.mapping(part)[:, 0] for part in z.split(100)])  # (N, D)
        self.odd = odd
        self.kinds = ("plain", "odd") if odd is not None else ("plain",)
        self._drawn: dict[int, list[Tensor]] = {}

    def _directions(self, codes: Tensor) -> tuple[FaceReadings | None, list[Direction]]:
        components = pca(codes)
        if names := WANTED.get(catalogue.catalogue_of(self.generator)):
            known = catalogue.for_generator(self.generator)
            read = FaceReadings().to(self.generator.w_avg.device)
            return read, [*(known[name] for name in names), components[COMPONENTS[0]]]
        return None, [components[name] for name in COMPONENTS if name in components]

    def steps(self) -> int:
        """How many parts ``measure`` counts."""
        return len(self.photos)

    def measure(self, model: Drawing, advance: Advance = lambda done: None) -> Edits:
        """Measure one model, in eval mode; ``advance`` is called with the number of photos done."""
        return self.measure_together({"": model}, advance)[""]

    @torch.no_grad()
    def measure_together(
        self,
        models: Mapping[str, Drawing],
        advance: Advance = lambda done: None,
        asked: Collection[str] = QUESTIONS,
    ) -> dict[str, Edits]:
        """Measure several models, each on the first few photos before the next few: what they share can be kept.

        Args:
            models: In eval mode.
            advance: Called with the number of photos done, for every model.
            asked: Some of ``QUESTIONS``; numbers of the others are left out.

        Returns:
            One per model.
        """
        questions = set(asked)
        found = {label: _Gathered(self.seen) for label in models}
        for start in range(0, len(self.photos), _BATCH):
            part = slice(start, min(start + _BATCH, len(self.photos)))
            for label, model in models.items():
                self._gather(model, part, found[label], questions)
                advance(part.stop - part.start)
        return {label: gathered.edits(len(self.photos)) for label, gathered in found.items()}

    def _gather(self, model: Drawing, part: slice, into: _Gathered, asked: set[str]) -> None:
        photo, rows = self.photos[part], dict[str, Tensor]()
        inversion = model.invert(photo)
        if "effect" in asked:
            rows |= self._on_photos(model, photo, inversion, into.changes, into.same)
        if "truth" in asked:
            rows |= self._truth(model, part, into.curve if "strengths" in asked else None)
        if "flip" in asked:
            rows |= self._flip(model, photo, inversion)
        if "back" in asked:
            rows |= self._back(model, photo, inversion)
        if "strengths" in asked and inversion.residuals:
            self._at_strengths(model, photo, inversion, into.curve)
        for name, values in rows.items():
            into.numbers.setdefault(name, []).extend(values.double().cpu().tolist())

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
        """Effects on real photos; collects the change and the identity on the way for the curve of both."""
        rows: dict[str, Tensor] = {}
        if self.read is None:
            return rows
        before = self._readings(inversion.image)
        mine = None if self.identity is None else self.identity.embed(photo)
        parts = (PARTS[0], PARTS[-1]) if mine is None else PARTS
        for end in self._seen():
            name, readings, kept = end.name, [], []
            for part in parts:
                edited = model.edit(inversion, end, part).clamp(-1, 1)
                readings.append((self._readings(edited)[name] - before[name]) / self.spread[name])
                if self.identity is not None and mine is not None:
                    kept.append(self.identity.compare(self.identity.embed(edited), mine))
            rows[f"effect_{name}"] = readings[-1] - readings[0]
            changes[name].append(torch.stack(readings, 1))  # (B, parts)
            if kept:
                same[name].append(torch.stack(kept, 1))
        return rows

    def _seen(self) -> list[Direction]:
        return [end for end in self.ends if end.name in self.seen]

    def _truth(self, model: Drawing, part: slice, curve: Tensor | None) -> dict[str, Tensor]:
        """Errors against edits whose result is known; adds those at every strength of the residuals to ``curve``."""
        rows: dict[str, Tensor] = {}
        w = self.w[part]
        known = [end for end in self.ends if end.shift.ndim == 1]
        for kind in self.kinds:
            steps = [torch.zeros_like(w[0]), *(end.shift.to(w) for end in known)]
            before, *after = (
                self._with_odd(part, steps) if kind == "odd" else (self._draw(w + s) for s in steps)
            )
            inversion = model.invert(before)
            for end, true in zip(known, after, strict=True):
                rows |= self._against(f"truth_{{}}_{end.name}_{kind}", model.edit(inversion, end), true)
                if curve is not None and kind == self.kinds[-1] and inversion.residuals:
                    errors = [
                        _l2(model.edit(inversion, end, strength=s).clamp(-1, 1), true) for s in STRENGTHS
                    ]
                    curve[:, 1] += torch.stack([e.sum().double().cpu() for e in errors]) / len(known)
        return rows

    def _against(self, name: str, image: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Error, perceptual distance and identity of images against what they should be."""
        image = image.clamp(-1, 1)
        rows = {name.format("l2"): _l2(image, true)}
        if self.perceptual is not None:
            rows[name.format(self.perceptual.label)] = self.perceptual(image, true)
        if self.identity is not None:
            rows[name.format(self.identity.label)] = self.identity(image, true)
        return rows

    def _with_odd(self, part: slice, steps: Sequence[Tensor]) -> list[Tensor]:
        """The pictures of the codes moved by each step, with residuals of other photos: those of the set, moved on by
        half of it. They are drawn once, and wait in the computer's memory: who makes them may search for minutes.
        """
        assert self.odd is not None
        w = self.w[part]
        if part.start not in self._drawn:
            others = self.photos.roll(len(self.photos) // 2, 0)[part]
            details = self.odd.invert(others).residuals
            self._drawn[part.start] = [self._draw(w + step, details).cpu() for step in steps]
        return [image.to(w.device) for image in self._drawn[part.start]]

    def _draw(self, w: Tensor, details: Residuals | None = None) -> Tensor:
        return self.generator.synthesis(w, details or {}).clamp(-1, 1)

    def _flip(self, model: Drawing, photo: Tensor, inversion: Inversion) -> dict[str, Tensor]:
        """A photo moved to the code of its mirror image, against that image."""
        mirrored = photo.flip(-1)
        steps = model.invert(mirrored).w - inversion.w
        edited = [
            model.edit(inversion.one(i), Direction("flip", steps[i])) if moves else inversion.image[i : i + 1]
            for i, moves in enumerate(_not_zero(steps))
        ]
        return self._against("flip_{}", torch.cat(edited), mirrored)

    def _back(self, model: Drawing, photo: Tensor, inversion: Inversion) -> dict[str, Tensor]:
        """The photo after an edit and its reverse, the edited picture inverted in between; and without."""
        end = self.ends[0]
        there = model.edit(inversion, end).clamp(-1, 1)
        back = model.edit(model.invert(there), end, -1.0).clamp(-1, 1)
        return {"back_l2": _l2(back, photo), "inversion_l2": _l2(inversion.image.clamp(-1, 1), photo)}

    def _at_strengths(self, model: Drawing, photo: Tensor, inversion: Inversion, curve: Tensor) -> None:
        """Add the error of the inversion and the effect at every strength of the residuals to ``curve``."""
        for row, strength in enumerate(STRENGTHS):
            image = model.render(inversion.w, inversion.residuals, strength).clamp(-1, 1)
            curve[row, 0] += _l2(image, photo).sum().double().cpu()
            for end in self._seen():
                low, high = (
                    self._readings(model.edit(inversion, end, side, strength=strength))[end.name]
                    for side in (-1.0, 1.0)
                )
                moved = ((high - low) / self.spread[end.name]).sum() / len(self.seen)
                curve[row, 2] += moved.double().cpu()


def end_of(direction: Direction, codes: Tensor) -> Direction:
    """The direction whose power 1 is its end: ``FAR`` standard deviations of w, or less where less is safe.

    Args:
        direction: Its power is anything; ``(D,)``, or ``(L, D)``, of which the layer that moves most counts.
        codes: Of the generator's own images, ``(N, D)``.
    """
    steps = direction.shift.to(codes).reshape(-1, codes.shape[-1])
    longest = steps[torch.linalg.vector_norm(steps, dim=1).argmax()]
    deviation = (codes @ longest).std() / longest.square().sum()  # in powers
    power = min(FAR * float(deviation), -direction.safe[0], direction.safe[1])
    return replace(direction, shift=direction.shift * power)


def _not_zero(steps: Tensor) -> list[bool]:
    """Which of ``(B, ...)`` move at all, read from the device at once."""
    return steps.flatten(1).any(1).tolist()


def _l2(image: Tensor, other: Tensor) -> Tensor:
    return (image - other).square().mean((1, 2, 3))


def equal_changes(models: Mapping[str, Edits]) -> dict[str, float]:
    """Direction -> the largest change, at most 1 sd, that every model reaches that edits at all."""
    found = {}
    for name in dict.fromkeys(name for edits in models.values() for name in edits.ways):
        reached = [edits.ways[name].reached() for edits in models.values() if name in edits.ways]
        if able := [change for change in reached if change >= LEAST_CHANGE]:
            found[name] = min(1.0, *able)
    return found


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
