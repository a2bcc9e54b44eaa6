"""The picture of the packaged models has a column for each and the photos in the first."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperinverter import load_hyperinverter
from hyperinverter.pictures import to_picture
from hyperinverter_recipes.side_by_side import side_by_side


def test_one_row_per_photo_and_one_column_per_picture() -> None:
    model = load_hyperinverter("digiface_best")
    photos: Tensor = torch.rand(2, 3, 64, 64) * 2 - 1
    drawn = side_by_side(photos, {"one": model, "other": model}, sides=(-1, 1), size=64)
    columns = 2 + 2 + 2 * 2 * 2  # photo, phase I; inversions; two edits, two ways, two models
    assert drawn.width == columns * 66 + 2
    top = drawn.height - 2 * 66
    assert drawn.crop((2, top, 66, top + 64)).tobytes() == to_picture(photos[0]).tobytes()
    same = [drawn.crop((2 + 66 * k, top, 66 + 66 * k, top + 64)).tobytes() for k in (2, 3)]
    assert same[0] == same[1]
