"""The crop equals that of the FFHQ script, inside a photo, over its edge, and where it shrinks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from hyperinverter.alignment.crop import _blurred, cut
from hyperinverter.alignment.geometry import Crop

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 28, 3), dtype=np.uint8)).resize(
    (560, 420), Image.Resampling.BICUBIC
)


def turned(centre: tuple[float, float], side: float, degrees: float) -> np.ndarray:
    """Corners of a square."""
    angle = np.deg2rad(degrees)
    x = side / 2 * np.array([np.cos(angle), np.sin(angle)])
    y = np.array([-x[1], x[0]])
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def by_the_script(photo: Image.Image, corners: np.ndarray, size: int) -> Image.Image:
    """``ffhq-dataset/download_ffhq.py``, with a transform of four times the size, as its 4096 is to 1024."""
    quad = corners - 0.5  # it counts pixels from their centres
    qsize = np.hypot(*(quad[3] - quad[0]))
    shrink = int(np.floor(qsize / size * 0.5))
    if shrink > 1:
        smaller = (int(np.rint(photo.size[0] / shrink)), int(np.rint(photo.size[1] / shrink)))
        # The script divides pixel indices by `shrink`: that moves the crop by up to half a pixel of the smaller
        # photo, and more where its size was rounded.
        quad, qsize = (quad + 0.5) * np.divide(smaller, photo.size) - 0.5, qsize / shrink
        photo = photo.resize(smaller, Image.Resampling.LANCZOS)
    border = max(int(np.rint(qsize * 0.1)), 3)
    low, high = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    box = (
        *(max(low[0] - border, 0), max(low[1] - border, 0)),
        *(min(high[0] + border, photo.size[0]), min(high[1] + border, photo.size[1])),
    )
    photo, quad = photo.crop(box), quad - box[:2]
    low, high = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    pad = [max(-low[0] + border, 0), max(-low[1] + border, 0)]
    pad += [max(high[0] - photo.size[0] + border, 0), max(high[1] - photo.size[1] + border, 0)]
    if max(pad) > border - 4:
        pad = np.maximum(pad, int(np.rint(qsize * 0.3)))
        img = np.pad(np.float32(photo), ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), "reflect")
        h, w, _ = img.shape
        y, x, _ = np.ogrid[:h, :w, :1]
        mask = np.maximum(
            1.0 - np.minimum(np.float32(x) / pad[0], np.float32(w - 1 - x) / pad[2]),
            1.0 - np.minimum(np.float32(y) / pad[1], np.float32(h - 1 - y) / pad[3]),
        )
        blur = qsize * 0.02
        img += (gaussian_filter(img, [blur, blur, 0]) - img) * np.clip(mask * 3.0 + 1.0, 0.0, 1.0)
        img += (np.median(img, axis=(0, 1)) - img) * np.clip(mask, 0.0, 1.0)
        photo, quad = Image.fromarray(np.uint8(np.clip(np.rint(img), 0, 255))), quad + pad[:2]
    flat = (quad + 0.5).flatten().tolist()
    large = photo.transform((4 * size, 4 * size), Image.Transform.QUAD, flat, Image.Resampling.BILINEAR)
    return large.resize((size, size), Image.Resampling.LANCZOS)


@pytest.mark.parametrize(
    ("corners", "size"),
    [
        (turned((280, 210), 200, 12), 64),
        (turned((281.3, 209.6), 90, -33), 128),
        (turned((270, 200), 300, 5), 32),  # 9 times as large: shrunk first
        (turned((500, 100), 240, 8), 64),  # over two edges
        (turned((280, 210), 600, -10), 96),  # over all, with a blur wide enough for the smaller copy
    ],
    ids=["inside", "enlarged", "shrunk", "over two edges", "over all edges"],
)
def test_the_crop_is_the_scripts(corners: np.ndarray, size: int) -> None:
    ours = np.asarray(cut(PHOTO, corners, size), dtype=float)
    theirs = np.asarray(by_the_script(PHOTO, corners, size), dtype=float)
    error = ((ours - theirs) ** 2).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 45


def test_a_wide_blur_on_a_smaller_copy_differs_by_less_than_a_level() -> None:
    values = np.asarray(PHOTO.convert("L"), dtype=np.float32)
    assert np.abs(_blurred(values, 12.0) - gaussian_filter(values, 12.0)).max() < 0.5


def test_matrix_and_corners_say_the_same() -> None:
    corners = turned((280, 210), 200, 12)
    crop = Crop.of(corners, 64)
    assert crop.corners == pytest.approx(corners)
    assert crop.to_crop(corners) == pytest.approx(np.array([[0, 0], [0, 64], [64, 64], [64, 0]]))
    assert crop.resized(256).corners == pytest.approx(corners)
    assert crop.side == pytest.approx(200)
    assert Crop.of(turned((0, 100), 100, 0), 64).share_outside(560, 420) == pytest.approx(0.5, abs=0.01)
