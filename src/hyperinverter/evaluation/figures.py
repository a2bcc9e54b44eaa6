"""Figures of an evaluation: the photos on which a model does worst and best, through every model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from hyperinverter import pictures
from hyperinverter.evaluation.tables import Measured, common
from hyperinverter.evaluation.work import Piece

RANKED_BY = "l2"
_SHOWN = 4  # worst, and as many best
_SIDE = 128


def worst_and_best(
    models: Mapping[str, Measured],
    pieces: Mapping[str, Piece],
    photos: Piece,
    path: Path,
    count: int = _SHOWN,
) -> list[str]:
    """Draw the photos on which the first model is worst, then those on which it is best, through every model.

    Args:
        models: Label -> numbers; the photos that all of them have are considered.
        pieces: Label -> images.
        photos: The photos themselves.
        path: The PNG.
        count: Photos of each kind; fewer if there are fewer.

    Returns:
        The photos that are shown, the worst first.
    """
    names = common(models)
    first = next(iter(models.values()))
    number = RANKED_BY if RANKED_BY in first.numbers else next(iter(first.numbers))
    order = np.argsort(-first.on(names)[number], kind="stable")
    count = min(count, (len(names) + 1) // 2)
    best = [names[i] for i in order[-count:]]
    chosen = list(dict.fromkeys([*(names[i] for i in order[:count]), *best]))
    shown = {
        "photo": photos.chosen(chosen).pictures,
        **{k: pieces[k].chosen(chosen).pictures for k in models},
    }
    rows = [[Image.fromarray(shown[label][i]) for label in shown] for i in range(len(chosen))]
    side = rows[0][0].width
    pictures.save_picture(pictures.sheet(list(shown), rows, max(side, _SIDE // side * side), gap=3), path)
    return chosen
