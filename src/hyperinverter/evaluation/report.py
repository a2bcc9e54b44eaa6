"""The folder of an evaluation: tables, figures, and what the scores were made with.

A folder holds one protocol and one set of photos. Models may be added to it, on all photos or on the first ones.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperinverter.contracts import UserError
from hyperinverter.evaluation import figures, tables
from hyperinverter.evaluation.frechet import set_distance
from hyperinverter.evaluation.measure import PHOTO, SECONDS, WORK, Measuring, Photos, identity_of
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.evaluation.published import PUBLISHED, SOURCES, Row
from hyperinverter.evaluation.reach import Trace, reach_csv, reach_markdown, read_trace
from hyperinverter.evaluation.recipes import recipes_of, seeds_markdown
from hyperinverter.evaluation.tables import Measured, Pairs
from hyperinverter.evaluation.timing import Timing, read_timings, timing_csv, timing_markdown
from hyperinverter.evaluation.work import Piece, Work
from hyperinverter.system.files import parse_json, write_csv, write_json, write_text, writing
from hyperinverter.system.machine import code_state, versions

RECORD, PHOTOS = "protocol.json", "photos.csv"
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
    """Note what scores of this folder are made with, before there are any; earlier models are kept."""
    photos, before = measuring.photos, read_record(out)
    old = stored_photos(out)
    listed = old if len(old) > len(photos.names) else _listed(photos)
    models = dict(before.get("models", {}))
    for label, model in measuring.models.items():
        work = measuring.works[label].folder.name
        known = models.get(label, {})
        before_it = known.get("n", 0) if known.get("work") == work else 0
        complete = before_it <= len(
            measuring.works[label].done()
        )  # else it was stopped, and fewer are asked for now
        count = max(len(photos.names), before_it if complete else 0)
        models[label] = {**identity_of(model), **measuring.recipes.get(label, {}), "n": count, "work": work}
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
        out.mkdir(parents=True, exist_ok=True)
        write_csv(
            out / PHOTOS,
            [["photo", "file", "sha256"], *([name, *both] for name, both in listed.items())],
        )
        write_json(out / RECORD, record)
    return record


def _listed(photos: Photos) -> dict[str, tuple[str, str]]:
    return {name: (file, photos.digests[name]) for name, file in photos.files.items()}


@dataclass
class Results:
    """What a folder holds, in numbers.

    Attributes:
        record: What the scores were made with.
        protocol: The same, as an object.
        models: Label -> its numbers; only models that are complete.
        shared: The same on the photos that all have, where some have fewer; else empty.
        pieces: Label -> small images, in the order of its photos.
        photos: The photos themselves.
        timings: Label -> what was timed.
        traces: Label of a search -> how its error falls on the first photo, where it was timed.
    """

    record: Mapping[str, Any]
    protocol: Protocol
    models: dict[str, Measured]
    shared: dict[str, Measured]
    pieces: dict[str, Piece]
    photos: Piece
    timings: dict[str, list[Timing]]
    traces: dict[str, Trace]

    def first_errors(self) -> dict[str, float]:
        """L2 on the first photo of all that is no search."""
        return {
            label: float(model.numbers["l2"][0])
            for label, model in self.models.items()
            if label not in self.traces and "l2" in model.numbers
        }


def read_results(out: Path, protocol: Protocol) -> Results:
    """Read what is complete in a folder.

    Raises:
        UserError: If nothing is.
    """
    record = read_record(out)
    protocol.refuse_other(record["protocol"], out)
    names = list(stored_photos(out))
    photos = Work.at(out / WORK / record["photo_work"]).read(names)
    pieces, timings, traces = {}, {}, {}
    for label, about in record["models"].items():
        work, wanted = Work.at(out / WORK / about["work"]), names[: about["n"]]
        if set(wanted) <= work.done():
            pieces[label] = work.read(wanted)
            timings[label] = read_timings(work.folder)
            if trace := read_trace(work.folder):
                traces[label] = trace
    if not pieces:
        raise UserError(f"nothing is complete in {out} yet; run the same command again")
    models = {label: _measured(piece, photos, protocol) for label, piece in pieces.items()}
    shared: dict[str, Measured] = {}
    both = tables.common(models)
    if both and any(len(model.names) > len(both) for model in models.values()):
        shared = {label: _measured(piece.chosen(both), photos, protocol) for label, piece in pieces.items()}
    return Results(record, protocol, models, shared, pieces, photos, timings, traces)


def _measured(piece: Piece, photos: Piece, protocol: Protocol) -> Measured:
    """A model's numbers, with distances of sets where there are enough photos."""
    left_out = protocol.check_count(len(piece.names))
    own = photos.chosen(piece.names).features
    sets = {
        name: set_distance(settings, piece.features[settings["network"]], own[settings["network"]])
        for name, settings in protocol.sets.items()
        if name not in left_out
    }
    numbers = {name: piece.numbers[name] for name in (*protocol.photo, SECONDS)}
    return Measured(piece.names, numbers, sets)


