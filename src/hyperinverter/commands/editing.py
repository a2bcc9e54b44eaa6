"""Edit, interpolate and mix inversions: pictures, labelled strips, animations, faces put back into photos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hyperinverter import pictures
from hyperinverter.commands.inputs import (
    INVERSION,
    Matrix,
    Source,
    framing_for,
    load_named,
    meant,
    model_for,
    read,
)
from hyperinverter.contracts import Inversion, UserError, shown
from hyperinverter.editing import catalogue
from hyperinverter.editing.animation import save_animation as save_animation
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.files import load_inversion
from hyperinverter.editing.moves import interpolated, with_residuals_of
from hyperinverter.inversion.carrying import Rule
from hyperinverter.inversion.given import as_codes
from hyperinverter.inversion.shifting import shifted, style_shifts
from hyperinverter.system.files import sha256_of, writing
from hyperinverter.system.progress import progress
from hyperinverter.system.terminal import say

Powers = Sequence[tuple[str, float]]
OTHER_FOLDER = "give another folder with --out"


def parse_sweep(text: str | None) -> list[float] | None:
    """``-3:3:7`` -> seven powers from -3 to 3.

    Raises:
        UserError: If it is not of that form.
    """
    if text is None:
        return None
    try:
        first, last, steps = text.split(":")
        low, high, count = float(first), float(last), int(steps)
    except ValueError as error:
        raise UserError(f"--sweep={text[:40]} is not FROM:TO:STEPS, such as -3:3:7") from error
    if not 2 <= count <= 200 or not all(map(math.isfinite, (low, high, high - low))):
        raise UserError(f"--sweep={text[:40]} needs finite ends and 2 to 200 steps")
    return _steps(low, high, count)


def _steps(low: float, high: float, count: int) -> list[float]:
    # not torch.linspace: its 32-bit zero in the middle would be drawn as -3e-08
    return [low + (high - low) * index / (count - 1) for index in range(count)]


class Editor:
    """A model, its directions, and a folder for results.

    Args:
        found: The photos and inversions.
        model: ``digiface``, a run folder, or a model file; None: what the inversions were made with.
        directions: Catalogues or files, known besides the catalogue of the model's generator; with neither, its
            principal components.
        out: Where pictures go.
        align: Whether to cut photos out as the model's domain frames them: faces are found first.
        framing: Another way to cut them out, a name of ``alignment.FRAMINGS``.
        fit, white: See ``inputs.read``.
        strength: Of the residuals.
        edit_strength: What a large edit leaves of them; None: as the model says.
        edit_gain: How many times as far as asked an edit goes; None: as the model says.
        rule: What an edit does with them, see ``Drawing``; None: as the model says.
    """

    def __init__(
        self,
        found: Sequence[Source],
        model: str | None,
        directions: Sequence[str],
        out: Path,
        *,
        align: bool = False,
        framing: str | None = None,
        fit: str = "crop",
        white: int | None = None,
        strength: float | Mapping[str, float] = 1.0,
        edit_strength: float | None = None,
        edit_gain: float | None = None,
        rule: Rule | None = None,
    ) -> None:
        self.found, name = found, model_for(found, model)
        self.model = load_named(name, model)
        if edit_strength is not None:
            self.model.edit_strength = edit_strength
        if edit_gain is not None:
            self.model.edit_gain = edit_gain
        self.model.rule = rule or self.model.rule
        self.fit, self.white = fit, white
        self.framing = framing_for(self.model, framing) if align or framing else None
        self.sources, self.out, self.strength = directions, out, strength
        with writing(out, OTHER_FOLDER):
            out.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        powers: Powers,
        *,
        sweep: Sequence[float] | None = None,
        animate: str | None = None,
        paste: Path | None = None,
        paste_mode: str = "face",
    ) -> int:
        """Edit every photo; 1 if one failed.

        Args:
            powers: Names of directions, and how far.
            sweep: Powers of the first direction, for a strip; None with ``animate``: its safe range.
            animate: Kind of an animation of the sweep.
            paste: The photo that the edited face goes back into.
            paste_mode: See ``alignment.paste``.
        """
        edits, found = self.edits(powers), self.found
        first = edits[0][0]
        if sweep is None and animate is not None:
            sweep = _steps(*first.safe, 7)
        elif sweep is not None:
            _warn(first, *sweep)
        failed = 0
        with progress() as bar:
            for source in bar.track(found, description="editing"):
                try:
                    inversion, crop, photo = self._opened(source)
                    with meant("it cannot be drawn"):
                        self._edit(source.name, inversion, edits, sweep, animate)
                    if paste is not None:
                        _check_own(paste, photo)
                        self._paste(source.name, inversion, edits, crop, paste, paste_mode)
                except UserError as error:
                    failed += 1
                    say(f"{source.path.name}: {error}")
        say(f"{len(found) - failed} edited{f', {failed} failed' if failed else ''}: {self.out}")
        return int(failed > 0)

    def edits(self, powers: Powers) -> list[tuple[Direction, float]]:
        """Directions by name, and a line for every power outside of what is safe.

        Raises:
            UserError: If there is no direction of a name.
        """
        known = catalogue.with_catalogue(self.model.generator, self.sources)
        found = []
        for name, power in powers:
            direction = catalogue.named(name, known, self.model.generator)
            _warn(direction, power)
            found.append((direction, power))
        return found

    def inversion(self, source: Source) -> Inversion:
        """The inversion in a file, or of a photo.

        Raises:
            UserError: If it cannot be read, or is of another generator.
        """
        return self._opened(source)[0]

    def _opened(self, source: Source) -> tuple[Inversion, Matrix | None, str]:
        """``inversion``; the matrix photo -> crop, if it was aligned; and the photo's hash, empty if unknown."""
        if source.path.name.endswith(INVERSION):
            inversion, origin = load_inversion(source.path)
            if origin.generator_sha256 and origin.generator_sha256 != self.model.generator.sha256:
                way_out = f"add --model {shown(origin.model, 1000) or 'MODEL'}"
                raise UserError(f"{source.path.name} was made with another generator: {way_out}")
            with meant(f"{source.path.name} is of another model"):
                fitting = replace(inversion, w=as_codes(inversion.w, self.model.generator))
            return fitting, origin.crop, origin.photo_sha256
        image, crop = read(source.path, self.model.resolution, self.framing, self.fit, self.white)
        with meant(f"{source.path.name} cannot be inverted"):
            return self.model.invert(image), crop, sha256_of(source.path)

    def _edit(
        self,
        name: str,
        inversion: Inversion,
        edits: list[tuple[Direction, float]],
        sweep: Sequence[float] | None,
        animate: str | None,
    ) -> None:
        with writing(self.out, OTHER_FOLDER):
            edited = self.model.edit(inversion, edits, strength=self.strength)
            pictures.save_picture(pictures.to_picture(edited[0]), self.out / f"{name}.edit.png")
        if sweep is None:
            return
        first, others = edits[0][0], edits[1:]
        self.save_strip(
            [f"{first.name} {power:+.2g}" for power in sweep],
            self._swept(inversion, first, others, sweep),
            f"{name}.sweep",
        )
        if animate is not None:
            smooth = torch.linspace(sweep[0], sweep[-1], 25).tolist()
            save_animation(
                self._swept(inversion, first, others, smooth), self.out / f"{name}.sweep.{animate}"
            )

    @torch.no_grad()
    def _swept(
        self,
        inversion: Inversion,
        first: Direction,
        others: list[tuple[Direction, float]],
        powers: Sequence[float],
    ) -> list[Image.Image]:
        """One picture per power of the first direction; the weights of the photo are made once."""
        draw = self.model.prepare(inversion, self.strength)
        w = inversion.w.expand(len(powers), *inversion.w.shape[1:])
        edits: list[tuple[Direction, float | Tensor]] = [(first, torch.tensor(powers)), *others]
        codes, styles = shifted(w, edits), style_shifts(w, edits)
        frames = []
        for part in (slice(start, start + 8) for start in range(0, len(powers), 8)):
            images = draw(codes[part], {name: shift[part] for name, shift in styles.items()})
            frames += [pictures.to_picture(image) for image in images]
        return frames

    @torch.no_grad()
    def between(
        self, first: Source, second: Source, *, steps: int, what: str, path: str = "line"
    ) -> list[Image.Image]:
        """Pictures from one photo to another; ``path`` is ``line``, or ``sphere``: around the mean code."""
        centre = self.model.generator.w_avg if path == "sphere" else None
        start, end = self.inversion(first), self.inversion(second)
        frames = []
        with meant(f"{first.name} and {second.name}"):
            for index in range(steps):
                w, residuals = interpolated(start, end, index / (steps - 1), what=what, centre=centre)
                frames.append(pictures.to_picture(self.model.render(w, residuals, self.strength)[0]))
        return frames

    @torch.no_grad()
    def mixed(
        self, first: Source, second: Source, groups: Sequence[str]
    ) -> tuple[list[str], list[Image.Image]]:
        """The first inversion, the second, and the first's w with the second's residuals in these groups."""
        one, other = self.inversion(first), self.inversion(second)
        with meant(f"{first.name} and {second.name}"):
            residuals = with_residuals_of(one, other, groups)
            images = [one.image, other.image, self.model.render(one.w, residuals, self.strength)]
        return [first.name[:20], second.name[:20], "mixed"], [
            pictures.to_picture(image[0]) for image in images
        ]

    def save_strip(self, titles: list[str], frames: list[Image.Image], name: str) -> None:
        """One row of labelled pictures, ``NAME.png``."""
        size = max(96, min(256, frames[0].width))
        with writing(self.out, OTHER_FOLDER):
            pictures.save_picture(pictures.sheet(titles, [frames], size), self.out / f"{name}.png")

    def _paste(
        self,
        name: str,
        inversion: Inversion,
        edits: list[tuple[Direction, float]],
        crop: Matrix | None,
        photo: Path,
        mode: str,
    ) -> None:
        if crop is None:
            raise UserError(
                "--paste needs to know where the face was: add --align, here or when the photo is inverted"
            )
        from hyperinverter.alignment import Crop, paste

        edited = self.model.edit(inversion, edits, strength=self.strength)
        before = self.model.render(inversion.w, inversion.residuals, self.strength)
        where = Crop(np.array(crop), self.model.resolution)
        pasted = paste(photo, _picture(edited), where, inversion=_picture(before), mode=mode)
        if pasted.note:
            say(f"{photo.name}: {pasted.note}")
        with writing(self.out, OTHER_FOLDER):
            pasted.save(self.out, name)


def _warn(direction: Direction, *powers: float) -> None:
    """Say so if a power is one that breaks faces."""
    low, high = direction.safe
    wrong = [power for power in powers if not low <= power <= high]
    if wrong:
        worst = max(wrong, key=abs)
        say(
            f"{direction.name}={worst:g} is outside of its safe range {low:g} to {high:g}: faces may fall apart"
        )


def _check_own(photo: Path, sha256: str) -> None:
    """Refuse a photo that an inversion was not made from: the place of its face is another."""
    if sha256 and photo.is_file() and sha256_of(photo) != sha256:
        raise UserError(f"{photo} is not the photo that was inverted: a face goes back into its own photo")


def _picture(image: Tensor) -> Image.Image:
    return pictures.to_picture(image[0])
