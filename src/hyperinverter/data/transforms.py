"""Photo file <-> tensor in [-1, 1].

Every photo takes the same steps, in training and for a single file: first frame, upright by its EXIF tag, colours in
sRGB by its ICC profile, transparency over white, 8 bits per channel, the largest centred square (or what ``fit`` says),
resized with PIL's bilinear filter, which averages over all source pixels when it shrinks.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hyperinverter.contracts import UserError
from hyperinverter.data.colours import report_dark_colours, to_rgb
from hyperinverter.data.opening import opened
from hyperinverter.data.squares import fit_square
from hyperinverter.system.files import as_path, replacing
from hyperinverter.system.terminal import warn_once

VERSION = 1  # of the steps above: decoded photos kept from another version are not used
_LARGEST_SIDE = 1 << 14

log = logging.getLogger(__name__)


def read_photo(
    path: str | Path, resolution: int, resize: str = "bilinear", fit: str = "crop", white: int | None = None
) -> Tensor:
    """Read one photo as the networks see it.

    Args:
        path: An image file.
        resolution: Side ``R`` of the result in pixels.
        resize: Filter, a key of ``squares.FILTERS``.
        fit: What happens to a photo that is not square, a key of ``squares.FITS``.
        white: The value of white in photos of more than 8 bits; None: 65535.

    Returns:
        RGB in [-1, 1], ``(1, 3, R, R)``.

    Raises:
        UserError: If the file is missing, cannot be read as an image, or is smaller than 16 pixels.
    """
    return to_tensor(read_pixels(path, resolution, resize, fit, white))[None]


def read_pixels(
    path: str | Path, resolution: int, resize: str = "bilinear", fit: str = "crop", white: int | None = None
) -> np.ndarray:
    """:func:`read_photo` before it becomes a tensor: RGB, ``uint8 (R, R, 3)``."""
    if type(resolution) is not int or not 1 <= resolution <= _LARGEST_SIDE:
        raise UserError(
            f"a resolution is a whole number from 1 to {_LARGEST_SIDE} pixels, got {resolution!r}"
        )
    if white is not None and (type(white) is not int or not 1 <= white <= 65535):
        raise UserError(f"white is a whole number from 1 to 65535, such as 255 or 4095, got {white!r}")
    return np.array(fit_square(load_rgb(path, white), resolution, resize, fit))  # PIL's own is read-only


def load_rgb(path: str | Path, white: int | None = None) -> Image.Image:
    """Decode a photo at its full size: upright, sRGB, 8 bits, without transparency.

    Raises:
        UserError: See :func:`read_photo`.
    """
    return to_rgb(load_upright(path), path, white)


def load_upright(path: str | Path) -> Image.Image:
    """Decode a photo at its full size, upright, in its own mode and colour space.

    Raises:
        UserError: See :func:`read_photo`.
    """
    path = as_path(path)
    with opened(path) as image:
        if image.format != "MPO" and getattr(image, "is_animated", False):  # in photos of phones: previews
            warn_once(log, "frames", "%s holds several pictures: the first one of such files is taken", path)
        wide = image.mode == "RGB" and any(";16" in str(tile[3]) for tile in image.tile)
        image.load()
        if wide:
            report_dark_colours(image, path)
        return ImageOps.exif_transpose(image)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """RGB ``uint8 (..., R, R, 3)`` -> RGB in [-1, 1], ``float32 (..., 3, R, R)``."""
    planes = torch.from_numpy(pixels).movedim(-1, -3).contiguous()  # while a channel is still one byte
    return planes.float().div_(127.5).sub_(1)


def to_pixels(image: Tensor) -> np.ndarray:
    """RGB in [-1, 1], ``(..., 3, R, R)`` -> ``uint8 (..., R, R, 3)``, clamped and rounded.

    The exact inverse of :func:`to_tensor`.

    Raises:
        ValueError: If the image holds NaN.
    """
    values = image.detach().float().cpu()
    if values.isnan().any():
        raise ValueError("an image with NaN cannot become pixels")
    return values.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1).contiguous().numpy()


def to_image(image: Tensor) -> Image.Image:
    """One image, ``(3, R, R)`` or ``(1, 3, R, R)`` in [-1, 1], as a PIL image."""
    one = image[0] if image.ndim == 4 and len(image) == 1 else image
    if one.ndim != 3 or len(one) != 3:
        raise ValueError(f"expected one RGB image (3, R, R), got {tuple(image.shape)}")
    return Image.fromarray(to_pixels(one))


def save_png(image: Tensor, path: str | Path) -> None:
    """Write one image, ``(3, R, R)`` or ``(1, 3, R, R)`` in [-1, 1]; the file is complete or not there."""
    with replacing(Path(path)) as part:
        to_image(image).save(part, "PNG")
