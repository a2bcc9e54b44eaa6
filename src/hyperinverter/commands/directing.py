"""What ``hyperinverter directions`` does."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hyperinverter.commands.inputs import sources
from hyperinverter.commands.inverting import batches
from hyperinverter.contracts import UserError
from hyperinverter.data.transforms import read_photo
from hyperinverter.editing import catalogue
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.discovery import fit, from_two_groups, pca, sefa
from hyperinverter.editing.foreign import pickled_arrays, read_array, save_directions
from hyperinverter.editing.styles import StyleSpace
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inverters import load_inverter
from hyperinverter.system.files import as_path, writing
from hyperinverter.system.progress import progress
from hyperinverter.system.terminal import put


def show_all(given: Sequence[str], model: str) -> int:
    """A line per direction of a catalogue or file."""
    known = catalogue.for_generator(load_inverter(model).generator, given[:1])
    width = max(map(len, known))
    for name, direction in known.items():
        low, high = direction.safe
        put(f"{name:<{width}}  safe {low:+.1f} to {high:+.1f}  {direction.about or direction.unit}")
    return 0


def show_one(given: Sequence[str], model: str) -> int:
    """Everything known about one direction."""
    if not given:
        raise UserError("which direction? For example: hyperinverter directions show smile")
    generator = load_inverter(model).generator
    known = catalogue.for_generator(generator, given[:-1])
    name = given[-1]
    direction = catalogue.named(name, known, generator)
    lines = {
        "what": direction.about,
        "power 1": direction.unit
        + (f"; moves w by {direction.length:.3g}" if direction.shift.numel() else ""),
        "safe": "{:g} to {:g}".format(*direction.safe),
        "moves": _what_moves(direction),
        **{key.replace("_", " "): value for key, value in direction.facts.items()},
    }
    put(name)
    for key, value in lines.items():
        if value != "":
            put(f"  {key}: {value}")
    return 0


def _what_moves(direction: Direction) -> str:
    parts = []
    if direction.shift.numel():
        layers = f"its own way in each of {len(direction.shift)} layers"
        parts.append("all style layers" if direction.shift.ndim == 1 else layers)
    counts = {layer: int(shift.count_nonzero()) for layer, shift in direction.styles.items()}
    if counts:
        where = ", ".join(f"{layer} {count}" for layer, count in counts.items())
        parts.append(f"{sum(counts.values())} channels of styles: {where}")
    return "; ".join(parts)


def fit_to_text(given: Sequence[str], model: str, name: str, threshold: float, out: Path | None) -> int:
    """StyleCLIP's global direction for a text, from its file of effects and the text's CLIP features."""
    if not 2 <= len(given) <= 3:
        raise UserError(
            "fit needs StyleCLIP's fs3.npy and a text.npy, target - neutral, and may be given its S_mean_std"
        )
    inverter = load_inverter(model)
    space = StyleSpace(inverter.generator)
    effects, text, *rest = (Path(place).expanduser() for place in given)
    deviations = space.by_layer(pickled_arrays(rest[0])) if rest else None
    found = space.from_text(name, read_array(effects), read_array(text), threshold, deviations)
    put(f"{name}: {_what_moves(found)}")
    _save({name: found}, inverter, out or Path(f"{name}.safetensors"))
    return 0


def fit_to(
    given: Sequence[str], model: str, name: str, *, keep: Sequence[str], shrinkage: float, out: Path | None
) -> int:
    """Fit a direction to a CSV of labels, or to two folders: without, and with what is meant."""
    inverter = load_inverter(model)
    known = catalogue.for_generator(inverter.generator) if keep else {}
    missing = [wanted for wanted in keep if wanted not in known]
    if missing:
        raise UserError(
            f"--keep names {missing[0][:40]!r}, which is no direction; there are: {', '.join(known)}"
        )
    still = {wanted: known[wanted] for wanted in keep}
    if len(given) == 2 and all(as_path(place).is_dir() for place in given):
        without, with_it = (_codes(inverter, [s.path for s in sources([place])[0]]) for place in given)
        found = from_two_groups(name, without, with_it, shrinkage=shrinkage, keep=still)
    elif len(given) == 1:
        photos, labels = _labels(as_path(given[0]))
        found = fit(name, _codes(inverter, photos), labels, shrinkage=shrinkage, keep=still)
    else:
        raise UserError(
            "fit needs a CSV with the columns photo,label, or two folders: photos without it, photos with it; or "
            "StyleCLIP's fs3.npy and a text.npy"
        )
    put(
        f"{name}: {found.kind} {found.score:.2f} on photos left out of the fit; power 1 moves w by "
        f"{found.direction.length:.2f}"
    )
    if found.weak:
        put(f"{name} is weak: it explains little of these labels, and edits with it may show something else")
    _save({name: found.direction}, inverter, out or Path(f"{name}.safetensors"))
    return 0


def discover(model: str, method: str, space: str, layers: str, count: int, out: Path | None) -> int:
    """Directions of a generator that need no labels."""
    if method not in ("pca", "sefa"):
        raise UserError(f"--method={method[:20]} is neither pca nor sefa")
    if space not in ("w", "s") or (space == "s" and method == "sefa"):
        raise UserError(f"--space={space[:20]} is not possible: w, or s with --method pca")
    wanted = _range(layers) if layers else None
    inverter = load_inverter(model)
    generator = inverter.generator
    if space == "s":
        found = StyleSpace(generator).pca(count, wanted)
    elif method == "sefa":
        found = sefa(generator, count, wanted)
    else:
        found = pca(generator.sample_codes(), count)
        if wanted is not None:
            first, last = wanted
            found = {name: d.in_layers(first, last + 1, generator.num_ws) for name, d in found.items()}
    _save(found, inverter, out or Path(f"{method if space == 'w' else 'pca_s'}.safetensors"))
    return 0


def _range(typed: str) -> tuple[int, int]:
    """``3-7`` or ``3``: the first and the last style layer."""
    first, _, last = typed.partition("-")
    if not (first.isascii() and first.isdigit() and (last or first).isascii() and (last or first).isdigit()):
        raise UserError(f"--layers={typed[:40]} is not FIRST-LAST, such as 3-7")
    return int(first), int(last or first)


def _save(found: dict[str, Direction], inverter: Drawing, path: Path) -> None:
    if path.suffix != ".safetensors":
        raise UserError(f"directions are written as .safetensors, got --out {path.name[:60]}")
    with writing(path, "give another file with --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_directions(found, path, {"generator_sha256": inverter.generator.sha256})
    put(f"{path}: {', '.join(list(found)[:12])}{', ...' if len(found) > 12 else ''}")


@torch.no_grad()
def _codes(inverter: Drawing, photos: Sequence[Path]) -> Tensor:
    """w of photos, ``(N, D)``."""
    found = []
    with progress() as bar:
        task = bar.add_task("photos", total=len(photos))
        for batch in batches(photos, 8):
            images = torch.cat([read_photo(path, inverter.resolution) for path in batch])
            found.append(inverter.invert(images).w)
            bar.advance(task, len(batch))
    codes = torch.cat(found)
    return codes if codes.ndim == 2 else codes.mean(1)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _is_text(file: Path) -> bool:
    try:
        return "\0" not in file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return False


def _labels(file: Path) -> tuple[list[Path], Tensor]:
    """Photos and their labels; paths are relative to the file."""
    if file.is_dir():
        raise UserError(f"{file} is one folder: give two, photos without what is meant, and photos with it")
    if not file.is_file():
        raise UserError(f"there is no file {file}: give a CSV with the columns photo,label, or two folders")
    photos: list[Path] = []
    labels: list[float] = []
    if not _is_text(file):
        raise UserError(
            f"{file} is no table: give a CSV in UTF-8 with the columns photo,label, or two folders"
        )
    with file.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines)
        if not {"photo", "label"} <= set(table.fieldnames or ()):
            raise UserError(
                f"{file} needs the columns photo and label, it has: {', '.join(table.fieldnames or ())[:200]}"
            )
        for number, row in enumerate(table, 2):
            try:
                labels.append(_finite(row["label"]))
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{file}, line {number}: the label {str(row['label'])[:40]!r} is no number"
                ) from error
            photos.append(file.parent / row["photo"])
    return photos, torch.tensor(labels)