def write_report(out: Path, protocol: Protocol) -> Results:
    """Write all tables and figures from the pieces of a folder."""
    results = read_results(out, protocol)
    models, found = results.models, tables.pairs(results.models)
    published = PUBLISHED.get(protocol.published or "", ())
    timed = {label: rows for label, rows in results.timings.items() if rows}
    with writing(out, _WAY_OUT):
        write_text(out / "per_photo.csv", tables.per_photo(models))
        write_text(out / "table.csv", tables.summary(models, published))
        write_text(out / "table.tex", tables.latex_table(models, published))
        write_text(out / "pairs.csv", tables.pairs_csv(found))
        if timed:
            write_text(out / "timing.csv", timing_csv(timed))
        if results.traces:
            write_text(out / "reach.csv", reach_csv(results.traces, results.first_errors()))
        write_text(out / "table.md", _markdown(results, found, published, timed))
        figures.worst_and_best(models, results.pieces, results.photos, out / "worst_best.png")
    return results


def _markdown(
    results: Results, found: Pairs, published: Sequence[Row], timed: Mapping[str, Sequence[Timing]]
) -> str:
    """``table.md``: the tables, where numbers are from, and what may be concluded."""
    record, protocol = results.record, results.protocol
    parts = [
        f"# {record['photos']['source']}, protocol {protocol.name} {protocol.version}",
        f"Images of {record['resolution']} px, rounded to 8 bits. Mean of the photos ± half of the 95 % interval "
        f"(bootstrap over photos). `{SECONDS}`: per photo, in the batches of this evaluation.",
        tables.markdown_table(results.models, published),
    ]
    if published:
        used = dict.fromkeys(row.source for row in published)
        about = "; ".join(f"{key}: {SOURCES[key]}" for key in used)
        parts.append(f"Published rows come from other code and other machines. {about}.")
    if results.shared:
        count = len(tables.common(results.shared))
        parts += [f"On the {count} photos that all of them have:", tables.markdown_table(results.shared)]
    few = sorted(
        {name for model in results.models.values() for name in protocol.check_count(len(model.names))}
    )
    if few:
        below = ", ".join(f"{name} below {protocol.sets[name]['least']}" for name in few)
        parts.append(f"Left out with few photos, where it is mostly bias: {below}.")
    if found:
        parts += [
            "## What may be concluded",
            "Paired on the same photos; sign-flip permutation test, Holm over all pairs. This is about these trained "
            "networks on these photos, not about other trainings of the same recipe.",
            "\n".join(f"- {sentence}" for sentence in tables.sentences(found)),
        ]
    recipes = recipes_of(record["models"], results.models)
    if recipes:
        parts += [
            "## Over seeds",
            "Seeds and photos are both resampled: this is about recipes.",
            seeds_markdown(results.models, recipes),
        ]
    if timed:
        parts += ["## Time", "Median of the calls in seconds (5 to 95 %).", timing_markdown(timed)]
    if results.traces and (errors := results.first_errors()):
        said = "Seconds until a search is as close (L2) to the first photo as each model, whose L2 is in brackets:"
        parts += [said, reach_markdown(results.traces, errors)]
    return "\n\n".join(part.strip() for part in parts) + "\n"
