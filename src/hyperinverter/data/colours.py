"""The colours of a photo -> 8-bit sRGB, and back."""

import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from hyperinverter.contracts import UserError
from hyperinverter.data.opening import explaining
from hyperinverter.system.terminal import warn_once

log = logging.getLogger(__name__)

_WHITES = (255, 1023, 4095, 16383)  # of 8, 10, 12 and 14 bits, as cameras and instruments write into 16
_PROFILE_SPACES = {"RGB": "RGB", "CMYK": "CMYK", "L": "GRAY"}  # PIL mode -> ICC colour space


def to_rgb(image: Image.Image, path: str | Path, white: int | None = None) -> Image.Image:
    """Bring any PIL mode to 8-bit sRGB, transparency over white.

    Args:
        image: An upright photo.
        path: Its file, for messages.
        white: See ``transforms.read_photo``.

    Raises:
        UserError: If its pixels cannot be brought to 8 bits.
    """
    path = Path(path)
    with explaining(path, on_disk=False):
        if image.mode.startswith("I") or image.mode == "F":
            return _from_wide(image, path, white).convert("RGB")
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        profile = image.info.get("icc_profile")
        if image.mode not in _PROFILE_SPACES:
            image = image.convert("RGB")  # palettes, bilevel, YCbCr; drops alpha, which is kept above
        rgb = _to_srgb(image, profile, path) if profile else image.convert("RGB")
        return rgb if alpha is None else Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)


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


def report_dark_colours(image: Image.Image, path: Path) -> None:
    """Of colours with 16 bits, Pillow keeps the upper 8: values of 12 bits are lost but for 4 of them."""
    brightest = max(largest for _, largest in image.getextrema())  # type: ignore[misc]
    if brightest < 64:
        sentence = (
            "%s has colours of 16 bits whose values fit in 14 or fewer, so it comes out dark, and data.white is for "
            "grey photos only: save it with 8 bits"
        )
        warn_once(log, "dark", sentence, path)


def _from_wide(image: Image.Image, path: Path, white: int | None) -> Image.Image:
    """Greys of more than 8 bits -> 8 bits; Pillow's own ``convert`` would clip them at 255."""
    values = np.asarray(image)
    # A 16-bit file opens as "I;16" or, with older Pillow, as 32-bit "I".
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise UserError(
            f"{path} has 32-bit pixels ({image.mode!r}) without a known white level; save it with 8 or 16 bits"
        )
    largest = int(values.max())
    whites = [level for level in _WHITES if largest <= level]
    if white is None and whites:
        sentence = (
            "%s has 16 bits and no value above %d, so it comes out %s; data.white=%d (of a command: --white) says what "
            "white is"
        )
        how = "dark" if largest > 4095 else "nearly black"
        warn_once(log, "dark", sentence, path, largest, how, whites[0])
    brightest = white or 65535
    return Image.fromarray(np.round(values.clip(0, brightest) / (brightest / 255)).astype(np.uint8))


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
