"""Find, measure and draw the directions of the built-in domain.

python -m hyperinverter_recipes.digiface_directions --out outputs/published/digiface_directions

Each direction is fitted on the codes of training photos, calibrated so that power 1 changes its own reading by one
standard deviation over photos, and measured on test photos with the residuals of phase II. Which of them are shipped is
decided by the numbers and by eye; `SHIPPED` is the result.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from hyperinverter import pictures
from hyperinverter.checkpoints import load_hyperinverter
from hyperinverter.contracts import Inversion
from hyperinverter.data.digiface import sample_faces
from hyperinverter.data.transforms import to_tensor
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.discovery import fit
from hyperinverter.editing.foreign import save_directions
from hyperinverter.editing.readings import FaceReadings
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.judges.identity import DescriptorIdentity
from hyperinverter_recipes.running import said

SHAPE, COLOUR = 0.3, 3.0  # lambda of the fit, see facts in the table


@dataclass(frozen=True)
class Wanted:
    """A direction to try: whose reading it should change, and how much the covariance is regularised."""

    reading: str
    shrinkage: float
    about: str
    by_eye: tuple[float, float] | None = (
        -4.0,
        4.0,
    )  # powers beyond which pictures looked wrong; None: never right


CANDIDATES = {
    "smile": Wanted("smile", SHAPE, "smiles; below 0 sullen"),
    "mouth_open": Wanted("mouth_open", SHAPE, "opens the mouth"),
    "yaw": Wanted("yaw", COLOUR, "turns the head to the right of the picture"),
    "pitch": Wanted("pitch", SHAPE, "lowers the head"),
    "brows": Wanted("brows", SHAPE, "raises the brows"),
    "eyes_open": Wanted("eyes_open", SHAPE, "opens the eyes", None),
    "forehead": Wanted("forehead", SHAPE, "bares the forehead; below 0 a fringe", (-3.0, 2.0)),
    "sides": Wanted("sides", COLOUR, "light sides of the face; below 0 long dark hair", (-3.0, 1.5)),
    "skin_light": Wanted("skin_light", COLOUR, "lighter skin and stronger light", (-1.2, 2.0)),
    "warmth": Wanted("warmth", SHAPE, "warmer colours", (-2.0, 2.0)),
    "light_side": Wanted("light_side", COLOUR, "light from the left of the picture", (-3.5, 3.5)),
    "light_above": Wanted("light_above", SHAPE, "light from above", (-2.5, 2.5)),
    "background": Wanted("background", COLOUR, "lighter background", (-2.5, 2.5)),
}
MOVES = (
    -4.5,
    -3.75,
    -3.0,
    -2.25,
    -1.5,
    -0.75,
    0.75,
    1.5,
    2.25,
    3.0,
    3.75,
    4.5,
)  # lengths in w that are measured


def faces(first: int, count: int) -> Tensor:
    """Photos ``(count, 3, 64, 64)`` of the built-in domain; the packaged list names those with one clear face."""
    from hyperinverter.data.digiface import accepted_indices

    return to_tensor(sample_faces(accepted_indices()[first : first + count]))


@torch.no_grad()
def codes_and_readings(model: HyperInverter, photos: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """w ``(N, D)`` and every reading ``(N,)`` of photos."""
    read = FaceReadings()
    codes, found = [], []
    for chunk in tqdm(photos.split(50), desc="photos", unit="50 photos"):
        codes.append(model.w_inverter.invert(chunk).w)
        found.append(read(chunk))
    return torch.cat(codes), {name: torch.cat([part[name] for part in found]) for name in found[0]}


class Measure:
    """What an edit does to inversions, with the residuals kept."""

    def __init__(self, model: HyperInverter, photos: Tensor, spread: dict[str, Tensor]) -> None:
        self.read, self.identity, self.spread = FaceReadings(), DescriptorIdentity(), spread
        self.inversions = [model.invert(photo[None]) for photo in photos]
        self.draw = [model.prepare(inversion) for inversion in self.inversions]
        self.start = [self.read(inversion.image) for inversion in self.inversions]

    @torch.no_grad()
    def __call__(self, axis: Tensor, reading: str, moves: tuple[float, ...]) -> list[dict[str, float]]:
        """One row per move of this length along a unit vector ``(D,)``."""
        per_photo: list[list[dict[str, float]]] = [[] for _ in moves]
        for inversion, draw, start in zip(self.inversions, self.draw, self.start, strict=True):
            w = inversion.w + torch.tensor(moves)[:, None] * axis
            images = draw(w)
            now = self.read(images)
            same = self.identity(images, inversion.image.expand(len(moves), -1, -1, -1))
            for index in range(len(moves)):
                change = {n: float((now[n][index] - start[n][0]) / self.spread[n]) for n in now}
                others = [abs(value) for name, value in change.items() if name != reading]
                per_photo[index].append(
                    {
                        "own": change[reading],
                        "others": sum(others) / len(others),
                        "identity": float(same[index]),
                    }
                )
        rows = []
        for move, cells in zip(moves, per_photo, strict=True):
            row = {name: sum(cell[name] for cell in cells) / len(cells) for name in cells[0]}
            right_way = sum((cell["own"] > 0) == (move > 0) for cell in cells) / len(cells)
            rows.append({"move": move, **row, "right_way": right_way})
        return rows


def calibrated(
    name: str, wanted: Wanted, axis: Tensor, rows: list[dict[str, float]], held_out: float
) -> Direction:
    """Give an axis its unit, one standard deviation of its reading, and its safe range."""
    near = [row for row in rows if abs(row["move"]) <= 1.5]
    per_length = sum(row["own"] * row["move"] for row in near) / sum(row["move"] ** 2 for row in near)
    safe = [row["move"] for row in rows if row["identity"] >= 0.7]
    low, high = min([0.0, *safe]) * per_length, max([0.0, *safe]) * per_length
    facts = {
        "held_out_rank_correlation": round(held_out, 3),
        "length_of_power_1": round(1 / per_length, 3),
        "own_at_ends": [round(rows[0]["own"], 2), round(rows[-1]["own"], 2)],
        "identity_at_ends": [round(rows[0]["identity"], 2), round(rows[-1]["identity"], 2)],
        "others_at_ends": [round(rows[0]["others"], 2), round(rows[-1]["others"], 2)],
    }
    eye = wanted.by_eye or (0.0, 0.0)
    rounded = (round(max(low, eye[0]), 1), round(min(high, eye[1]), 1))
    return Direction(
        name, axis / per_length, rounded, f"one sd of {wanted.reading} over photos", wanted.about, facts
    )


def strip(model: HyperInverter, inversions: list[Inversion], direction: Direction, path: Path) -> None:
    """A sheet: photos in rows, powers in columns, the inversion in the middle."""
    low, high = direction.safe if direction.safe[1] > direction.safe[0] else (-1.0, 1.0)
    powers = [low, low * 2 / 3, low / 3, 0.0, high / 3, high * 2 / 3, high]
    rows = []
    for inversion in inversions:
        draw = model.prepare(inversion)
        with torch.no_grad():
            images = draw(inversion.w + torch.tensor(powers)[:, None] * direction.shift)
        rows.append([pictures.to_picture(image) for image in images])
    drawn = pictures.sheet([f"{direction.name} {power:+.1f}" for power in powers], rows, size=96)
    drawn.save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Find, measure and draw the directions of the built-in domain."
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=1200)
    parser.add_argument("--test", type=int, default=32, help="photos on which edits are measured")
    parser.add_argument("--names", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--install", type=Path, help="also write the file of directions here")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = load_hyperinverter("digiface")
    codes, readings = codes_and_readings(model, faces(1512, args.train))
    spread = {name: values.std() for name, values in readings.items()}
    measure = Measure(model, faces(0, args.test), spread)
    found, table = {}, ["name,move,own,others,identity,right_way"]
    random = torch.nn.functional.normalize(torch.randn(4, codes.shape[1]), dim=1)
    for name in args.names:
        wanted = CANDIDATES[name]
        fitted = fit(name, codes, readings[wanted.reading], shrinkage=wanted.shrinkage)
        axis = torch.nn.functional.normalize(fitted.direction.shift, dim=0)
        rows = measure(axis, wanted.reading, MOVES)
        found[name] = calibrated(name, wanted, axis, rows, fitted.score)
        by_chance = [measure(other, wanted.reading, (-3.0, 3.0)) for other in random]
        chance = sum(abs(row["own"]) for rows_of in by_chance for row in rows_of) / (2 * len(by_chance))
        found[name].facts["random_direction_at_ends"] = round(chance, 2)  # type: ignore[index]
        table += [f"{name},{','.join(f'{value:.3f}' for value in row.values())}" for row in rows]
        strip(model, measure.inversions[:3], found[name], args.out / f"{name}.jpg")
        print(name, json.dumps(dict(found[name].facts)), found[name].safe, flush=True)
    (args.out / "table.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    facts = {"generator_sha256": model.generator.sha256, "photos": args.train, "measured_on": args.test}
    target = args.out / "digiface_directions.safetensors"
    shipped = {name: direction for name, direction in found.items() if CANDIDATES[name].by_eye is not None}
    save_directions(shipped, target, facts)
    if args.install:
        shutil.copyfile(target, args.install)
    target.unlink()


if __name__ == "__main__":
    said(main)
