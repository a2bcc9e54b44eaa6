"""Put an edited crop back into its photo.

The photo keeps its mode, size and colour profile, and outside a soft mask every pixel. Inside, pixels change
only where the edited crop differs from the one it is compared with, so pasting without an edit gives back
the photo itself.

* ``face``: the edited face itself, faded into the photo. Compared with the crop of the photo.
* ``difference``: edit - inversion, added to the photo. Errors of the inversion cancel, so the person stays
  recognisable: identity 0.8 where ``face`` has 0.4 for a moderate smile on the built-in faces. Edits that
  move contours (a large turn of the head) leave a ghost of the old ones. Compared with the inversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter, uniform_filter

from hyperinverter.alignment.crop import cut
from hyperinverter.alignment.geometry import Crop
from hyperinverter.contracts import UserError
from hyperinverter.data.colours import from_rgb, to_rgb
from hyperinverter.data.transforms import load_upright
from hyperinverter.system.files import replacing

MODES = ("face", "difference")
SHAPES = ("square", "oval")
FEATHER = 0.15  # width of the fade, as a share of the crop's side

_KEPT_INFO = ("icc_profile", "dpi", "transparency")
_COLOURS = {"L": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK", "I;16": "I;16"}


@dataclass(frozen=True)
class Edit:
    """One edited crop."""

    image: Image.Image  # the edited crop; square, of any number of pixels
    crop: Crop  # where it was cut
    inversion: Image.Image | None = None  # the same crop inverted and not edited; for mode "difference"


@dataclass(frozen=True)
class Pasted:
    """A photo with edited faces.

    Attributes:
        image: In the photo's mode, size and colour profile; upright, without EXIF.
        mask: Where pixels may differ from the photo, ``bool (H, W)``.
        note: What could not be kept; empty if all was.
    """

    image: Image.Image
    mask: np.ndarray
    note: str = ""

    def save(self, folder: Path, name: str) -> Path:
        """Write ``NAME.pasted.png``, or ``.tif`` for CMYK, which PNG does not know; both are without loss.

        Returns:
            The file.
        """
        kind, suffix = ("TIFF", ".tif") if self.image.mode == "CMYK" else ("PNG", ".png")
        path = folder / f"{name}.pasted{suffix}"
        with replacing(path) as part:
            self.image.save(part, kind, icc_profile=self.image.info.get("icc_profile"))
        return path


def paste(
    photo: str | Path | Image.Image,
    edited: Image.Image,
    crop: Crop,
    *,
    inversion: Image.Image | None = None,
    mode: str = "face",
    shape: str = "square",
    feather: float = FEATHER,
) -> Pasted:
    """Paste one edited crop; the arguments are those of :class:`Edit` and :func:`paste_all`."""
    return paste_all(photo, [Edit(edited, crop, inversion)], mode=mode, shape=shape, feather=feather)


def paste_all(
    photo: str | Path | Image.Image,
    edits: Sequence[Edit],
    *,
    mode: str = "face",
    shape: str = "square",
    feather: float = FEATHER,
) -> Pasted:
    """Paste edited crops into one photo, one after another.

    Args:
        photo: An image file, or an upright image of any mode.
        edits: Crops of this photo.
        mode: ``"face"`` or ``"difference"``; see the head of this module.
        shape: Of the mask: ``"square"`` (all of the crop) or ``"oval"`` (without its corners).
        feather: Width of the fade along the mask's border, as a share of the crop's side.

    Raises:
        UserError: If the photo cannot be read, an option is unknown, an edit is not square, or mode
            ``"difference"`` lacks an inversion.
    """
    if mode not in MODES or shape not in SHAPES:
        raise UserError(f"paste knows the modes {', '.join(MODES)} and the shapes {', '.join(SHAPES)}")
    if not 0 < feather <= 0.5:
        raise UserError(f"the feather is a share of the crop's side, above 0 and up to 0.5, not {feather}")
    path = Path("the photo") if isinstance(photo, Image.Image) else Path(photo)
    own = photo.copy() if isinstance(photo, Image.Image) else load_upright(path)
    rgb = to_rgb(own, path).copy()  # own changes below; converting RGB to RGB makes no copy
    own, note = _writable(own)
    mask = np.zeros((own.height, own.width), dtype=bool)
    for edit in edits:
        if mode == "difference" and edit.inversion is None:
            raise UserError("mode difference needs the inversion without the edit; give it, or use mode face")
        _check_square(edit.image)
        _put(own, rgb, edit, mask, mode=mode, shape=shape, feather=feather)
    own.info = {key: own.info[key] for key in _KEPT_INFO if key in own.info}
    return Pasted(own, mask, note)


def _writable(photo: Image.Image) -> tuple[Image.Image, str]:
    """A photo of a mode that can take new colours."""
    if photo.mode in _COLOURS:
        return photo, ""
    if photo.mode.startswith("I"):
        return Image.fromarray(np.asarray(photo).astype(np.uint16)), ""
    mode = "RGBA" if photo.has_transparency_data else "RGB"
    note = f"mode {photo.mode} cannot hold new colours: written as {mode}"
    converted = photo.convert(mode)
    if photo.info.get("icc_profile"):
        converted.info["icc_profile"] = photo.info["icc_profile"]
    return converted, note


def _check_square(image: Image.Image) -> None:
    if image.width != image.height:
        raise UserError(f"an edited crop is square, this one has {image.width}x{image.height} pixels")


def _put(
    own: Image.Image,
    rgb: Image.Image,
    edit: Edit,
    mask: np.ndarray,
    *,
    mode: str,
    shape: str,
    feather: float,
) -> None:
    """Paste one crop into ``own``, and mark in ``mask`` what may differ from the photo ``rgb``."""
    edited = edit.image.convert("RGB")
    crop = edit.crop.resized(edited.width)
    low = np.maximum(np.floor(crop.corners.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(crop.corners.max(axis=0)).astype(int), own.size)
    if (high <= low).any():
        return
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    before = _before(rgb, edit, mode)
    weight = _weight(crop, box, own.size, shape, feather)
    if before is not None:
        weight = weight * _footprint(_changed(edited, before), crop, box)
    weight[weight < 1 / 512] = 0  # half a level of the largest change there is
    colours, profile = _COLOURS[own.mode], own.info.get("icc_profile")
    part = own.crop(box)
    old = np.asarray(part.convert(colours) if own.mode in ("LA", "RGBA") else part, dtype=np.float32)
    new = np.asarray(edited, dtype=np.float32)
    if mode == "difference":
        assert before is not None
        now = to_rgb(part, "the photo")
        change = _footprint(new - np.asarray(before, dtype=np.float32), crop, box)
        moved = _as_colours(np.asarray(now, dtype=np.float32) + change, colours, profile)
        # A photo's own colours can lie outside sRGB; they stay, and only the difference is added. Inks cannot
        # be added: the same colour has many mixtures.
        base = old if colours == "CMYK" else _as_colours(np.asarray(now, dtype=np.float32), colours, profile)
    else:
        moved, base = _as_colours(_footprint(new, crop, box), colours, profile), old
    blend = weight if old.ndim == 2 else weight[..., None]
    top = 65535 if colours == "I;16" else 255
    result = np.clip(np.round(old + blend * (moved - base)), 0, top)
    _write(own, result.astype(np.uint16 if colours == "I;16" else np.uint8), box)
    mask[box[1] : box[3], box[0] : box[2]] |= weight > 0


def _before(rgb: Image.Image, edit: Edit, mode: str) -> Image.Image | None:
    """The crop without the edit; None if it has another size and cannot be compared."""
    if mode == "difference":
        assert edit.inversion is not None
        if edit.inversion.size != edit.image.size:
            raise UserError(
                f"edit and inversion differ in size ({edit.image.width} and {edit.inversion.width} px); "
                f"they must come from the same model"
            )
        return edit.inversion.convert("RGB")
    return cut(rgb, edit.crop.corners, edit.crop.size) if edit.image.width == edit.crop.size else None


def _changed(edited: Image.Image, before: Image.Image) -> np.ndarray:
    """1 in and around the pixels that the edit has changed, fading to 0, ``(S, S)``."""
    differ = (np.asarray(edited) != np.asarray(before)).any(axis=-1)
    if not differ.any():
        return differ.astype(np.float32)
    reach = 2 * (2 + edited.width // 100) + 1
    return uniform_filter(maximum_filter(differ, reach).astype(np.float32), reach)


def _weight(
    crop: Crop, box: tuple[int, int, int, int], photo: tuple[int, int], shape: str, feather: float
) -> np.ndarray:
    """The soft mask over a part of the photo, 0 to 1: 0 from the crop's border on."""
    left, top, right, bottom = box
    x, y = np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5
    place = crop.to_crop(np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)) / crop.size
    if shape == "oval":
        depth = 0.5 - np.hypot(place[..., 0] - 0.5, place[..., 1] - 0.5)
    else:
        depth = np.minimum(place, 1 - place).min(axis=-1)
    weight = _smooth(depth / feather)
    # Where the crop ran over the photo's edge, what it shows near that edge was blurred: see crop._padded.
    near, (width, height) = 0.1 * crop.side, photo
    low, high = crop.corners.min(axis=0), crop.corners.max(axis=0)
    if low[0] < 4:
        weight = weight * _smooth(x / near)
    if high[0] > width - 4:
        weight = weight * _smooth((width - x) / near)
    if low[1] < 4:
        weight = weight * _smooth(y / near)[:, None]
    if high[1] > height - 4:
        weight = weight * _smooth((height - y) / near)[:, None]
    return weight.astype(np.float32)


