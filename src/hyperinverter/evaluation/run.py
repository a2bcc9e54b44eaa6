"""From models and photos to the folder with all tables, for the command and for the end of a training run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hyperinverter.contracts import UserError
from hyperinverter.evaluation import report
from hyperinverter.evaluation.editability import Editing, Edits
from hyperinverter.evaluation.measure import Measuring, identity_of
from hyperinverter.evaluation.plane import keep_edits, read_edits, write_edits
from hyperinverter.evaluation.report import Results
from hyperinverter.evaluation.timing import ROUNDS
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.system.files import sha256_of, writing
from hyperinverter.system.progress import counted


def evaluate(
    measuring: Measuring, out: Path, *, timed: bool, together: Callable[[int], None] | None = None
) -> Results:
    """Measure what is not measured yet, time what is not timed yet, and write the tables.

    Args:
        measuring: Models, photos and protocol.
        out: The folder; scores of another protocol or of other photos in it are refused.
        timed: Whether models are timed alone as well.
        together: Measures in several processes; called with the number of photos that are left.

    Raises:
        UserError: If the folder holds other scores or cannot be written.
    """
    report.refuse_mixing(out, measuring.protocol, measuring.photos)
    report.write_record(out, measuring)
    if together is not None and (total := measuring.left()):
        together(total)
    with counted(
        "evaluating", measuring.left()
    ) as advance:  # all, or what a process that was stopped has left
        measuring.run(advance=advance)
    if timed and not measuring.timed():
        with counted("timing", ROUNDS) as advance:
            measuring.time(advance)
    return report.write_report(out, measuring.protocol)


def measure_edits(
    measuring: Measuring, out: Path, count: int, odd: tuple[str, Drawing] | None = None
) -> None:
    """Measure how the models edit, on the first photos; what is done is kept, model by model.

    Args:
        measuring: Models, photos and protocol.
        out: The folder.
        count: Photos.
        odd: A name for tables, and the model whose residuals make odd details, see ``Editing``.

    Raises:
        UserError: If there are too few photos, or the protocol has no perceptual distance.
    """
    names = measuring.photos.names[:count]
    perceptual = [judge for judge in measuring.scorer.judges.values() if not judge.higher_is_closer]
    same = [judge for judge in measuring.scorer.judges.values() if judge.higher_is_closer]
    if not perceptual:
        raise UserError(
            f"edits need a perceptual distance, and the protocol {measuring.protocol.name} has none left: measure "
            "it, or leave --edits out"
        )
    done: dict[str, Edits] = {}
    label_of_odd, maker = odd or (None, None)
    kind = "" if maker is None else f"-{_digest(identity_of(maker))}"
    files = {
        label: work.folder / f"editing-{len(names)}{kind}.json" for label, work in measuring.works.items()
    }
    waiting = [label for label in measuring.models if not files[label].is_file()]
    if waiting:
        first = next(iter(measuring.models.values()))
        photos = measuring.photos_of(names)
        editing = Editing(photos, first.generator, perceptual[0], same[0] if same else None, maker)
        with counted("editing", len(waiting) * editing.steps()) as advance:
            for label in waiting:
                found = editing.measure(measuring.models[label], advance)
                with writing(out, "choose another folder with --out"):
                    keep_edits(files[label], found)
    for label in measuring.models:
        found_before = read_edits(files[label])
        assert found_before is not None
        done[label] = found_before
    seconds = {
        label: float(values.mean()) for label in done if len(values := measuring.seconds_of(label, names))
    }
    with writing(out, "choose another folder with --out"):
        write_edits(out, done, seconds, names, label_of_odd)


def _digest(identity: dict[str, str]) -> str:
    return sha256_of(json.dumps(identity, sort_keys=True))[:8]
