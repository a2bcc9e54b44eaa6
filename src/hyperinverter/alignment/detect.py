"""Find faces and their five points with facenet-pytorch's MTCNN, whose weights are in its wheel.

MTCNN alone is noisy: turn or scale a photo, and its crop moves by 4 % of its side (median, 64 px faces
enlarged; 12 % in one of ten). So every face is looked at again, upright and at a fixed size, in several
views whose points are averaged. That leaves 0.5 % and 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from hyperinverter.alignment.crop import warped
from hyperinverter.alignment.geometry import Crop, face_square, viewed

LONG_SIDE = 1024  # pixels of the copy that is searched: on the full photo the search costs seconds
LEAST_SIDE = 256  # a smaller photo is enlarged: MTCNN sees no face below 20 px
MIN_SCORE = 0.9  # below it most finds are no faces

_VIEW = 160  # pixels of a second look
_GROWN = 1.4  # its side, as a share of the FFHQ square's
_SCALES, _TURNS = (0.85, 1.0, 1.18), (-8.0, 0.0, 8.0)  # degrees
_FIRST_LOOKS = [(scale, 0.0) for scale in _SCALES]
_LAST_LOOKS = [(scale, turn) for scale in _SCALES for turn in _TURNS]
_MIRRORED = [1, 0, 2, 4, 3]  # the points' order in a mirror


@dataclass(frozen=True)
class Face:
    """One face in a photo, in the photo's continuous coordinates."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    score: float  # of the detector, 0 to 1; 1 for given points
    points: np.ndarray  # (5, 2): eyes, nose, mouth corners, image left first; or (68, 2)

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


def find_faces(photo: Image.Image) -> list[Face]:
    """Search a photo.

    Args:
        photo: RGB, upright, of any size.

    Returns:
        Faces with a score of at least 0.9, the largest first. Their points are those of the first look; see
        :func:`look_again`.
    """
    longest = max(photo.size)
    scale = min(max(longest, LEAST_SIDE), LONG_SIDE) / longest
    small = photo
    if scale != 1:
        size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        small = photo.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    if min(small.size) < 20:
        return []
    factors = np.divide(photo.size, small.size)
    faces = []
    for box, score, points in _detect([small], min_face=20)[0]:
        if score >= MIN_SCORE:
            corners = (box.reshape(2, 2) * factors).ravel().tolist()
            faces.append(Face(tuple(corners), score, points * factors))
    return sorted(faces, key=lambda face: -face.area)


def look_again(photo: Image.Image, face: Face) -> Face:
    """Find the five points of a face again, upright, at a fixed size, averaged over views and mirror images."""
    points = face.points
    for looks in (_FIRST_LOOKS, _FIRST_LOOKS, _LAST_LOOKS):
        square = face_square(points)
        crops = [Crop.of(viewed(square, _GROWN * scale, turn), _VIEW) for scale, turn in looks]
        views = [_view(photo, crop) for crop in crops]
        found = _detect([*views, *map(ImageOps.mirror, views)], min_face=_VIEW // 4)
        seen = []
        for place, faces in enumerate(found):
            central = _most_central([each for _, _, each in faces])
            if central is None:
                continue
            if place >= len(views):
                central = central[_MIRRORED] * [-1, 1] + [_VIEW, 0]
            seen.append(crops[place % len(views)].to_photo(central))
        if not seen:  # too strange a face for a second look: the first one counts
            return face
        points = np.mean(seen, axis=0)
    return Face(face.box, face.score, points)


def _most_central(candidates: list[np.ndarray]) -> np.ndarray | None:
    """The face around the middle of a view; another one at its rim is a neighbour."""
    distances = [np.hypot(*(points.mean(axis=0) - _VIEW / 2)) for points in candidates]
    if not distances or min(distances) > _VIEW / 5:
        return None
    return candidates[int(np.argmin(distances))]


def _view(photo: Image.Image, crop: Crop) -> Image.Image:
    """A quick square: averaged over boxes of pixels, black outside the photo."""
    reduce = max(1, int(crop.side / _VIEW))
    left, top = np.floor(crop.corners.min(axis=0)).astype(int) - reduce
    right, bottom = np.ceil(crop.corners.max(axis=0)).astype(int) + reduce
    part = photo.crop((int(left), int(top), int(right), int(bottom)))
    if reduce > 1:
        part = part.reduce(reduce)
    corners = (crop.corners - [left, top]) / reduce
    double = warped(part, Crop.of(corners, 2 * _VIEW).matrix, 2 * _VIEW)
    return double.reduce(2)


def _detect(photos: list[Image.Image], min_face: int) -> list[list[tuple[np.ndarray, float, np.ndarray]]]:
    """Box ``(4,)``, score and points ``(5, 2)`` of every face in photos of equal size."""
    with torch.inference_mode():
        boxes, scores, points = _mtcnn(min_face).detect(photos, landmarks=True)
    found: list[list[tuple[np.ndarray, float, np.ndarray]]] = []
    for at in range(len(photos)):
        if boxes[at] is None:
            found.append([])
            continue
        columns = zip(boxes[at], scores[at], points[at], strict=True)
        found.append([(np.asarray(b, float), float(s), np.asarray(p, float)) for b, s, p in columns])
    return found


@lru_cache(maxsize=2)
def _mtcnn(min_face: int) -> Any:
    from facenet_pytorch import MTCNN  # a second to import

    return MTCNN(keep_all=True, min_face_size=min_face, device="cpu")