def _smooth(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _footprint(values: np.ndarray, crop: Crop, box: tuple[int, int, int, int]) -> np.ndarray:
    """Values of the crop's pixels, ``(S, S)`` or ``(S, S, C)``, at the photo's pixels inside ``box``."""
    if values.ndim == 3:
        return np.stack([_footprint(values[..., c], crop, box) for c in range(values.shape[2])], axis=-1)
    image = Image.fromarray(np.asarray(values, dtype=np.float32))
    side = max(1, round(crop.side))
    if side < crop.size:  # the transform below does not average
        image, crop = image.resize((side, side), Image.Resampling.LANCZOS), crop.resized(side)
    left, top, right, bottom = box
    forth = crop.matrix[:2].copy()
    forth[:, 2] += forth[:, :2] @ [left, top]
    size = (right - left, bottom - top)
    return np.asarray(
        image.transform(size, Image.Transform.AFFINE, forth.ravel().tolist(), Image.Resampling.BICUBIC)
    )


def _as_colours(values: np.ndarray, mode: str, profile: bytes | None) -> np.ndarray:
    image = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    return np.asarray(from_rgb(image, mode, profile), dtype=np.float32)


def _write(own: Image.Image, pixels: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Replace the colours inside ``box``; transparency stays."""
    planes = [pixels] if pixels.ndim == 2 else list(np.moveaxis(pixels, -1, 0))
    bands = [Image.fromarray(np.ascontiguousarray(plane)) for plane in planes]
    if own.mode in ("LA", "RGBA"):
        bands.append(own.crop(box).getchannel("A"))
    own.paste(bands[0] if len(bands) == 1 else Image.merge(own.mode, bands), box)
