"""How far the crops of ``align`` are from those of dlib's 68 points, on photos of your own.

    pip install dlib-bin        # not a dependency: its 68-point model is for research only
    python tests/helpers/points68.py shape_predictor_68_face_landmarks.dat PHOTO...

dlib is asked in two ways. Once on the full photo with one upsampling, as the FFHQ scripts do. Its points depend
on its box, though, and its own crop moves when the photo is scaled or turned; so it is also asked in 24 views of
each face, and the median of their points is a second, steadier reference. Compared are faces that all three find.
The error is the mean distance of the four corners, in percent of the crop's side.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hyperinverter.alignment.crop import cut
from hyperinverter.alignment.detect import Face, find_faces, look_again
from hyperinverter.alignment.geometry import Crop, face_square, viewed
from hyperinverter.data.transforms import load_rgb

VIEW = 320
GROWN = 1.7  # side of a view, as a share of the FFHQ square's
SEARCHED = [(1.0, turn) for turn in (-15.0, 0.0, 15.0)]
AVERAGED = [(scale, turn) for scale in (0.85, 0.95, 1.05, 1.18) for turn in (-8.0, 0.0, 8.0)]
# Which point stands where in a mirror.
MIRRORED = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
MIRRORED += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1)]
MIRRORED += [64, 63, 62, 61, 60, 67, 66, 65]


class Dlib:
    """Its frontal detector and a 68-point predictor."""

    def __init__(self, predictor: str) -> None:
        import dlib

        self.detect: Any = dlib.get_frontal_face_detector()
        self.predict: Any = dlib.shape_predictor(predictor)

    def points(self, photo: Image.Image, upsampling: int) -> list[np.ndarray]:
        """68 points of every face, ``(68, 2)``, in continuous coordinates."""
        pixels = np.array(photo)
        found = [self.predict(pixels, box).parts() for box in self.detect(pixels, upsampling)]
        return [np.array([[point.x, point.y] for point in each], dtype=float) + 0.5 for each in found]

    def in_views(self, photo: Image.Image, box: tuple[float, ...]) -> np.ndarray | None:
        """The median of a face's points over views; where to look comes from a box, how it lies from dlib."""
        corners, points = np.array(box).reshape(2, 2), None
        side, unit = 1.5 * np.ptp(corners, axis=0).max(), np.array([[0, 0], [0, 1], [1, 1], [1, 0]]) - 0.5
        square = corners.mean(axis=0) + side * unit
        for views in (SEARCHED, AVERAGED):
            seen = [each for scale, turn in views for each in self._view(photo, square, scale, turn)]
            if not seen:
                return None
            points = np.median(seen, axis=0)
            square = face_square(points)
        return points

    def _view(self, photo: Image.Image, square: np.ndarray, scale: float, turn: float) -> list[np.ndarray]:
        crop = Crop.of(viewed(square, GROWN * scale, turn), VIEW)
        view, seen = cut(photo, crop.corners, VIEW), []
        for mirrored in (False, True):
            shown = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else view
            points = _nearest(self.points(shown, 0), np.array([VIEW / 2, VIEW / 2]), VIEW / 5)
            if points is not None:
                seen.append(crop.to_photo(points[MIRRORED] * [-1, 1] + [VIEW, 0] if mirrored else points))
        return seen


def _nearest(candidates: list[np.ndarray], middle: np.ndarray, within: float) -> np.ndarray | None:
    distances = [np.hypot(*(each.mean(axis=0) - middle)) for each in candidates]
    return candidates[int(np.argmin(distances))] if distances and min(distances) < within else None


def error(square: np.ndarray, true: np.ndarray) -> float:
    """Mean distance of the corners in percent of the side."""
    return float(100 * np.linalg.norm(square - true, axis=1).mean() / np.hypot(*(true[3] - true[0])))


def compared(dlib: Dlib, photo: Image.Image, single: list[np.ndarray], face: Face) -> list[float] | None:
    """Of one face: ours against dlib once, ours against its median, dlib once against its median."""
    corners = np.array(face.box).reshape(2, 2)
    once = _nearest(single, corners.mean(axis=0), 0.5 * np.ptp(corners, axis=0).max())
    median = dlib.in_views(photo, face.box)
    if once is None or median is None:
        return None
    ours, once, median = (face_square(each) for each in (look_again(photo, face).points, once, median))
    return [error(ours, once), error(ours, median), error(once, median)]


def main(predictor: str, *paths: str) -> None:
    """Print the errors of every face, and their mean, median and 90 %."""
    dlib, rows = Dlib(predictor), []
    for path in paths:
        photo = load_rgb(path)
        single = dlib.points(photo, 1)
        for face in find_faces(photo):
            found = compared(dlib, photo, single, face)
            if found is not None:
                rows.append(found)
            print(Path(path).name, "not found by dlib" if found is None else np.round(found, 2), flush=True)
    print(f"{len(rows)} faces: align against dlib once, against its median; dlib once against its median (%)")
    for name, values in (
        ("mean", np.mean(rows, axis=0)),
        ("median", np.median(rows, axis=0)),
        ("90 %", np.quantile(rows, 0.9, axis=0)),
    ):
        print(f"{name:7s}", np.round(values, 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
