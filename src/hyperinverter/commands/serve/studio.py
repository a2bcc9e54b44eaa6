"""What the editor does with photos, without the web: models, opened photos, edits, results to take away."""

from __future__ import annotations

import itertools
import re
import shlex
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hyperinverter import pictures
from hyperinverter.alignment import FRAMINGS, Crop, align, paste
from hyperinverter.alignment.detect import Face, find_faces
from hyperinverter.alignment.geometry import centred_square
from hyperinverter.commands.inputs import framing_for
from hyperinverter.commands.serve.moves import STRENGTHS, Moves
from hyperinverter.contracts import Inversion, UserError
from hyperinverter.data.digiface import accepted_indices, sample_faces
from hyperinverter.data.opening import photo_size
from hyperinverter.data.transforms import load_rgb, to_tensor
from hyperinverter.editing import catalogue
from hyperinverter.editing.animation import save_animation
from hyperinverter.editing.files import Origin, load_inversion, save_inversion
from hyperinverter.inversion.drawing import KINDS, Draw, Drawing
from hyperinverter.inversion.optimise import Optimiser
from hyperinverter.inversion.shifting import shifted, style_shifts
from hyperinverter.inversion.tuning import PivotalTuning
from hyperinverter.inverters import load_inverter
from hyperinverter.judges.catalogue import build_judge
from hyperinverter.system.files import sha256_of

MOST_MODELS = 3
MOST_PIXELS = 40_000_000
PREVIEW = 640  # longest side of the photo as the page shows it
EXAMPLES = 6
MOST_PREPARED = 12  # generators of single photos, each as large as the generator
_KINDS = {  # headings of the sliders
    "expression": ("smile", "mouth_open", "brows"),
    "pose": ("yaw", "pitch"),
    "hair": ("forehead", "sides"),
    "light and colour": ("skin_light", "warmth", "light_side", "light_above", "background"),
}

_COMPONENT = re.compile(r"s?pc\d")  # what ``discover`` calls principal components

OnStep = Callable[[int, int], None]


@dataclass
class Photo:
    """An uploaded photo."""

    path: Path
    name: str
    size: tuple[int, int]
    faces: list[Face]  # the largest first
    preview: Image.Image

    @property
    def boxes(self) -> list[tuple[float, float, float, float]]:
        """Of its faces, in pixels."""
        return [face.box for face in self.faces]


@dataclass
class Opened:
    """A photo that is inverted, by every model that was asked."""

    name: str
    image: Tensor | None  # (1, 3, R, R); None if it came as a file of an inversion
    crop: Crop | None
    source: Path | None
    inversions: dict[int, Inversion] = field(default_factory=dict)
    numbers: dict[int, dict[str, float]] = field(default_factory=dict)
    number: int = field(default_factory=itertools.count().__next__)

    def bytes(self) -> int:
        """What its inversions take."""
        parts = [
            t for each in self.inversions.values() for t in (each.w, each.image, *each.residuals.values())
        ]
        return sum(part.nbytes for part in parts)


