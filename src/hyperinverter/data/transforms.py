"""Photo file <-> tensor in [-1, 1].

Every photo takes the same steps, in training and for a single file: first frame, upright by its EXIF
tag, colours in sRGB by its ICC profile, transparency over white, 8 bits per channel, the largest centred
square (or what ``fit`` says), resized with PIL's bilinear filter, which averages over all source pixels when
it shrinks.
"""

import contextlib
import functools
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from hyperinverter.contracts import UserError, shown
from hyperinverter.system.files import as_path, write_bytes

VERSION = 1  # of the steps above: decoded photos kept from another version are not used
MIN_SIDE = 16  # pixels; anything smaller is no usable photo
MAX_PIXELS = 100_000_000  # of one photo: 300 MB decoded, in every process that reads photos
LIMIT = "HYPERINVERTER_MAX_MEGAPIXELS"  # a variable of the environment that says another limit

# The only formats that Pillow may open, by content: others start foreign programs (EPS) or decode what is no photo.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000", "AVIF")

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

_WHITES = (255, 1023, 4095, 16383)  # of 8, 10, 12 and 14 bits, as cameras and instruments write into 16
_LARGEST_SIDE = 1 << 14
_LOOKED_AT = 200  # photos whose shape is looked at when a run begins
_PROFILE_SPACES = {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}  # PIL mode -> ICC colour space
_reported_enlarging = False
_reported_shapes = False
_reported_dark = False


def read_photo(
    path: str | Path, resolution: int, resize: str = "bilinear", fit: str = "crop", white: int | None = None
) -> Tensor:
    """Read one photo as the networks see it.

    Args:
        path: An image file.
        resolution: Side ``R`` of the result in pixels.
        resize: Filter, a key of :data:`FILTERS`.
        fit: What happens to a photo that is not square, a key of :data:`FITS`.
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
    if (
        isinstance(resolution, bool)
        or not isinstance(resolution, int)
        or not 1 <= resolution <= _LARGEST_SIDE
    ):
        raise UserError(
            f"a resolution is a whole number from 1 to {_LARGEST_SIDE} pixels, got {resolution!r}"
        )
    if white is not None and not (isinstance(white, int) and 1 <= white <= 65535):
        raise UserError(f"white is a whole number from 1 to 65535, such as 255 or 4095, got {white!r}")
    square = fit_square(load_rgb(path, white), resolution, resize, fit)
    return np.array(square)  # a copy: PIL's own array is read-only


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
    with _explaining(path), Image.open(path, formats=_formats(path)) as image:
        _check_size(image, path)
        wide = image.mode == "RGB" and any(";16" in str(tile[3]) for tile in image.tile)
        image.load()
        if wide:
            _report_dark_colours(image, path)
        return ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image, path: str | Path, white: int | None = None) -> Image.Image:
    """Bring any PIL mode to 8-bit sRGB, transparency over white.

    Args:
        image: An upright photo.
        path: Its file, for messages.
        white: See :func:`read_photo`.

    Raises:
        UserError: If its pixels cannot be brought to 8 bits.
    """
    with _explaining(Path(path), on_disk=False):
        return _to_rgb(image, Path(path), white)


def unreadable_header(path: Path) -> str:
    """Why a photo cannot be read, as far as its header shows; empty if it looks readable."""
    try:
        with _explaining(path), Image.open(path, formats=_formats(path)) as image:
            _check_size(image, path)
    except UserError as error:
        return str(error)
    return ""


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height as the file says them; nothing is decoded.

    Raises:
        UserError: If it is no photo, or larger or smaller than any that is read.
    """
    with _explaining(path), Image.open(path, formats=_formats(path)) as image:
        _check_size(image, path)
        return image.size


def _formats(path: Path) -> list[str]:
    """The formats that a file may be of; TGA has no beginning of its own, so it goes by the ending."""
    return [name for name in _known() if name != "TGA" or path.suffix.lower() == ".tga"]


