"""Sheets of pictures under titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hyperinverter.pictures import save_picture, sheet, to_picture


def test_a_sheet_has_every_picture_in_its_place_and_room_for_wrapped_titles() -> None:
    colours = [["red", "green"], ["blue", "black"]]
    rows = [[Image.new("RGB", (32, 32), colour) for colour in row] for row in colours]
    drawn = sheet(["photo", "fusion=gated coverage=all"], rows, 64, gap=2)
    assert drawn.width == 2 * 66 + 2
    top = drawn.height - (2 * 66 + 2)
    assert top == 4 * 11 + 4  # fusion=, gated, coverage=, all
    for row in range(2):
        for column in range(2):
            place = (2 + column * 66 + 63, top + 2 + row * 66 + 63)  # the corner a wrong size would miss
            assert drawn.getpixel(place) == Image.new("RGB", (1, 1), colours[row][column]).getpixel((0, 0))


def test_whole_multiples_keep_their_pixels() -> None:
    chess = Image.fromarray(np.array([[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]], np.uint8))
    pixels = np.asarray(sheet(["x"], [[chess]], 4, gap=0))[-4:]
    assert set(np.unique(pixels)) == {0, 255}


def test_tensors_are_clamped(tmp_path: Path) -> None:
    image = torch.tensor([-2.0, 0.0, 2.0]).reshape(3, 1, 1).expand(3, 2, 2)
    save_picture(to_picture(image), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.getpixel((1, 1)) == (0, 128, 255)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