class Studio:
    """The models of an editor, and what they do with a photo.

    One call at a time; next to it one call of ``invert`` for a slow model, which shares nothing with the others but
    networks that only read.

    Args:
        models: As typed.
        framing: How faces are cut out, a name of ``alignment.FRAMINGS``; None: as the domain of the first model says.
        directions: Of the sliders, catalogues or files; empty: the catalogue of the generator, else its components.

    Raises:
        UserError: If one cannot be loaded, or they do not draw with one generator.
    """

    def __init__(
        self, models: Sequence[str], framing: str | None = None, directions: Sequence[str] = ()
    ) -> None:
        if len(models) > MOST_MODELS:
            raise UserError(f"the page compares up to {MOST_MODELS} models, got {len(models)}")
        self.names = list(models)
        self.models: list[Drawing] = [load_inverter(name).eval() for name in models]
        generator = self.models[0].generator
        for name, model in zip(models, self.models, strict=True):
            if model.generator.sha256 != generator.sha256:
                raise UserError(
                    f"{models[0]} and {name} draw with different generators: start the page once for each"
                )
        self.resolution = self.models[0].resolution
        self.framing = framing_for(self.models[0], framing)
        self.sources, self.directions = directions, catalogue.for_generator(generator, directions)
        self.distance, self.identity = build_judge("st_lpips_alex"), build_judge("id_descriptor")
        self._kept: OrderedDict[Any, Draw] = OrderedDict()
        self._decoded: tuple[Path, Image.Image] | None = None  # the last upload: it is cut right after
        self.examples = [Image.fromarray(face) for face in sample_faces(accepted_indices()[:EXAMPLES])]
        if FRAMINGS[self.framing] is not None:
            # MTCNN is loaded now, and not at the first upload.
            align(self.examples[0], self.resolution, framing=self.framing)

    def about(self) -> dict[str, Any]:
        """What the page needs to build itself."""
        kinds = {name: kind for kind, names in _KINDS.items() for name in names}
        order = {name: place for place, name in enumerate(kinds)}
        return {
            "models": [{"name": name, "slow": self.is_slow(model)} for model, name in enumerate(self.names)],
            "resolution": self.resolution,
            "examples": len(self.examples) if self.framing == "digiface" else 0,
            "strengths": self.strengths(),
            "directions": [
                {
                    "name": direction.name,
                    "group": kinds.get(
                        direction.name, "components" if _COMPONENT.match(direction.name) else "directions"
                    ),
                    "low": direction.safe[0],
                    "high": direction.safe[1],
                    "about": direction.about,
                    "unit": direction.unit,
                }
                for direction in sorted(self.directions.values(), key=lambda each: order.get(each.name, 99))
            ],
        }

    def is_slow(self, model: int) -> bool:
        """Whether a model searches for seconds or minutes, and tells of its steps."""
        return isinstance(self.models[model], (Optimiser, PivotalTuning))

    def strengths(self) -> list[str]:
        """Strengths that do something: by kind only where a model has feature residuals."""
        added = [getattr(model, "feature_residuals", None) for model in self.models]
        with_features = any(each is not None and each.between_layers for each in added)
        return [name for name in STRENGTHS if with_features or name not in KINDS]

    # Photos --------------------------------------------------------------------------------------------------

    def look(self, path: Path, name: str) -> Photo:
        """Read an upload and find its faces.

        Raises:
            UserError: If it is no photo, or too large.
        """
        width, height = photo_size(path)
        if width * height > MOST_PIXELS:
            raise UserError(
                f"the photo has {width} x {height} pixels; make it smaller than {MOST_PIXELS // 10**6} million pixels"
            )
        image = self._upright(path)
        preview = image.reduce(max(1, max(image.size) // PREVIEW))
        preview.thumbnail((PREVIEW, PREVIEW))
        return Photo(path, name, image.size, find_faces(image), preview)

    def _upright(self, path: Path) -> Image.Image:
        """The pixels of an upload; those of the last one are kept."""
        if self._decoded is None or self._decoded[0] != path:
            self._decoded = None  # frees the one before
            self._decoded = (path, load_rgb(path))
        return self._decoded[1]

    def cut(self, photo: Photo, face: int | None) -> Opened:
        """Cut a face out, or the centre of the photo for None.

        Raises:
            UserError: If there is no such face, or it is too small.
        """
        framing = "centre" if face is None else self.framing
        crop = align(
            self._upright(photo.path),
            self.resolution,
            framing=framing,
            face=face or 0,
            faces=photo.faces,
            min_side=0.25,
        ).face
        image = to_tensor(np.array(crop.image))[None]
        return Opened(photo.name, image, crop.crop, photo.path)

    def example(self, index: int) -> Opened:
        """One of the built-in photos, which are cut already."""
        if not 0 <= index < len(self.examples):
            raise UserError("there is no such example")
        pixels = np.array(self.examples[index])
        return Opened(f"example{index + 1}", to_tensor(pixels)[None], None, None)

    def kept(self, name: str, picture: Image.Image) -> Opened:
        """A photo of an evaluation or a run, which is cut already."""
        side = (self.resolution, self.resolution)
        fitted = picture if picture.size == side else picture.resize(side, Image.Resampling.LANCZOS)
        return Opened(name, to_tensor(np.array(fitted))[None], None, None)

    def load(self, path: Path, name: str) -> Opened:
        """An inversion from its file, for the model that made it, or else for the first.

        Raises:
            UserError: If it is none, or of another generator.
        """
        inversion, origin = load_inversion(path)
        if origin.generator_sha256 and origin.generator_sha256 != self.models[0].generator.sha256:
            raise UserError(
                "the file was made with another generator than this page's: start it with that model"
            )
        if (
            inversion.image.shape[-1] != self.resolution
            or inversion.w.shape[-1] != self.models[0].generator.w_dim
        ):
            raise UserError("the file holds an inversion of another size than this page's model draws")
        opened = Opened(name.removesuffix(".inversion.safetensors"), None, None, None)
        made_by = (i for i, model in enumerate(self.models) if model.sha256 == origin.model_sha256)
        opened.inversions[next(made_by, 0)] = inversion
        return opened

    # Inversions and edits --------------------------------------------------------------------------------------

    def invert(self, opened: Opened, model: int, on_step: OnStep | None = None) -> dict[str, float]:
        """Invert with one model, once; its numbers: ``l2``, ``perceptual``, ``identity``, ``ms``."""
        if model not in opened.inversions:
            if opened.image is None:
                raise UserError("this inversion came as a file: drop the photo to see another model")
            way = self.models[model]
            if isinstance(way, (Optimiser, PivotalTuning)):
                way.on_step = on_step
            begin = time.perf_counter()
            found = way.invert(opened.image)
            seconds = time.perf_counter() - begin
            opened.inversions[model] = found
            with torch.no_grad():
                opened.numbers[model] = {**self._numbers(found.image, opened.image), "ms": 1000 * seconds}
                first = self._numbers(found.w_image, opened.image)
                opened.numbers[model] |= {f"first_{name}": value for name, value in first.items()}
        return opened.numbers.get(model, {})

    def _numbers(self, image: Tensor, photo: Tensor) -> dict[str, float]:
        image = image.clamp(-1, 1)
        return {
            "l2": float((image - photo).square().mean()),
            "perceptual": float(self.distance(image, photo)),
            "identity": float(self.identity(image, photo)),
        }

    @torch.no_grad()
    def draw(
        self, opened: Opened, model: int, moves: Moves, powers: Sequence[Mapping[str, float]] = ()
    ) -> list[Image.Image]:
        """The edit, or one picture for each of several powers."""
        inversion = opened.inversions[model]
        draw = self._prepared(opened, model, moves)
        found = []
        for each in powers or (moves.powers,):
            edits = [(self.directions[name], power) for name, power in each.items()]
            images = draw(shifted(inversion.w, edits), style_shifts(inversion.w, edits))
            found.append(pictures.to_picture(images[0]))
        return found

    def _prepared(self, opened: Opened, model: int, moves: Moves) -> Draw:
        """The photo's own generator, made once for each strength; the last ones are kept."""
        key = (opened.number, model, tuple(sorted(moves.strength.items())))
        if key not in self._kept:
            self._kept[key] = self.models[model].prepare(opened.inversions[model], moves.residuals())
            if len(self._kept) > MOST_PREPARED:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def picture(self, opened: Opened, model: int, kind: str) -> Image.Image:
        """``photo``, ``w_image`` or ``inversion``."""
        if kind == "photo":
            image = opened.inversions[model].image if opened.image is None else opened.image
        elif kind in ("w_image", "inversion"):
            found = opened.inversions[model]
            image = found.w_image if kind == "w_image" else found.image
        else:
            raise UserError("there is no such picture")
        return pictures.to_picture(image[0])

    # Results -----------------------------------------------------------------------------------------------------

    def take(self, opened: Opened, model: int, moves: Moves, kind: str, folder: Path) -> Path:
        """Write a result into a folder: ``png``, ``paste``, ``strip``, ``gif`` or ``inversion``.

        Raises:
            UserError: If there is nothing to make it from.
        """
        name = opened.name
        if kind == "png":
            path = folder / f"{name}.edit.png"
            pictures.save_picture(self.draw(opened, model, moves)[0], path)
        elif kind == "paste":
            path = self._pasted(opened, model, moves, folder)
        elif kind in ("strip", "gif"):
            path = self._swept(opened, model, moves, kind, folder)
        elif kind == "inversion":
            path = folder / f"{name}.inversion.safetensors"
            crop = None if opened.crop is None else opened.crop.matrix.tolist()
            origin = Origin(
                model=self.names[model],
                model_sha256=self.models[model].sha256,
                generator_sha256=self.models[model].generator.sha256,
                photo=name,
                photo_sha256="" if opened.source is None else sha256_of(opened.source),
                crop=crop,
            )
            save_inversion(opened.inversions[model], path, origin)
        else:
            raise UserError("there is no such result")
        return path

    def _pasted(self, opened: Opened, model: int, moves: Moves, folder: Path) -> Path:
        if opened.source is None or opened.crop is None:
            raise UserError("only a face that was cut out of a photo can be put back: drop the photo itself")
        edited = self.draw(opened, model, moves)[0]
        before = self.picture(opened, model, "inversion")
        pasted = paste(opened.source, edited, opened.crop, inversion=before, mode="difference")
        return pasted.save(folder, opened.name)

    def _swept(self, opened: Opened, model: int, moves: Moves, kind: str, folder: Path) -> Path:
        """The range of the slider that is furthest from its middle, the others where they are."""
        if not moves.powers:
            raise UserError("move a slider first: a strip shows its range")
        name = max(moves.powers, key=lambda each: abs(moves.powers[each]))
        low, high = self.directions[name].safe
        powers = np.linspace(low, high, 7 if kind == "strip" else 25).tolist()
        frames = self.draw(opened, model, moves, [{**moves.powers, name: power} for power in powers])
        if kind == "strip":
            path = folder / f"{opened.name}.sweep.png"
            size = max(96, min(256, self.resolution))
            titles = [f"{name} {power:+.2g}" for power in powers]
            pictures.save_picture(pictures.sheet(titles, [frames], size), path)
        else:
            path = folder / f"{opened.name}.sweep.gif"
            save_animation(frames, path)
        return path

    def command(self, opened: Opened, model: int, moves: Moves) -> str:
        """What to type for the same picture."""
        words = [
            "hyperinverter",
            "edit",
            f"{opened.name}.inversion.safetensors",
            "--model",
            self.names[model],
        ]
        typed = moves.typed()
        if "-d" not in typed:
            typed = ["-d", f"{next(iter(self.directions))}=0", *typed]
        given = [word for source in self.sources for word in ("--directions", source)]
        return shlex.join([*words, *typed, *given])


def centre_box(size: tuple[int, int]) -> list[float]:
    """Left, top, right and bottom of the largest centred square of a photo."""
    corners = centred_square(*size)
    return [*corners.min(0).tolist(), *corners.max(0).tolist()]
