"""Find faces and their five points with facenet-pytorch's MTCNN, whose weights are in its wheel.

MTCNN (Zhang et al. 2016) is three networks: P-Net and R-Net propose boxes, O-Net reads five points in a box of
48 px. Its points jitter with the box: turn or scale a photo, and the crop moves by 4 % of its side (median, 64 px
faces enlarged; 12 % in one of ten). So the search is made once, on a small copy, and then O-Net alone reads every
face again: upright, at full detail, in boxes of several sizes and turns and in their mirror images. The median of
these points counts. That leaves 0.1 % and 0.5 %, and takes 0.03 s a face on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hyperinverter.alignment.crop import warped
from hyperinverter.alignment.geometry import Crop, face_square, viewed

LONG_SIDE = 1024  # pixels of the copy that is searched: on the full photo the search costs seconds
LEAST_SIDE = 256  # a smaller photo is enlarged: MTCNN sees no face below 20 px
MIN_SCORE = 0.9  # below it most finds are no faces

_VIEW = 224  # pixels of a second look
_GROWN = 1.6  # its side, as a share of the FFHQ square's
# O-Net's box in the FFHQ square: sides and places around it gave points further from dlib's, on 34 faces.
_BOX_SIDE, _BOX_DOWN = 0.62, 0.025  # shares of the square's side; its centre lies below the square's
_BOX_PIXELS = 48
_SURE = 0.7  # MTCNN's own bound for O-Net's score
_ROUNDS = (  # sizes and turns in degrees of the boxes: wide first, for points that are far off
    ((0.7, 1.0, 1.4), (-20.0, 0.0, 20.0)),
    ((0.9, 1.0, 1.11), (-6.0, 0.0, 6.0)),
    ((0.9, 1.0, 1.11), (-6.0, 0.0, 6.0)),
)
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
        near = photo.reduce(int(1 / scale)) if scale < 0.5 else photo  # averages: faster than a wide filter
        small = near.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    if min(small.size) < 20:
        return []
    factors = np.divide(photo.size, small.size)
    faces = []
    for box, score, points in _search(small, min_face=20):
        if score >= MIN_SCORE:
            corners = (box.reshape(2, 2) * factors).ravel().tolist()
            faces.append(Face(tuple(corners), score, points * factors))
    return sorted(faces, key=lambda face: -face.area)


def look_again(photo: Image.Image, face: Face) -> Face:
    """Read the five points of a face again, upright and at full detail: the median over boxes and mirror images.

    Args:
        photo: RGB, upright.
        face: As :func:`find_faces` found it.

    Returns:
        The face with its new points; as it was, if it is too strange for a second look.
    """
    points, searched = face.points, False
    for sizes, turns in _ROUNDS:
        view, crop = _view(photo, points)
        seen = _read(view, sizes, turns)
        if seen is None and not searched:  # a box that the photo's border cut off has stretched the points
            searched, seen = True, _most_central([each for _, _, each in _search(view, min_face=_VIEW // 5)])
        if seen is None:
            return face
        points = crop.to_photo(seen)
    return Face(face.box, face.score, points)


def _view(photo: Image.Image, points: np.ndarray) -> tuple[Image.Image, Crop]:
    """A quick upright square around a face: averaged over boxes of pixels, black outside the photo."""
    crop = Crop.of(viewed(face_square(points), _GROWN, 0.0), _VIEW)
    reduce = max(1, int(crop.side / _VIEW))
    left, top = np.floor(crop.corners.min(axis=0)).astype(int) - reduce
    right, bottom = np.ceil(crop.corners.max(axis=0)).astype(int) + reduce
    part = photo.crop((int(left), int(top), int(right), int(bottom)))
    if reduce > 1:
        part = part.reduce(reduce)
    corners = (crop.corners - [left, top]) / reduce
    return warped(part, Crop.of(corners, _VIEW).matrix, _VIEW), crop


def _read(view: Image.Image, sizes: tuple[float, ...], turns: tuple[float, ...]) -> np.ndarray | None:
    """O-Net's five points in a view, ``(5, 2)`` in its pixels; None where O-Net sees no face."""
    boxes = _boxes(sizes, turns)
    count, fine = len(boxes), 2 * _BOX_PIXELS
    grid = F.affine_grid(boxes, [count, 3, fine, fine], align_corners=False)
    with torch.inference_mode():
        crops = F.grid_sample(_pixels(view).expand(count, -1, -1, -1), grid, align_corners=False)
        crops = F.avg_pool2d(crops, 2).contiguous(memory_format=torch.channels_last)
        _, places, scores = _mtcnn(20).onet((crops - 127.5) / 128)
    points = torch.stack([places[:, :5], places[:, 5:]], dim=-1) * 2 - 1  # (x, y) of the box, -1 to 1
    points = points @ boxes[:, :, :2].mT + boxes[:, None, :, 2]  # of the view
    points[count // 2 :] = points[count // 2 :, _MIRRORED]
    sure = points[scores[:, 1] >= _SURE]
    return None if len(sure) == 0 else np.median((sure.double().numpy() + 1) * (_VIEW / 2), axis=0)


@lru_cache(maxsize=len(_ROUNDS))
def _boxes(sizes: tuple[float, ...], turns: tuple[float, ...]) -> Tensor:
    """Boxes in a view, ``(2 N, 2, 3)``: maps from a box to the view, both -1 to 1; the second half mirrored."""
    boxes = []
    for size in sizes:
        for angle in np.deg2rad(turns):
            turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            centre = [[0.0], [2 * _BOX_DOWN / _GROWN]]
            boxes.append(np.hstack([np.array(turn) * size * _BOX_SIDE / _GROWN, centre]))
    plain = np.stack(boxes)
    mirrored = plain * [[-1.0, 1.0, 1.0]]  # the box's own x runs to the left
    return torch.from_numpy(np.concatenate([plain, mirrored])).float()


def _most_central(candidates: list[np.ndarray]) -> np.ndarray | None:
    """The face around the middle of a view; another one at its rim is a neighbour."""
    distances = [np.hypot(*(points.mean(axis=0) - _VIEW / 2)) for points in candidates]
    if not distances or min(distances) > _VIEW / 5:
        return None
    return candidates[int(np.argmin(distances))]


def _search(photo: Image.Image, min_face: int) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """Box ``(4,)``, score and points ``(5, 2)`` of every face that all of MTCNN finds."""
    with torch.inference_mode():
        # It wants (N, H, W, 3); planes of pixels underneath are averaged faster than interleaved ones.
        boxes, scores, points = _mtcnn(min_face).detect(_pixels(photo).permute(0, 2, 3, 1), landmarks=True)
    if boxes[0] is None:
        return []
    columns = zip(boxes[0], scores[0], points[0], strict=True)
    return [(np.asarray(b, float), float(s), np.asarray(p, float)) for b, s, p in columns]


def _pixels(photo: Image.Image) -> Tensor:
    """Values 0 to 255, ``(1, 3, H, W)``."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float().contiguous()[None]


@lru_cache(maxsize=2)
def _mtcnn(min_face: int) -> Any:
    from facenet_pytorch import MTCNN  # a second to import

    found = MTCNN(keep_all=True, min_face_size=min_face, device="cpu")
    for network in (found.pnet, found.rnet, found.onet):
        network.to(memory_format=torch.channels_last)  # convolutions and pooling in half the time
    return found
