"""Small photos to read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def smooth_image(size: tuple[int, int] = (40, 40), seed: int = 0) -> Image.Image:
    """A random picture so smooth that JPEG and resizing change it little."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def make_image() -> Callable[..., Image.Image]:
    return smooth_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty photos of 40x40 pixels, in two subfolders."""
    root = tmp_path / "photos"
    for i in range(30):
        path = root / ("a" if i % 2 else "b") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_image(seed=i).save(path)
    return root
