"""What an edit leaves of residuals, tried on validation photos: python -m hyperinverter_recipes.edit_strengths MODEL

``method.edit_strength`` touches no weight, so it is set after training. It trades how far edits go against what they
keep of the photo; the choice does not see the test photos. One row per strength, for the built-in domain.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hyperinverter.contracts import UserError
from hyperinverter.evaluation.editability import Editing, Edits, relative
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.system.files import write_text
from hyperinverter.system.progress import counted

STRENGTHS = (1.0, 0.5, 0.3, 0.2, 0.15, 0.1, 0.0)
PHASE1 = "phase I"
ASKED = ("effect", "flip", "back")  # what the table shows
KINDS = {
    "mirror image, L2": "flip_l2",
    "mirror image, identity": "flip_id_descriptor",
    "there and back, L2": "back_l2",
}


def edit_strengths(
    model: Drawing, editing: Editing, strengths: Sequence[float] = STRENGTHS
) -> dict[str, Edits]:
    """Measure phase I, then the model at every strength.

    Args:
        model: Of phase II; its own ``edit_strength`` is put back.
        editing: On validation photos.
        strengths: What a large edit leaves of residuals where it changes the picture.

    Raises:
        UserError: If the model finds no residuals that could be let go of.
    """
    phase1 = getattr(model, "w_inverter", None)
    if not isinstance(phase1, Drawing):
        raise UserError("edit strengths are a matter of models with residuals: name a model of phase II")
    own = model.edit_strength
    found: dict[str, Edits] = {}
    with counted("editing", (len(strengths) + 1) * editing.steps()) as advance:
        found |= editing.measure_together({PHASE1: phase1}, advance, ASKED)
        try:
            for strength in strengths:
                model.edit_strength = strength
                found |= editing.measure_together({f"{strength:g}": model}, advance, ASKED)
        finally:
            model.edit_strength = own
    return found


def markdown(found: dict[str, Edits]) -> str:
    """One row per strength: effects as parts of phase I's, identity where a face was moved to the end, and the rest."""
    effects = relative(found, PHASE1)
    names = list(effects[PHASE1])
    head = [
        "edit_strength",
        *(f"{n} effect" for n in names),
        *(f"identity at the ends, {n}" for n in names),
        *KINDS,
    ]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for label, edits in found.items():
        kept = [(edits.ways[n].identity[0] + edits.ways[n].identity[-1]) / 2 for n in names]
        rest = [sum(edits.numbers[k]) / len(edits.numbers[k]) for k in KINDS.values()]
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
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model = load_inverter(given.model)
    judges = [build_judge(label, None, Path()) for label in ("st_lpips_alex", "id_descriptor")]
    editing = Editing(validation_faces(given.photos), model.generator, judges[0], judges[1])
    table = markdown(edit_strengths(model, editing, given.strengths))
    print(table, end="")
    if given.out:
        write_text(given.out, table)


if __name__ == "__main__":
    main()
