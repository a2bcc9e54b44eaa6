"""Photo files that are safe to open: by content, of known formats, neither too large nor too small."""

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile

from hyperinverter.contracts import UserError, shown
from hyperinverter.system import kinds

MIN_SIDE = 16  # pixels; anything smaller is no usable photo
MAX_PIXELS = 100_000_000  # of one photo: 300 MB decoded, in every process that reads photos
LIMIT = "HYPERINVERTER_MAX_MEGAPIXELS"  # a variable of the environment that says another limit

# The only formats that Pillow may open, by content: others start foreign programs (EPS) or decode what is no photo.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000", "AVIF")


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """A photo whose header is read and whose pixels are not.

    Raises:
        UserError: If it is no photo, or larger or smaller than any that is read; also for what the caller's own
            reading of its pixels raises.
    """
    with explaining(path), Image.open(path, formats=_formats(path)) as image:
        _check_size(image, path)
        yield image


def unreadable_header(path: Path) -> str:
    """Why a photo cannot be read, as far as its header shows; empty if it looks readable."""
    try:
        with opened(path):
            return ""
    except UserError as error:
        return str(error)


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height as the file says them; nothing is decoded.

    Raises:
        UserError: If it is no photo, or larger or smaller than any that is read.
    """
    with opened(path) as image:
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
def explaining(path: Path, *, on_disk: bool = True) -> Iterator[None]:
    """Say in one sentence what is wrong with an image file; ``on_disk``: look at the file first."""
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
        known = (kinds.archive(path) or kinds.no_photo(path)) if unknown and on_disk else None
        if known is not None:
            raise UserError(f"{path} {known[0]}, which is not read as a photo; {known[1]}") from error
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
