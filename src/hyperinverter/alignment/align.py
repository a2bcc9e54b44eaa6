"""Any photo -> aligned square crops, and what happened to it in one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from hyperinverter.alignment.crop import cut
from hyperinverter.alignment.detect import Face, find_faces, look_again
from hyperinverter.alignment.geometry import FRAMINGS, Crop, centred_square, face_square, framed
from hyperinverter.contracts import UserError
from hyperinverter.data.transforms import load_rgb

STATUSES = ("aligned", "several", "no face", "too small", "unreadable")  # the last three have no crop


@dataclass(frozen=True)
class AlignedFace:
    """One crop of a photo."""

    image: Image.Image  # RGB, S x S
    crop: Crop  # where it lies in the photo
    padding: float  # share of its area that lies outside the photo
    face: Face | None  # None for a centre crop
    number: int  # among the faces of the photo, 0 is the largest


@dataclass(frozen=True)
class Alignment:
    """What became of one photo.

    Attributes:
        status: ``"aligned"`` (one face), ``"several"`` (more than one face; the chosen ones are cut),
            ``"no face"``, ``"too small"`` or ``"unreadable"``.
        message: Why there is no crop, or what one should know about it; may be empty.
        found: Number of faces in the photo; None where none were looked for.
        faces: The crops, in the order of their numbers.
        photo_size: Width and height of the upright photo; None if it cannot be read.
    """

    status: str
    message: str = ""
    found: int | None = None
    faces: list[AlignedFace] = field(default_factory=list)
    photo_size: tuple[int, int] | None = None

    @property
    def ok(self) -> bool:
        return bool(self.faces)

    @property
    def face(self) -> AlignedFace:
        """The first crop.

        Raises:
            UserError: If there is none, with the reason.
        """
        if not self.faces:
            raise UserError(self.message)
        return self.faces[0]


def align(
    photo: str | Path | Image.Image,
    size: int,
    *,
    framing: str = "ffhq",
    face: str | int = "largest",
    points: Sequence[np.ndarray] | None = None,
    faces: Sequence[Face] | None = None,
    min_side: float = 0.5,
) -> Alignment:
    """Find the faces of a photo and cut them out, upright and framed as a domain wants them.

        crop = align("me.jpg", 256).face.image

    Args:
        photo: An image file, or an upright RGB image.
        size: Side ``S`` of the crops in pixels.
        framing: ``"ffhq"``, ``"digiface"``, or ``"centre"`` (the largest centred square, no face needed).
        face: ``"largest"``, ``"all"``, or a number; faces are numbered by size, 0 is the largest.
        points: Known faces, ``(68, 2)`` or ``(5, 2)`` each, in pixels of the upright photo (a pixel's centre is
            an integer, as in dlib); nothing is searched then.
        faces: What ``detect.find_faces`` has found in this photo; it is not searched again then.
        min_side: A crop that covers fewer pixels of the photo than this share of ``size`` is refused.

    Returns:
        The crops and a status. Bad photos do not raise: their status says so.

    Raises:
        UserError: If an argument is wrong.
    """
    check_options(size, framing, face, min_side)
    name = "the photo" if isinstance(photo, Image.Image) else str(photo)
    try:
        image = photo if isinstance(photo, Image.Image) else load_rgb(photo)
    except UserError as error:
        return Alignment("unreadable", str(error))
    if image.mode != "RGB":
        raise UserError(f"align wants an RGB image, got mode {image.mode}; give the path of its file")
    way = FRAMINGS[framing]
    if way is None:
        return _finished([(0, None, centred_square(*image.size))], image, size, min_side, name, None)
    if points is not None:
        faces = _given(points, image.size)
    elif faces is None:
        faces = find_faces(image)
    if not faces:
        return Alignment("no face", f"no face found in {name}", 0, photo_size=image.size)
    if isinstance(face, int) and face >= len(faces):
        known = (
            "1 face (number 0)" if len(faces) == 1 else f"{len(faces)} faces (numbers 0 to {len(faces) - 1})"
        )
        message = f"face {face} was asked for, {name} has {known}"
        return Alignment("no face", message, len(faces), photo_size=image.size)
    numbers = range(len(faces)) if face == "all" else [0 if face == "largest" else int(face)]
    chosen = [(n, faces[n] if points is not None else look_again(image, faces[n])) for n in numbers]
    squares = [(n, each, framed(face_square(each.points), way)) for n, each in chosen]
    return _finished(squares, image, size, min_side, name, len(faces))


def check_options(size: int, framing: str, face: str | int, min_side: float) -> None:
    """Raise UserError if an option of :func:`align` makes no sense, before any photo is opened."""
    if not 1 <= size <= 4096:
        raise UserError(f"the size of a crop is 1 to 4096 pixels, not {size}")
    if framing not in FRAMINGS:
        raise UserError(f"unknown framing {framing!r}; choose one of {', '.join(FRAMINGS)}")
    if face not in ("largest", "all") and not (isinstance(face, int) and face >= 0):
        raise UserError(f"face is largest, all or a number from 0 on, not {face!r}")
    if not min_side >= 0:
        raise UserError(f"the least side is a share of the size, 0 or more, not {min_side}")


def _given(points: Sequence[np.ndarray], size: tuple[int, int]) -> list[Face]:
    """Faces of known points, the largest first."""
    faces = []
    for each in points:
        continuous = np.asarray(each, dtype=np.float64) + 0.5
        face_square(continuous)  # raises if they are not a face
        if not ((continuous.mean(axis=0) > 0) & (continuous.mean(axis=0) < size)).all():
            raise UserError(
                "the points of a face lie outside its photo; they count pixels of the upright photo"
            )
        box = (*continuous.min(axis=0).tolist(), *continuous.max(axis=0).tolist())
        faces.append(Face(box, 1.0, continuous))
    return sorted(faces, key=lambda face: -face.area)


def _finished(
    squares: Sequence[tuple[int, Face | None, np.ndarray]],
    image: Image.Image,
    size: int,
    min_side: float,
    name: str,
    found: int | None,
) -> Alignment:
    """Cut what is large enough."""
    faces, small = [], []
    for number, face, corners in squares:
        crop = Crop.of(corners, size)
        if crop.side < min_side * size:
            small.append(crop.side)
            continue
        outside = crop.share_outside(*image.size)
        faces.append(AlignedFace(cut(image, crop.corners, size), crop, outside, face, number))
    shortage = ""
    if small:
        least = f"{max(small):.0f} px wide in the photo, {size} px are wanted"
        shortage = f"{len(small)} of {len(squares)} faces too small ({least})" if found else f"only {least}"
    if not faces:
        message = (
            f"{name}: {shortage}; ask for a smaller size, or lower the least side (now {min_side:g} of it)"
        )
        return Alignment("too small", message, found, photo_size=image.size)
    status = "several" if found is not None and found > 1 else "aligned"
    return Alignment(status, shortage, found, faces, image.size)
