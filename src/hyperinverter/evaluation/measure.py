"""Models and photos in, numbers of every photo out: the same photos for all models, each measured once.

Batches are always the same photos, so that any number of processes, and any number of interruptions, give the same
numbers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hyperinverter import pictures
from hyperinverter.contracts import UserError
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.evaluation.reach import keep_trace
from hyperinverter.evaluation.scoring import Scorer, Seen, resized, rounded
from hyperinverter.evaluation.timing import (
    BATCHES,
    device_name,
    keep_timings,
    synchronise,
    time_models,
    timed_together,
)
from hyperinverter.evaluation.work import Piece, Work
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inversion.optimise import Optimiser
from hyperinverter.inversion.tuning import PivotalTuning
from hyperinverter.networks.generator import Generator
from hyperinverter.system.files import writing
from hyperinverter.system.machine import now

Advance = Callable[[float], None]
SECONDS = "seconds"
PHOTO = "photo"  # the photos themselves, as a model that changes nothing
WORK, IMAGES = "work", "images"
_UNSAFE = re.compile(r"[^\w.@+-]+")
_LONGEST = 60  # letters of a name
_SMALL = 128  # side of the pictures that are kept for figures
_WAY_OUT = "choose another folder with --out"


def safe_name(text: str) -> str:
    """A name for files and tables: letters, digits and ``. _ @ + -``, at most 60 of them."""
    plain = _UNSAFE.sub("_", text).strip("_.").lstrip("@+-")  # as which a spreadsheet would see a formula
    return plain[:_LONGEST] or "unnamed"


def safe_names(paths: Sequence[str]) -> list[str]:
    """Short names of photos, without folder and ending; with a number where two would be the same."""
    names = [safe_name(PurePath(path).stem) for path in paths]
    if len({name.casefold() for name in names}) == len(names):
        return names
    return [f"{i:05d}_{name}" for i, name in enumerate(names)]


class _Steps:
    """Steps of a search as parts of the photos that are searched for."""

    def __init__(self, advance: Advance, photos: int) -> None:
        self.advance, self.photos, self.reported = advance, photos, 0.0

    def __call__(self, step: int, steps: int) -> None:
        now = self.photos * min(step / max(steps, 1), 1.0)
        if now > self.reported:
            self.advance(now - self.reported)
            self.reported = now

    def finish(self) -> None:
        """Report what has not been reported."""
        self.advance(self.photos - self.reported)


@dataclass(frozen=True)
class Photos:
    """The photos of an evaluation, in order.

    Attributes:
        source: What was asked for.
        files: Short unique name -> path below the source.
        digests: Short name -> SHA-256 of the file.
        read: Short names -> RGB, ``uint8 (B, R, R, 3)``.
    """

    source: str
    files: Mapping[str, str]
    digests: Mapping[str, str]
    read: Callable[[Sequence[str]], np.ndarray]

    @property
    def names(self) -> list[str]:
        return list(self.files)


class Measuring:
    """Measure models on photos into a folder of pieces.

    Args:
        models: Label -> model, in eval mode.
        photos: What they invert.
        protocol: What is measured.
        scorer: Makes the numbers.
        out: Folder of the evaluation: pieces go to ``work``, PNGs to ``images``.
        keep_images: Whether the PNGs that were measured are kept.
        batch: Photos in one pass.
        device: Where models run.
        recipes: Label -> ``recipe`` and ``seed`` of models that a run has trained.

    Raises:
        UserError: If the models draw images of different sides or with different generators.
    """

    def __init__(
        self,
        models: Mapping[str, Drawing],
        photos: Photos,
        protocol: Protocol,
        scorer: Scorer,
        out: Path,
        *,
        keep_images: bool = False,
        batch: int = 8,
        device: torch.device | None = None,
        recipes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        refuse_different(models)
        self.models, self.photos, self.protocol = models, photos, protocol
        self.folder, self.images = out / WORK, out / IMAGES if keep_images else None
        self.recipes = recipes or {}
        self.batch, self.device = batch, device or torch.device("cpu")
        self.scorer = scorer
        self.works = {label: Work(self.folder, label, self._identity(label)) for label in [PHOTO, *models]}

    def _identity(self, label: str) -> dict[str, Any]:
        identity: dict[str, Any] = {"protocol": self.protocol.plain(), "photos": self.photos.source}
        return identity if label == PHOTO else {**identity, **identity_of(self.models[label])}

    def left(self, part: int = 0, parts: int = 1) -> int:
        """How many photos are left to measure, counted once per model.

        Args:
            part: Which share of the batches this process has.
            parts: How many shares there are.
        """
        return sum(len(names) for label, names in self._batches(part, parts) if label != PHOTO)

    def run(self, part: int = 0, parts: int = 1, advance: Advance = lambda done: None) -> None:
        """Measure what is left.

        Args:
            part: As of ``left``.
            parts: As of ``left``.
            advance: Called with the photos that were done since the last call; parts of photos for ways to invert that
                take many steps.
        """
        looked: tuple[list[str], np.ndarray, Seen] | None = None
        for label, names in self._batches(part, parts):
            if looked is None or looked[0] != names:
                pixels = self.photos.read(names)
                looked = (names, pixels, self.scorer.look(pixels))
            _, pixels, seen = looked
            if label == PHOTO:
                self._keep(label, names, pixels, {})
                continue
            reported = _Steps(advance, len(names))
            image, seconds = self._invert(label, names, pixels, reported)
            numbers = self.scorer.score(image, seen)
            numbers[SECONDS] = np.full(len(names), seconds / len(names))
            self._keep(label, names, image, numbers)
            reported.finish()

    def _batches(self, part: int, parts: int) -> list[tuple[str, list[str]]]:
        """What is left, batch by batch, all models one after the other on each."""
        names = self.photos.names
        batches = [names[i : i + self.batch] for i in range(0, len(names), self.batch)][part::parts]
        done = {label: self._done(label) for label in self.works}
        left = [
            (label, [n for n in batch if n not in done[label]]) for batch in batches for label in self.works
        ]
        return [(label, some) for label, some in left if some]

    def timed(self) -> bool:
        """Whether these models were timed in turn, on this device."""
        return timed_together([self.works[label].folder for label in self.models], device_name(self.device))

    def time(self, advance: Advance = lambda done: None) -> None:
        """Time the models in turn on the first photos; ``advance`` is called ``timing.ROUNDS`` times."""
        photos = self._photos(self.photos.read(self.photos.names[: max(BATCHES)]))
        found = time_models(self.models, photos, advance=advance)
        moment = now()
        for label, rows in found.items():
            folder = self.works[label].folder
            keep_trace(folder, self.models[label], photos[:1])
            keep_timings(folder, rows, moment)

    def photos_of(self, names: Sequence[str]) -> Tensor:
        """Photos by their short names, as models take them: ``(B, 3, R, R)`` in [-1, 1]."""
        return self._photos(self.photos.read(names))

    def seconds_of(self, label: str, names: Sequence[str]) -> np.ndarray:
        """Seconds per photo of a model, ``(B,)``."""
        return self.works[label].read(list(names)).numbers[SECONDS]

    def _done(self, label: str) -> set[str]:
        done = self.works[label].done()
        return {n for n in done if self.images is None or (self.images / label / f"{n}.png").is_file()}

    def _invert(
        self, label: str, names: Sequence[str], pixels: np.ndarray, reported: _Steps
    ) -> tuple[np.ndarray, float]:
        model, photo = self.models[label], self._photos(pixels)
        if isinstance(model, (Optimiser, PivotalTuning)):
            model.on_step = reported
        synchronise(self.device)
        begin = time.perf_counter()
        image = model.invert(photo).image
        synchronise(self.device)
        seconds = time.perf_counter() - begin
        if not torch.isfinite(image).all():
            raise UserError(
                f"{label} draws something that is no image for {', '.join(names[:3])}: train it again, or leave it out"
            )
        return rounded(image), seconds

    def _photos(self, pixels: np.ndarray) -> Tensor:
        """As models take them: RGB ``(B, 3, R, R)`` in [-1, 1]."""
        planes = torch.from_numpy(pixels).movedim(-1, -3).contiguous()
        return planes.float().div_(127.5).sub_(1).to(self.device)

    def _keep(self, label: str, names: list[str], pixels: np.ndarray, numbers: dict[str, np.ndarray]) -> None:
        features = self.scorer.describe(pixels)
        with writing(self.folder, _WAY_OUT):
            if self.images is not None:
                folder = self.images / label
                folder.mkdir(parents=True, exist_ok=True)
                for name, one in zip(names, pixels, strict=True):
                    pictures.save_picture(Image.fromarray(one), folder / f"{name}.png")
            small = resized(pixels, min(_SMALL, pixels.shape[1]))
            self.works[label].keep(Piece(names, numbers, features, small))


def refuse_different(models: Mapping[str, Drawing]) -> None:
    """Models of one table draw with one generator.

    Raises:
        UserError: If they do not.
    """
    first, *others = models
    for other in others:
        one, two = models[first], models[other]
        if one.resolution != two.resolution:
            raise UserError(
                f"{first} draws images of {one.resolution} px and {other} of {two.resolution} px: their numbers cannot "
                "be compared; evaluate them apart"
            )
        if not _same_generator(one.generator, two.generator):
            raise UserError(
                f"{first} and {other} draw with different generators: their numbers cannot be compared; evaluate them "
                "apart, or train both on one generator"
            )


def _same_generator(one: Generator, two: Generator) -> bool:
    """By hash, or number for number where a model file brings its own copy."""
    if one is two or (one.sha256 and one.sha256 == two.sha256):
        return True
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.equal(first[name].cpu(), second[name].cpu())
        for name in first
    )


def identity_of(model: Drawing) -> dict[str, str]:
    """What tells a model from others; and what its edits do with residuals, where that is not as in the paper."""
    known = {"source": model.source, "sha256": model.sha256, "generator_sha256": model.generator.sha256}
    edits = {"edit_strength": model.edit_strength, "edit_gain": model.edit_gain}
    unusual = {name: f"{value:g}" for name, value in edits.items() if value != 1}
    return known | unusual | ({} if model.rule == "add" else {"rule": model.rule})
