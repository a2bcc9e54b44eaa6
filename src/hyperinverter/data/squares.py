"""Pictures of any shape -> squares of the side that networks take."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from hyperinverter.contracts import UserError
from hyperinverter.data.opening import photo_size
from hyperinverter.system.terminal import warn_once

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}

# How a photo that is not square becomes one -> what the report says.
FITS = {
    "crop": "lose what lies outside of their middle square",
    "pad": "get white stripes",
    "squeeze": "are squeezed into a square",
}

log = logging.getLogger(__name__)

_LOOKED_AT = 200  # photos whose shape is looked at when a run begins


def fit_square(
    image: Image.Image, resolution: int, resize: str = "bilinear", fit: str = "crop"
) -> Image.Image:
    """Make an image square and bring it to ``resolution`` pixels a side.

    ``crop`` cuts the largest centred square, ``pad`` adds white stripes on both sides, ``squeeze`` changes its
    proportions. An image that already has that size comes back unchanged.

    Raises:
        UserError: If ``resize`` is not a key of :data:`FILTERS`, or ``fit`` not one of :data:`FITS`.
    """
    if not isinstance(resize, str) or resize not in FILTERS:
        raise UserError(f"unknown resize filter {resize!r}; choose one of {', '.join(FILTERS)}")
    if not isinstance(fit, str) or fit not in FITS:
        raise UserError(f"unknown way to make a photo square {fit!r}; choose one of {', '.join(FITS)}")
    if image.width != image.height:
        sentence = "photos that are not square %s (the first is %dx%d): %s"
        warn_once(log, "shapes", sentence, FITS[fit], *image.size, _other_fits(fit))
    if fit == "squeeze":
        if min(image.size) < resolution:
            _report_enlarging(min(image.size), resolution)
        return image.resize((resolution, resolution), FILTERS[resize])
    if fit == "pad" and image.width != image.height:
        image = ImageOps.pad(image, (max(image.size), max(image.size)), color="white")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if side < resolution:
        _report_enlarging(side, resolution)
    square = image.crop((left, top, left + side, top + side))  # resize(box=) would mix in pixels from outside
    return square.resize((resolution, resolution), FILTERS[resize])


def _other_fits(fit: str) -> str:
    others = " and ".join(name for name in FITS if name != fit)
    return f"data.fit={fit} (of a command: --fit {fit}); there are also {others}"


def report_shapes(root: Path, names: Sequence[str], fit: str) -> None:
    """Say once at the start how many photos are not square and what becomes of them; only headers are read."""
    looked, odd = list(names)[:_LOOKED_AT], []
    for name in looked:
        with contextlib.suppress(UserError, OSError):  # what cannot be read is reported where it is read
            width, height = photo_size(root / name)
            if width != height:
                odd.append(f"{name}, {width}x{height}")
    if odd:
        many = f"{len(odd)} of {len(looked)} photos" + (" looked at" if len(names) > len(looked) else "")
        sentence = "%s are not square and %s (%s): %s"
        warn_once(log, "shapes", sentence, many, FITS[fit], odd[0], _other_fits(fit))


def _report_enlarging(side: int, resolution: int) -> None:
    sentence = "photos smaller than %d px are enlarged (the first has %d px)"
    warn_once(log, "enlarging", sentence, resolution, side)
