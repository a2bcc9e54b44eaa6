"""The same photos through several models, inverted and edited: python -m hyperinverter_recipes.side_by_side --out FILE

Columns: the photo, the initial image, every model's inversion, then every model's edits of yaw and smile,
half of the way to the end of their safe range, or all of it with --part 1. ``--also TITLE=MODEL`` puts models that do
not ship between those that do. The pictures in outputs/published/digiface_best are made so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from hyperinverter.editing import catalogue
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.pictures import save_picture, sheet, to_picture
from hyperinverter_recipes.running import said

MODELS = {"the paper's": "digiface", "best": "digiface_best"}
EDITS = ("yaw", "smile")
PART = 0.5  # of the way to the end of the safe range


def side_by_side(
    photos: Tensor,
    models: Mapping[str, Drawing],
    sides: Sequence[int] = (1,),
    size: int = 128,
    part: float = PART,
) -> Image.Image:
    """Draw one row per photo.

    Args:
        photos: ``(N, 3, R, R)`` in [-1, 1].
        models: Title -> model, all of one generator.
        sides: Of the edits: 1, or -1 and 1.
        size: Pixels of each picture.
        part: Of the way to the end of the safe range.
    """
    known = catalogue.for_generator(next(iter(models.values())).generator)
    found = {title: model.invert(photos) for title, model in models.items()}
    columns: dict[str, Tensor] = {"photo": photos, "phase I": next(iter(found.values())).w_image}
    columns |= {title: inversion.image for title, inversion in found.items()}
    for name in EDITS:
        low, high = known[name].safe
        for side in sides:
            power = part * (low if side < 0 else high)
            for title, model in models.items():
                columns[f"{title} {name} {power:+g}"] = model.edit(found[title], known[name], power)
    rows = [[to_picture(images[i]) for images in columns.values()] for i in range(len(photos))]
    return sheet(list(columns), rows, size)


def on_test_photos(
    models: Mapping[str, str], count: int = 8, sides: Sequence[int] = (1,), part: float = PART
) -> Image.Image:
    """Models, title -> name, on the first test photos of the built-in domain."""
    from hyperinverter.data.digiface import accepted_indices, sample_faces
    from hyperinverter.data.transforms import to_tensor
    from hyperinverter.inverters import load_inverter

    photos = to_tensor(sample_faces(accepted_indices()[:count]))
    return side_by_side(photos, {title: load_inverter(n) for title, n in models.items()}, sides, part=part)


def packaged_models(count: int = 8) -> Image.Image:
    """The packaged models on the first test photos of the built-in domain."""
    return on_test_photos(MODELS, count)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a PNG")
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--both-ways", action="store_true", help="edits the other way, too")
    parser.add_argument("--part", type=float, default=PART, help="of the way to the end of the safe range")
    parser.add_argument("--also", action="append", default=[], metavar="TITLE=MODEL", help="several times")
    asked = parser.parse_args()
    if wrong := [item for item in asked.also if "=" not in item]:
        parser.error(f"--also {wrong[0]}: expected TITLE=MODEL")
    first, *rest = MODELS.items()
    models = dict([first, *(item.split("=", 1) for item in asked.also), *rest])
    sides = (-1, 1) if asked.both_ways else (1,)
    save_picture(on_test_photos(models, asked.photos, sides, asked.part), asked.out)


if __name__ == "__main__":
    said(main)
