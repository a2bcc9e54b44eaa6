"""The FFHQ square of a face, and the one matrix that maps a photo to its crop.

All coordinates are continuous, x to the right and y down, in the photo turned upright by its EXIF tag: the
centre of the first pixel is (0.5, 0.5). A square is four corners in the order of the original script:
upper left, lower left, lower right, upper right, ``(4, 2)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperinverter.contracts import UserError

# MTCNN's five points give a square 1.5 % larger and 0.6 % of its side higher than the 68 points for which the
# formula was made. Both numbers were measured against dlib's 68 points.
FIVE_POINT_SCALE = 0.985
FIVE_POINT_DOWN = 0.006


@dataclass(frozen=True)
class Framing:
    """How a domain cuts its faces, relative to the FFHQ square."""

    side: float  # side of the crop as a share of the FFHQ square's
    down: float  # how far its centre moves along the face's own y, as a share of the FFHQ square's side


FRAMINGS: dict[str, Framing | None] = {
    "ffhq": Framing(1.0, 0.0),
    "digiface": Framing(0.77, -0.007),  # maps photos of that domain onto themselves (median of 100)
    "centre": None,  # no face is looked for: the largest centred square
}


def framing_of(domain: str, faces: bool) -> str:
    """The framing of a domain: its own, else FFHQ's for faces and the centre for anything else."""
    return domain if domain in FRAMINGS else "ffhq" if faces else "centre"


@dataclass(frozen=True)
class Crop:
    """A square of ``size`` pixels a side, cut from a photo.

    Attributes:
        matrix: Photo -> crop, ``(3, 3)``, for homogeneous (x, y, 1). A similarity: it never shears.
        size: Side of the crop in its own pixels.
    """

    matrix: np.ndarray
    size: int

    @classmethod
    def of(cls, corners: np.ndarray, size: int) -> Crop:
        """The crop with these corners in the photo, ``(4, 2)``."""
        origin, x, y = corners[0], corners[3] - corners[0], corners[1] - corners[0]
        back = np.eye(3)
        back[:2] = np.stack([x / size, y / size, origin], axis=1)
        return cls(np.linalg.inv(back), size)

    @property
    def corners(self) -> np.ndarray:
        """Corners in the photo, ``(4, 2)``."""
        own = self.size * np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
        return self.to_photo(own)

    @property
    def side(self) -> float:
        """Side of the square in pixels of the photo."""
        corners = self.corners
        return float(np.hypot(*(corners[3] - corners[0])))

    def resized(self, size: int) -> Crop:
        """The same square with another number of pixels."""
        scale = size / self.size
        return Crop(np.diag([scale, scale, 1.0]) @ self.matrix, size)

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Points of the crop, ``(..., 2)``, as points of the photo."""
        back = np.linalg.inv(self.matrix)
        return points @ back[:2, :2].T + back[:2, 2]

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Points of the photo, ``(..., 2)``, as points of the crop."""
        return points @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def share_outside(self, width: int, height: int) -> float:
        """Share of the crop's area that lies outside a photo of this size, to about 0.5 %."""
        steps = (np.arange(200) + 0.5) / 200 * self.size
        x, y = np.moveaxis(self.to_photo(np.stack(np.meshgrid(steps, steps), axis=-1)), -1, 0)
        return float(np.mean((x < 0) | (y < 0) | (x > width) | (y > height)))


def face_square(points: np.ndarray) -> np.ndarray:
    """The FFHQ square of one face (Karras et al. 2019, ``ffhq-dataset``).

    Args:
        points: ``(68, 2)`` in the order of iBUG 300-W, or ``(5, 2)``: eyes, nose, mouth corners, the one at
            the image's left first.

    Returns:
        Its corners, ``(4, 2)``.

    Raises:
        UserError: If the points are neither 68 nor 5, or lie on one spot.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.shape == (68, 2):
        left, right = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
        mouth, scale, down = (points[48] + points[54]) / 2, 1.0, 0.0
    elif points.shape == (5, 2):
        left, right = points[0], points[1]
        mouth, scale, down = (points[3] + points[4]) / 2, FIVE_POINT_SCALE, FIVE_POINT_DOWN
    else:
        raise UserError(f"a face needs 68 or 5 points (x, y), not an array of shape {points.shape}")
    eyes = (left + right) / 2
    along, below = scale * (right - left), scale * (mouth - eyes)
    x = along - _turned(below)
    if not np.isfinite(points).all() or np.hypot(*x) == 0:
        raise UserError("the points of a face lie on one spot or are not numbers; check the landmarks")
    x *= max(2.0 * np.hypot(*along), 1.8 * np.hypot(*below)) / np.hypot(*x)  # half a side
    y = _turned(x)
    centre = eyes + 0.1 * below + 2 * down * y
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def framed(square: np.ndarray, framing: Framing) -> np.ndarray:
    """An FFHQ square as a domain cuts it."""
    return _grown(square, framing.side) + framing.down * (square[1] - square[0])


def viewed(square: np.ndarray, grow: float, degrees: float) -> np.ndarray:
    """A square made larger by ``grow`` and turned around its centre."""
    angle, centre = np.deg2rad(degrees), square.mean(axis=0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return centre + (_grown(square, grow) - centre) @ turn.T


def centred_square(width: int, height: int) -> np.ndarray:
    """The largest square in the middle of a photo."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return np.array([left, top]) + side * np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])


def _grown(square: np.ndarray, scale: float) -> np.ndarray:
    centre = square.mean(axis=0)
    return centre + scale * (square - centre)


def _turned(vector: np.ndarray) -> np.ndarray:
    """A quarter turn from x to y."""
    return np.array([-vector[1], vector[0]])
