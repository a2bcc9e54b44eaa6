"""What an edit leaves of residuals, tried on validation photos: python -m hyperinverter_recipes.edit_strengths MODEL

``method.edit_strength`` and ``method.edit_gain`` touch no weight, so they are set after training. The first trades how
far edits go against what they keep of the photo, the second makes up for residuals that hold a picture back
(``--gains``).
The choice does not see the test photos. One row per value, for the built-in domain.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from hyperinverter.contracts import UserError
from hyperinverter.evaluation.editability import Editing, Edits, equal_changes, relative
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.system.files import write_text
from hyperinverter.system.progress import counted
from hyperinverter_recipes.running import said

STRENGTHS = (1.0, 0.5, 0.3, 0.2, 0.15, 0.1, 0.0)
PHASE1 = "phase I"
ASKED = ("effect", "flip", "back")  # what the table shows
GAINS_ASKED = (*ASKED, "truth")
TRUTH = {f"true edit, {name}": f"truth_l2_{name}_plain" for name in ("yaw", "smile")}
KINDS = {
    "mirror image, L2": "flip_l2",
    "mirror image, identity": "flip_id_descriptor",
    "there and back, L2": "back_l2",
}


def edit_strengths(
    model: Drawing,
    editing: Editing,
    values: Sequence[float] = STRENGTHS,
    name: Literal["edit_strength", "edit_gain"] = "edit_strength",
) -> dict[str, Edits]:
    """Measure phase I, then the model at every strength.

    Args:
        model: Of phase II; its own setting is put back.
        editing: On validation photos.
        values: What a large edit leaves of residuals where it changes the picture; or how far edits go.
        name: Which of both.

    Raises:
        UserError: If the model finds no residuals that could be let go of.
    """
    phase1 = getattr(model, "w_inverter", None)
    if not isinstance(phase1, Drawing):
        raise UserError("edit strengths are a matter of models with residuals: name a model of phase II")
    own, asked = getattr(model, name), ASKED if name == "edit_strength" else GAINS_ASKED
    found: dict[str, Edits] = {}
    with counted("editing", (len(values) + 1) * editing.steps()) as advance:
        found |= editing.measure_together({PHASE1: phase1}, advance, asked)
        try:
            for value in values:
                setattr(model, name, value)
                found |= editing.measure_together({f"{value:g}": model}, advance, asked)
        finally:
            setattr(model, name, own)
    return found


def markdown(found: dict[str, Edits], name: str = "edit_strength") -> str:
    """One row per value: effects as parts of phase I's, identity where a face was moved to the end, and the rest.

    Of gains identity at the same change, and the error against the true edit, too.
    """
    effects = relative(found, PHASE1)
    names, gains = list(effects[PHASE1]), name == "edit_gain"
    kinds, changes = KINDS | (TRUTH if gains else {}), equal_changes(found)
    head = [
        name,
        *(f"{n} effect" for n in names),
        *(f"identity at the ends, {n}" for n in names),
        *(f"at the same change, {n}" for n in names if gains),
        *kinds,
    ]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for label, edits in found.items():
        kept = [(edits.ways[n].identity[0] + edits.ways[n].identity[-1]) / 2 for n in names]
        kept += [edits.ways[n].identity_at(changes[n]) for n in names if gains]
        rest = [sum(edits.numbers[k]) / len(edits.numbers[k]) for k in kinds.values()]
        cells = [
            *(f"{effects[label][n]:.3f}" for n in names),
            *(f"{x:.3f}" for x in kept),
            *(f"{x:.4f}" for x in rest),
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def validation_faces(count: int) -> Tensor:
    """The first validation photos of the built-in domain, ``(N, 3, 64, 64)`` in [-1, 1]."""
    from hyperinverter.data.digiface import sample_faces, split_indices
    from hyperinverter.data.transforms import to_tensor

    return to_tensor(sample_faces(split_indices(0, count, 0)["val"]))


def main() -> None:
    from hyperinverter.inverters import load_inverter
    from hyperinverter.judges.catalogue import build_judge

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a run folder, a model file, or digiface_best")
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS))
    parser.add_argument("--gains", type=float, nargs="+", help="tried instead of strengths")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model = load_inverter(given.model)
    judges = [build_judge(label, None, Path()) for label in ("st_lpips_alex", "id_descriptor")]
    editing = Editing(validation_faces(given.photos), model.generator, judges[0], judges[1])
    name: Literal["edit_strength", "edit_gain"] = "edit_gain" if given.gains else "edit_strength"
    table = markdown(edit_strengths(model, editing, given.gains or given.strengths, name), name)
    print(table, end="")
    if given.out:
        write_text(given.out, table)


if __name__ == "__main__":
    said(main)
