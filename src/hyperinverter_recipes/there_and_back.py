"""Where the error of an edit and its reverse comes from: python -m hyperinverter_recipes.there_and_back --out FILE

``hyperinverter evaluate`` edits a photo, inverts the edited picture, and edits that back. Each step loses something,
and this tells them apart on validation photos of the built-in domain. Columns, mean squared errors against the photo:

- the inversion alone;
- there and back with one inversion, as people edit: codes move back exactly, so this is the inversion again;
- the edited picture inverted at the code that it was drawn with, as if phase I knew it;
- the edited picture inverted as it comes, as ``evaluate`` does;
- how far phase I's code of the edited picture is from the code that it was drawn with: the length of the difference, in
  lengths of the edit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperinverter.contracts import Inversion
from hyperinverter.editing.directions import Direction
from hyperinverter.evaluation.editability import Editing
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inversion.phase2 import PhaseII
from hyperinverter.system.files import write_text
from hyperinverter.system.progress import counted
from hyperinverter.system.terminal import put
from hyperinverter_recipes.edit_strengths import validation_faces
from hyperinverter_recipes.running import said

DIRECTIONS = ("yaw", "smile")
COLUMNS = ("inversion", "one inversion", "at the known code", "inverted again", "code missed by")
_BATCH = 16


class KnownCode(nn.Module):
    """A phase I that knows the codes of the photos it is given.

    Args:
        w: ``(B, D)``.
        image: What the generator draws from them.
    """

    def __init__(self, w: Tensor, image: Tensor) -> None:
        super().__init__()
        self.found = Inversion(w, {}, image, image)

    def forward(self, photo: Tensor) -> Inversion:
        return self.found


@contextmanager
def knowing(model: PhaseII, w: Tensor) -> Iterator[None]:
    """Within, the model's phase I gives these codes, whatever the photos are."""
    own, generator = model.w_inverter, model.generator
    known = KnownCode(w, model.draw_unseen(w))
    known.generator = generator
    model.w_inverter = known  # type: ignore[assignment]
    try:
        yield
    finally:
        model.w_inverter = own


@torch.no_grad()
def errors(model: Drawing, photo: Tensor, end: Direction, power: float) -> Tensor:
    """The numbers of ``COLUMNS`` for photos ``(B, 3, R, R)`` and an edit of this power, ``(B, 5)``."""
    inversion = model.invert(photo)
    there = model.edit(inversion, end, power).clamp(-1, 1)
    step = model.edit_gain * power * end.shift.to(inversion.w)  # as far as it was drawn
    after = inversion.w + step
    if isinstance(model, PhaseII):
        with knowing(model, after):
            known = model.invert(there)
    else:
        known = Inversion(after, {}, there, there)
    again = model.invert(there)
    images = [
        inversion.image,
        model.render(after - step, inversion.residuals),
        model.edit(known, end, -power),
        model.edit(again, end, -power),
    ]
    missed = (again.w - after).square().sum(-1).sqrt() / step.square().sum(-1).sqrt()
    return torch.stack([*((i.clamp(-1, 1) - photo).square().mean((1, 2, 3)) for i in images), missed], 1)


def table(found: dict[tuple[str, str], Tensor]) -> str:
    """Markdown; ``found``: model and direction -> ``(N, 5)``."""
    lines = [f"| model | edit | {' | '.join(COLUMNS)} |", f"|{' --- |' * (len(COLUMNS) + 2)}"]
    for (label, name), rows in found.items():
        mean = rows.double().mean(0).tolist()
        lines.append(f"| {label} | {name} | {' | '.join(f'{x:.4f}' for x in mean[:-1])} | {mean[-1]:.2f} |")
    return "\n".join(lines) + "\n"


def there_and_back(models: dict[str, Drawing], photos: Tensor) -> dict[tuple[str, str], Tensor]:
    """Measure models of one generator on both ends of each direction, ``(2 N, 5)`` each."""
    generator = next(iter(models.values())).generator
    ends = [end for end in Editing(photos, generator, None, None).ends if end.name in DIRECTIONS]
    found = {}
    with counted("editing", len(models) * len(ends) * 2 * len(photos)) as advance:
        for label, model in models.items():
            for end in ends:
                rows = []
                for power in (1.0, -1.0):
                    for part in photos.split(_BATCH):
                        rows.append(errors(model, part, end, power))
                        advance(len(part))
                found[label, end.name] = torch.cat(rows)
    return found


def main() -> None:
    from hyperinverter.inverters import load_inverter

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--out", type=Path, help="a Markdown file")
    given = parser.parse_args()
    best, keeps = load_inverter("digiface_best"), load_inverter("digiface_best")
    keeps.edit_strength = 1.0
    models = {
        "phase I": load_inverter("phase1@digiface"),
        "paper's design": load_inverter("digiface"),
        "best": best,
        "best, keeping all in edits": keeps,
    }
    text = table(there_and_back(models, validation_faces(given.photos)))
    put(text)
    if given.out:
        write_text(given.out, text)


if __name__ == "__main__":
    said(main)
