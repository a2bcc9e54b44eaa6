"""Recipes that an evaluation compared on several seeds, a row each: python -m hyperinverter_recipes.over_seeds FOLDER

FOLDER is what ``hyperinverter evaluate ... --edits N --out FOLDER`` wrote. Models that are called NAME-SEED are seeds
of one recipe.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hyperinverter.evaluation.statistics import two_level
from hyperinverter_recipes.running import said

Numbers = Mapping[str, np.ndarray]  # name -> one number per photo, (N,)
Recipes = Mapping[str, Sequence[Numbers]]  # name -> its seeds
Column = Callable[[Numbers, Recipes], np.ndarray]


def _mean(model: Numbers, names: Sequence[str]) -> np.ndarray:
    return np.mean([model[name] for name in names], axis=0)


def _mean_of(*names: str) -> Column:
    return lambda model, recipes: _mean(model, names)


def _part_of(base: str, *names: str) -> Column:
    """As a part of another recipe's mean; paired, so that photos that are hard for both widen no interval."""

    def column(model: Numbers, recipes: Recipes) -> np.ndarray:
        other = np.mean([_mean(seed, names) for seed in recipes[base]], axis=0)
        return 1 + (_mean(model, names) - other) / other.mean()

    return column


_ODD = ("truth_l2_yaw_odd", "truth_l2_smile_odd")
COLUMNS: dict[str, Column] = {
    "L2": _mean_of("l2"),
    "L2, of paper's": _part_of("paper", "l2"),
    "st_lpips_alex": _mean_of("st_lpips_alex"),
    "st_lpips_alex, of paper's": _part_of("paper", "st_lpips_alex"),
    "id_descriptor": _mean_of("id_descriptor"),
    "yaw effect, of phase I's": _part_of("phase1", "effect_yaw"),
    "smile effect, of phase I's": _part_of("phase1", "effect_smile"),
    "true edit": _mean_of("truth_l2_yaw_plain", "truth_l2_smile_plain"),
    "odd": _mean_of(*_ODD),
    "odd, of paper's": _part_of("paper", *_ODD),
    "mirror image": _mean_of("flip_l2"),
    "there and back": _mean_of("back_l2"),
}


def read(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Model -> name of a number -> ``(N,)``, one per photo, from both tables."""
    found: dict[str, dict[str, list[float]]] = {}
    for table in ("per_photo.csv", "edits_per_photo.csv"):
        with (folder / table).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name not in ("photo", "model"):
                        found.setdefault(row["model"], {}).setdefault(name, []).append(float(value or "nan"))
    return {model: {name: np.array(v) for name, v in numbers.items()} for model, numbers in found.items()}


def markdown(models: Mapping[str, Numbers]) -> str:
    """Mean over seeds and photos ± half of the 95 % interval, both resampled; needs ``phase1`` and ``paper``."""
    recipes: dict[str, list[Numbers]] = {}
    for model, numbers in models.items():
        recipes.setdefault(re.sub(r"-\d+$", "", model), []).append(numbers)
    lines = [f"| | {' | '.join(COLUMNS)} |", "|" + " --- |" * (len(COLUMNS) + 1)]
    for recipe, seeds in recipes.items():
        cells = []
        for column in COLUMNS.values():
            mean, low, high = two_level([column(numbers, recipes) for numbers in seeds])
            cells.append(f"{mean:.4f} ± {(high - low) / 2:.4f}")
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    print(markdown(read(parser.parse_args().folder)), end="")


if __name__ == "__main__":
    said(main)
