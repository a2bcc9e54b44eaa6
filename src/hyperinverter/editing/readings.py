"""Numbers read off pictures of the built-in faces: what an edit is meant to change, and what it should leave alone.

Expression and shape come from the packaged face networks, light and colour from fixed parts of the framed picture.
None of them was trained for this project, but the networks are small: look at the pictures as well.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyperinverter.judges.faces import EXPRESSIONS, FaceExpression, FaceLandmarks68, resize
from hyperinverter.networks.frozen import evaluating

SIDE = 64  # pixels of the framing below

# Places that exchange their landmarks when a face is mirrored: jaw, brows, nose, eyes, mouth.
_MIRROR = [
    *reversed(range(17)),
    *reversed(range(17, 27)),
    *range(27, 31),
    *reversed(range(31, 36)),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
]


class FaceReadings(nn.Module):
    """Readings of pictures in the framing of the ``digiface`` domain.

    Landmarks are averaged with those of the mirror image: one pass jitters by several per cent of a small face.
    """

    def __init__(self) -> None:
        super().__init__()
        self.expression, self.landmarks = FaceExpression(), FaceLandmarks68()

    @torch.no_grad()
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Read pictures ``(B, 3, R, R)``, RGB in [-1, 1].

        Returns:
            Name -> one number per picture, ``(B,)``: logits of expressions, ratios of distances in the face,
            luminances in [0, 1] and their differences.
        """
        with evaluating(self):
            logits = (self.expression(image) + self.expression(image.flip(-1))) / 2
            points = self._points(image)
        found = {name: logits[:, EXPRESSIONS.index(label)] for name, label in _EXPRESSIONS.items()}
        return found | _shape(points) | _light(resize((image.clamp(-1, 1) + 1) / 2, SIDE))

    def _points(self, image: Tensor) -> Tensor:
        """``(B, 68, 2)`` as fractions of the picture."""
        mirrored = self.landmarks(image.flip(-1))[:, _MIRROR]
        mirrored = torch.stack([1 - mirrored[..., 0], mirrored[..., 1]], dim=-1)
        return (self.landmarks(image) + mirrored) / 2


_EXPRESSIONS = {"smile": "happy", "surprise": "surprised"}


def _shape(points: Tensor) -> dict[str, Tensor]:
    """Ratios of distances between landmarks ``(B, 68, 2)``."""

    def mean(*indices: int) -> Tensor:
        return points[:, list(indices)].mean(1)  # (B, 2)

    left, right = mean(*range(36, 42)), mean(*range(42, 48))
    middle, scale = (left + right) / 2, (right - left).norm(dim=1)
    nose, mouth = points[:, 30], mean(*range(48, 68))
    lids = mean(40, 41, 46, 47)[:, 1] - mean(37, 38, 43, 44)[:, 1]
    down = (mouth - middle)[:, 1]
    return {
        "yaw": (nose - middle)[:, 0] / scale,
        "pitch": (nose - middle)[:, 1] / down,
        "roll": (right - left)[:, 1] / scale,
        "mouth_open": (mean(65, 66, 67)[:, 1] - mean(61, 62, 63)[:, 1]) / scale,
        "mouth_width": (points[:, 54] - points[:, 48]).norm(dim=1) / scale,
        "brows": (middle - mean(*range(17, 27)))[:, 1] / scale,
        "eyes_open": lids / scale,
        "face_length": (points[:, 8] - middle)[:, 1] / scale,
    }


def _light(pixels: Tensor) -> dict[str, Tensor]:
    """Light and colour of ``(B, 3, 64, 64)`` in [0, 1]; boxes are rows and columns, the ends excluded."""
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)  # (B, 64, 64)

    def part(rows: tuple[int, int], *columns: tuple[int, int], of: Tensor = grey) -> Tensor:
        return torch.stack([of[..., rows[0] : rows[1], a:b].mean((-1, -2)) for a, b in columns]).mean(0)

    cheeks: Callable[[Tensor], Tensor] = lambda of: part((36, 46), (17, 24), (40, 47), of=of)  # noqa: E731
    skin = cheeks(grey)
    left, right = part((26, 56), (14, 32)), part((26, 56), (32, 50))
    above, below = part((22, 36), (18, 46)), part((42, 56), (18, 46))
    dark = 0.02  # keeps the logarithms of black hair finite
    return {
        "skin_light": skin,
        "light_side": (left - right) / (left + right + dark),
        "light_above": (above - below) / (above + below + dark),
        "background": part((0, 16), (0, 8), (56, 64)),
        "warmth": cheeks(pixels[:, 0]) - cheeks(pixels[:, 2]),
        "forehead": ((part((12, 20), (24, 40)) + dark) / (skin + dark)).log(),
        "sides": ((part((42, 58), (5, 12), (52, 59)) + dark) / (skin + dark)).log(),
    }
