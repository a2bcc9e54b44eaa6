"""What the commands for photos share: which photos were meant, and what the results of each are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperinverter.contracts import UserError, shown
from hyperinverter.system.files import as_path, distinct
from hyperinverter.system.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from hyperinverter.inversion.drawing import Drawing


@dataclass(frozen=True)
class Source:
    """A photo, or the inversion of one, as it was asked for."""

    path: Path
    name: str  # of its results, without an ending; unique within a command


INVERSION = ".inversion.safetensors"
DEFAULT = "digiface"


def sources(places: Iterable[str | Path], *, inversions: bool = False) -> tuple[list[Source], str]:
    """Find the photos below files and folders, in order; also those that cannot be read, which is said of each later.

    What lies in a folder and is no photo is left out, and is no failure.
    Of photos whose names differ only in folder or ending, the second is called ``NAME-2``, and so on.

    Args:
        places: Files and folders.
        inversions: Whether files of inversions are meant as well.

    Returns:
        The photos, and one line on what was left out or renamed; empty if nothing was.

    Raises:
        UserError: If a place does not exist, nothing is there, or an inversion is given where photos are wanted.
    """
    from hyperinverter.data.listing import list_photos

    found: list[Path] = []
    lines: list[str] = []
    for place in places:
        path = as_path(place)
        if path.is_dir():
            saved = sorted(path.rglob(f"*{INVERSION}")) if inversions else []
            found += saved
            if not saved:
                listing = list_photos(path).with_unreadable()
                found += [path / name for name in listing.names]
                lines += [line for line in [listing.report(path)] if line]
        elif path.is_file():
            if path.name.endswith(INVERSION) and not inversions:
                raise UserError(f"{path} is an inversion, not a photo; `hyperinverter edit` takes it")
            found.append(path)
        else:
            raise UserError(f"there is no photo or folder {path}; check the path")
    if not found:
        raise UserError("no photos were found: give image files, or folders with some")
    named, renamed = _named(found)
    if renamed:
        some = "1 photo shares its name" if renamed == 1 else f"{renamed} photos share their names"
        lines.append(f"{some} with others, so results have numbers")
    return named, "; ".join(lines)


def announced(places: Iterable[str | Path], *, inversions: bool = False) -> list[Source]:
    """``sources``, with its line said to the person."""
    found, line = sources(places, inversions=inversions)
    if line:
        say(line)
    return found


def single(place: str | Path) -> Source:
    """One photo, or the inversion of one.

    Raises:
        UserError: If it is a folder, or does not exist.
    """
    path = as_path(place)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give one photo, or one NAME{INVERSION}")
    return sources([path], inversions=True)[0][0]


def _named(paths: Sequence[Path]) -> tuple[list[Source], int]:
    taken: set[str] = set()
    named, renamed = [], 0
    for path in dict.fromkeys(paths):
        stem = path.name.removesuffix(INVERSION) if path.name.endswith(INVERSION) else path.stem
        # Results add to it, file systems end at 255 bytes, and not every library takes bytes that are no UTF-8.
        stem = os.fsencode(stem).decode(errors="replace").encode()[:100].decode(errors="ignore") or "photo"
        name = distinct(stem, lambda wanted: wanted.casefold() in taken)
        renamed += name != stem
        taken.add(name.casefold())
        named.append(Source(path, name))
    return named, renamed


def model_for(found: Sequence[Source], asked: str | None) -> str:
    """What is loaded for photos and inversions: what was asked for, else the model that made the inversions.

    Args:
        found: Photos and inversions.
        asked: What was typed for ``--model``; None: nothing, which means ``digiface`` for photos alone.

    Raises:
        UserError: If the inversions were made with several models, or with one that cannot be found here.
    """
    from hyperinverter.editing.files import load_origin

    made_by = dict.fromkeys(
        load_origin(source.path).model for source in found if source.path.name.endswith(INVERSION)
    )
    named = [name for name in made_by if name]
    if asked is not None or not named:
        return asked or DEFAULT
    if len(named) > 1:
        raise UserError(
            f"these inversions were made with {', '.join(map(shown, named))}: say which with --model"
        )
    return named[0]


def load_named(name: str, asked: str | None) -> Drawing:
    """Load a model; one that only an inversion names may not be here any more.

    Raises:
        UserError: If it cannot be loaded.
    """
    from hyperinverter.inverters import load_inverter

    try:
        return load_inverter(name)
    except UserError as error:
        if asked is not None or name == DEFAULT:
            raise
        raise UserError(
            f"the inversion was made with {shown(name)}, which cannot be loaded here ({error}): add --model with where "
            "it is now, or with another model of its generator"
        ) from error


def parse_strength(text: str) -> float | dict[str, float]:
    """``0.5``, or ``coarse=1,fine=0.5``: strength of the residuals, everywhere or per group of layers.

    Raises:
        UserError: If it is neither, names a group twice or one that does not exist, or a number is not finite.
    """
    from hyperinverter.inversion.drawing import scale_residuals

    pairs = [(name.strip(), value) for name, _, value in (item.partition("=") for item in text.split(","))]
    try:
        found = {name: float(value) for name, value in pairs} if "=" in text else float(text)
    except ValueError as error:
        raise UserError(
            f"--strength={text[:80]} is neither a number nor GROUP=NUMBER,...: such as fine=0.5"
        ) from error
    if isinstance(found, dict) and len(found) < len(pairs):
        raise UserError(f"--strength={text[:80]} names a group twice: give each one number")
    with meant(f"--strength={text[:80]}"):
        scale_residuals({}, found)
    return found


@contextmanager
def meant(what: str) -> Iterator[None]:
    """Turn what a way to invert says of what it was given into the sentence of a command."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"{what}: {error}") from error


