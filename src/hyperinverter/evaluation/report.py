"""The folder of an evaluation: tables, figures, and what the scores were made with.

A folder holds one protocol and one set of photos. Models may be added to it, on all photos or on the first ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperinverter.contracts import UserError
from hyperinverter.evaluation import figures, tables
from hyperinverter.evaluation.measure import PHOTO, SECONDS, Measuring, Photos, identity_of
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.evaluation.scoring import Scorer
from hyperinverter.evaluation.tables import Measured
from hyperinverter.evaluation.work import Piece, Work
from hyperinverter.system.files import parse_json, write_json, write_text, writing
from hyperinverter.system.machine import code_state, versions

RECORD, PHOTOS = "protocol.json", "photos.csv"
WORK, IMAGES = "work", "images"
_WAY_OUT = "choose another folder with --out"


def stored_photos(out: Path) -> dict[str, tuple[str, str]]:
    """Short name -> file and SHA-256 of the photos of an evaluation that was made before; empty if there was none."""
    path = out / PHOTOS
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("photo")]
    return {row["photo"]: (row.get("file") or "", row.get("sha256") or "") for row in rows}


def refuse_mixing(out: Path, protocol: Protocol, photos: Photos) -> None:
    """Stop before scores of two protocols or of two sets of photos meet in one folder.

    Raises:
        UserError: If they would.
    """
    record = read_record(out)
    if record:
        protocol.refuse_other(record.get("protocol", {}), out)
    before = stored_photos(out)
    for name, (_, digest) in before.items():
        if name in photos.digests and photos.digests[name] != digest:
            raise UserError(f"{out} holds scores of another photo {name}; choose another folder with --out")
    fewer = min(len(before), len(photos.names))
    if before and list(before)[:fewer] != photos.names[:fewer]:
        raise UserError(
            f"{out} holds scores of other photos ({len(before)} of {record.get('photos', {}).get('source')}), which "
            "cannot stand in one table with these; choose another folder with --out"
        )


def read_record(out: Path) -> dict[str, Any]:
    """What the scores of a folder were made with; empty if there is none.

    Raises:
        UserError: If the record is damaged.
    """
    path = out / RECORD
    if not path.is_file():
        return {}
    try:
        record = parse_json(path.read_bytes())
        if not isinstance(record, dict) or not isinstance(record.get("protocol"), dict):
            raise ValueError("it names no protocol")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be used ({error}); {_WAY_OUT}") from error
    return record


def write_record(out: Path, measuring: Measuring) -> dict[str, Any]:
    """Note what scores of this folder are made with, before there are any; models of before are kept."""
    photos, before = measuring.photos, read_record(out)
    old = stored_photos(out)
    listed = old if len(old) > len(photos.names) else _listed(photos)
    models = dict(before.get("models", {}))
    for label, model in measuring.models.items():
        work = measuring.works[label].folder.name
        known = models.get(label, {})
        count = max(len(photos.names), known.get("n", 0) if known.get("work") == work else 0)
        models[label] = {**identity_of(model), "n": count, "work": work}
    record = {
        "protocol": measuring.protocol.plain(),
        "photos": {"source": photos.source, "n": len(listed)},
        "resolution": next(iter(measuring.models.values())).resolution,
        "models": models,
        "photo_work": measuring.works[PHOTO].folder.name,
        "versions": versions(),
        "code": code_state(),
    }
    with writing(out, _WAY_OUT):
        text = io.StringIO()
        rows = [["photo", "file", "sha256"], *([name, *both] for name, both in listed.items())]
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text(out / PHOTOS, text.getvalue())
        write_json(out / RECORD, record)
    return record


def _listed(photos: Photos) -> dict[str, tuple[str, str]]:
    return {name: (file, photos.digests[name]) for name, file in photos.files.items()}


def write_report(out: Path, scorer: Scorer) -> dict[str, Measured]:
    """Write all tables and figures from the pieces of a folder; only models that are complete are in them."""
    record = read_record(out)
    names = list(stored_photos(out))
    photos = Work.at(out / WORK / record["photo_work"])
    models: dict[str, Measured] = {}
    pieces: dict[str, Piece] = {}
    for label, about in record["models"].items():
        work, wanted = Work.at(out / WORK / about["work"]), names[: about["n"]]
        if not set(wanted) <= work.done():
            continue
        pieces[label] = work.read(wanted)
        models[label] = measured(pieces[label], photos.read(wanted), scorer)
    if not models:
        raise UserError(f"nothing is complete in {out} yet; run the same command again")
    with writing(out, _WAY_OUT):
        _write_tables(out, record, models, scorer)
        figures.worst_and_best(models, pieces, photos.read(names), out / "worst_best.png")
    return models


def measured(piece: Piece, photos: Piece, scorer: Scorer) -> Measured:
    """A model's numbers, with distances of sets where there are enough photos."""
    left_out = scorer.protocol.check_count(len(piece.names))
    sets = scorer.distances(piece.features, photos.features, left_out)
    order = [*scorer.protocol.photo, SECONDS]
    return Measured(piece.names, {name: piece.numbers[name] for name in order}, sets)


def _write_tables(
    out: Path, record: Mapping[str, Any], models: Mapping[str, Measured], scorer: Scorer
) -> None:
    found = tables.pairs(models)
    write_text(out / "per_photo.csv", tables.per_photo(models))
    write_text(out / "table.csv", tables.summary(models))
    write_text(out / "table.tex", tables.latex_table(models))
    write_text(out / "pairs.csv", tables.pairs_csv(found))
    write_text(out / "table.md", _markdown(record, models, found, scorer))


def _markdown(record: Mapping[str, Any], models: Mapping[str, Measured], found: Any, scorer: Scorer) -> str:
    protocol = scorer.protocol
    parts = [
        f"# {record['photos']['source']}, protocol {protocol.name} {protocol.version}",
        f"Images of {record['resolution']} px, rounded to 8 bits. Mean of the photos ± half of the 95 % interval "
        f"(bootstrap over photos, {tables.statistics.RESAMPLES:,} resamples). `{SECONDS}`: per photo, in the batches "
        "of this evaluation.",
        tables.markdown_table(models),
    ]
    few = {name for model in models.values() for name in protocol.check_count(len(model.names))}
    if few:
        least = max(int(protocol.sets[name]["least"]) for name in few)
        parts.append(f"{', '.join(sorted(few))}: left out below {least} photos, where it is mostly bias.")
    if found:
        parts += [
            "## What may be concluded",
            "Paired on the same photos; sign-flip permutation test, Holm over all pairs. This is about these trained "
            "networks on these photos, not about other trainings of the same recipe.",
            "\n".join(f"- {sentence}" for sentence in tables.sentences(found)),
        ]
    return "\n\n".join(part.strip() for part in parts) + "\n"