@functools.cache
def _known() -> list[str]:
    """Those of ``FORMATS`` that this Pillow can read; AVIF came with 11.3."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def _explaining(path: Path, *, on_disk: bool = True) -> Iterator[None]:
    """Say in one sentence what is wrong with an image file."""
    if on_disk and not path.is_file():
        raise UserError(f"no photo at {path}; give the path of an image file")
    if on_disk and path.stat().st_size == 0:
        raise UserError(f"{path} is an empty file (0 bytes); copy it again or remove it")
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 megapixels and refuses above 179; the warning would not help here.
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit lies above ours
        raise _too_large(path) from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read; change its permissions or remove it") from error
    except Exception as error:  # decoders raise every kind of exception for broken files
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"none of {', '.join(_known())}" if unknown else shown(str(error), 200)
        raise UserError(
            f"{path} cannot be read as an image ({reason}); it may be damaged: copy it again, save it as "
            f"PNG, or remove it"
        ) from error


def _most_pixels() -> int:
    said = os.environ.get(LIMIT, "").strip()
    if not said:
        return MAX_PIXELS
    if not (said.isascii() and said.isdigit() and 0 < int(said[:9]) <= 178):  # Pillow refuses more
        raise UserError(f"{LIMIT} must be a whole number from 1 to 178, got {shown(said, 40)}")
    return int(said) * 10**6


def _too_large(path: Path) -> UserError:
    return UserError(
        f"{path} has more than {_most_pixels() // 10**6} megapixels; save it smaller first, or raise the limit with "
        f"the variable {LIMIT}"
    )


def _check_size(image: Image.Image, path: Path) -> None:
    if image.width * image.height > _most_pixels():
        raise _too_large(path)
    if min(image.size) < MIN_SIDE:
        raise UserError(
            f"{path} is {image.width}x{image.height} pixels; a photo needs at least {MIN_SIDE} on each side: "
            f"give a larger one or remove it"
        )


def fit_square(
    image: Image.Image, resolution: int, resize: str = "bilinear", fit: str = "crop"
) -> Image.Image:
    """Make an image square and bring it to ``resolution`` pixels a side.

    ``crop`` cuts the largest centred square, ``pad`` adds white stripes on both sides, ``squeeze`` changes its
    proportions. An image that already has that size comes back unchanged.

    Raises:
        UserError: If ``resize`` is not a key of :data:`FILTERS`, or ``fit`` not one of :data:`FITS`.
    """
    if resize not in FILTERS:
        raise UserError(f"unknown resize filter {resize!r}; choose one of {', '.join(FILTERS)}")
    if fit not in FITS:
        raise UserError(f"unknown way to make a photo square {fit!r}; choose one of {', '.join(FITS)}")
    if image.width != image.height:
        _report_shape(image.size, fit)
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


def _report_shape(size: tuple[int, int], fit: str) -> None:
    """Log it once, as for photos that are enlarged."""
    global _reported_shapes
    if not _reported_shapes:
        _reported_shapes = True
        log.warning(
            "photos that are not square %s (the first is %dx%d): %s", FITS[fit], *size, _other_fits(fit)
        )


def _other_fits(fit: str) -> str:
    others = " and ".join(name for name in FITS if name != fit)
    return f"data.fit={fit} (of a command: --fit {fit}); there are also {others}"


def report_shapes(root: Path, names: Sequence[str], fit: str) -> None:
    """Say once at the start how many photos are not square and what becomes of them; only headers are read."""
    global _reported_shapes
    looked, odd = list(names)[:_LOOKED_AT], []
    for name in looked:
        with contextlib.suppress(Exception), Image.open(root / name, formats=_formats(root / name)) as image:
            if image.width != image.height:  # what cannot be read is reported where it is read
                odd.append(f"{name}, {image.width}x{image.height}")
    if odd and not _reported_shapes:
        _reported_shapes = True
        many = f"{len(odd)} of {len(looked)} photos" + (" looked at" if len(names) > len(looked) else "")
        log.warning("%s are not square and %s (%s): %s", many, FITS[fit], odd[0], _other_fits(fit))


def _report_enlarging(side: int, resolution: int) -> None:
    """Log it once: a folder may hold thousands of small photos."""
    global _reported_enlarging
    if not _reported_enlarging:
        _reported_enlarging = True
        log.warning("photos smaller than %d px are enlarged (the first has %d px)", resolution, side)


def _to_rgb(image: Image.Image, path: Path, white: int | None) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image, path, white).convert("RGB")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    profile = image.info.get("icc_profile")
    if image.mode not in _PROFILE_SPACES:
        image = image.convert("RGB")  # palettes, bilevel, YCbCr; drops alpha, which is kept above
    rgb = _to_srgb(image, profile, path) if profile else image.convert("RGB")
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)


def _from_wide(image: Image.Image, path: Path, white: int | None) -> Image.Image:
    """Greys of more than 8 bits -> 8 bits; Pillow's own ``convert`` would clip them at 255."""
    global _reported_dark
    values = np.asarray(image)
    # A 16-bit file opens as "I;16" or, with older Pillow, as 32-bit "I".
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise UserError(
            f"{path} has 32-bit pixels ({image.mode!r}) without a known white level; save it with 8 or 16 bits"
        )
    largest = int(values.max())
    whites = [level for level in _WHITES if largest <= level]
    if white is None and whites and not _reported_dark:
        _reported_dark = True
        log.warning(
            "%s has 16 bits and no value above %d, so it comes out %s; data.white=%d (of a command: --white) says what "
            "white is",
            path,
            largest,
            "dark" if largest > 4095 else "nearly black",
            whites[0],
        )
    brightest = white or 65535
    return Image.fromarray(np.round(values.clip(0, brightest) / (brightest / 255)).astype(np.uint8))