Matrix = list[list[float]]  # photo -> crop, 3x3, in pixels


def framing_for(model: Drawing, asked: str | None = None) -> str:
    """How photos are cut out for a model: as its domain frames them.

    The built-in generator is known by its hash, generators of the registry by the names of their files; a run says in
    its ``config.yaml`` what its domain is, a model file in the command that trained it. For others it must be asked.

    Args:
        model: Any way to invert.
        asked: A name of ``alignment.FRAMINGS``; None: the domain's.

    Raises:
        UserError: If there is no such framing, the run cannot be read, or nothing says what the domain is.
    """
    from hyperinverter import config
    from hyperinverter.alignment import FRAMINGS, framing_of  # facenet-pytorch: seconds to import
    from hyperinverter.checkpoints.registry import packaged

    if asked is not None:
        if asked not in FRAMINGS:
            raise UserError(f"--framing={asked[:40]} is not known; there are: {', '.join(FRAMINGS)}")
        return asked
    if model.generator.sha256 == packaged("generator", "digiface")[1]:
        return "digiface"
    trained = _trained(model)
    place = Path(trained).expanduser()
    inside = (place, *place.parents[:2]) if trained and place.exists() else ()
    for folder in inside:  # the run, or what holds the checkpoint
        if (folder / "run.json").is_file() and (folder / "config.yaml").is_file():
            domain = config.load(folder / "config.yaml").get("domain") or {}
            return framing_of(str(domain.get("name")), domain.get("faces") is not False)
    known = _KNOWN.get(Path(model.generator.source).name) or _framing_in(place if trained else None)
    if known is None:
        raise UserError(
            f"{shown(trained or model.generator.source) or 'this model'} does not say what its photos show: add "
            "--framing ffhq for faces, or --framing centre for anything else"
        )
    return known


# Names that the published generators have everywhere -> how their photos were cut.
_KNOWN = {"stylegan2-ffhq-config-f.pkl": "ffhq", "stylegan2-church-config-f.pkl": "centre"}
_DOMAIN = re.compile(r"(?:^|\s)\+?domain=['\"]?(\w+)")


def _framing_in(place: Path | None) -> str | None:
    """The framing of the domain that a model file was trained for, by the command in its header."""
    from hyperinverter import config
    from hyperinverter.alignment import framing_of
    from hyperinverter.checkpoints.models import recipe_of

    command = str(recipe_of(place).get("command", "")) if place is not None else ""
    found = _DOMAIN.search(command)
    if found is None:
        return None
    try:
        domain = config.option("domain", found[1]).get("domain") or {}
    except UserError:  # a domain of someone else's configuration
        return None
    return framing_of(str(domain.get("name")), domain.get("faces") is not False)


def _trained(model: Drawing) -> str:
    """What was typed for the trained model inside a way to invert: ``RUN`` of ``RUN+pti`` and of ``phase1@RUN``."""
    start = getattr(model, "start", model)  # of a refinement
    return str(start.source).removeprefix("phase1@")


def check_fit(fit: str) -> str:
    """The value of ``--fit`` if there is such a way to make a photo square.

    Raises:
        UserError: If there is not.
    """
    from hyperinverter.data.squares import FITS

    if fit not in FITS:
        raise UserError(f"--fit={fit[:40]} is not known; there are: {', '.join(FITS)}")
    return fit


def read(
    path: Path, resolution: int, framing: str | None, fit: str = "crop", white: int | None = None
) -> tuple[Tensor, Matrix | None]:
    """A photo as a model takes it, ``(1, 3, R, R)``, and where it was cut out if it is aligned.

    Args:
        path: The photo.
        resolution: R.
        framing: A name of ``alignment.FRAMINGS``, see ``framing_for``; None: the photo is aligned already.
        fit: What happens to a photo that is not aligned and not square: ``crop``, ``pad`` or ``squeeze``.
        white: The value of white in photos of more than 8 bits; None: 65535.

    Raises:
        UserError: If the photo cannot be read, or has no face to align.
    """
    from hyperinverter.data.transforms import load_rgb, read_photo, to_tensor

    if framing is None:
        return read_photo(path, resolution, fit=fit, white=white), None
    import numpy as np

    from hyperinverter.alignment import align

    photo = path if white is None else load_rgb(path, white)
    face = align(photo, resolution, framing=framing).face
    matrix = [[float(value) for value in row] for row in face.crop.matrix]
    return to_tensor(np.array(face.image))[None], matrix