def _report_dark_colours(image: Image.Image, path: Path) -> None:
    """Of colours with 16 bits, Pillow keeps the upper 8: values of 12 bits are lost but for 4 of them."""
    global _reported_dark
    brightest = max(largest for _, largest in image.getextrema())  # type: ignore[misc]
    if brightest < 64 and not _reported_dark:
        _reported_dark = True
        log.warning(
            "%s has colours of 16 bits whose values fit in 14 or fewer, so it comes out dark, and data.white is for "
            "grey photos only: save it with 8 bits",
            path,
        )


def _to_srgb(image: Image.Image, profile: bytes, path: Path) -> Image.Image:
    """Apply the colour profile in the file, if it can be used."""
    try:
        source = _worth_following(profile, image.mode)
        if source is None:
            return image.convert("RGB")
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        log.warning("%s: its colour profile cannot be used (%s); colours are used as they are", path, error)
        return image.convert("RGB")
    assert converted is not None  # only inPlace=True returns None
    return converted


def _worth_following(profile: bytes, mode: str) -> ImageCms.ImageCmsProfile | None:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if source.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
        return None  # a leftover of an earlier format says nothing about these pixels
    if "sRGB" in (source.profile.profile_description or ""):
        return None  # already there: spare the rounding
    return source


def from_rgb(image: Image.Image, mode: str, profile: bytes | None) -> Image.Image:
    """8-bit sRGB -> the colours of a photo, the way back of :func:`to_rgb` as far as there is one.

    Args:
        image: RGB.
        mode: ``"RGB"``, ``"L"``, ``"CMYK"`` or ``"I;16"``.
        profile: ICC profile of the photo; one that cannot be followed is not, as in :func:`to_rgb`.
    """
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    try:
        target = _worth_following(profile, mode) if profile else None
        if target is None:
            return image.convert(mode)
        converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target, outputMode=mode)
    except (ImageCms.PyCMSError, OSError):  # reported when the photo was read
        return image.convert(mode)
    assert converted is not None  # only inPlace=True returns None
    return converted


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
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected one RGB image (3, R, R), got {tuple(image.shape)}")
    return Image.fromarray(to_pixels(image))


def save_png(image: Tensor, path: str | Path) -> None:
    """Write one image, ``(3, R, R)`` or ``(1, 3, R, R)`` in [-1, 1]; the file is complete or not there."""
    buffer = io.BytesIO()
    to_image(image).save(buffer, "PNG")
    write_bytes(Path(path), buffer.getvalue())
