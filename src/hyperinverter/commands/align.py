"""``hyperinverter align``: find the faces of photos and cut them out as a domain wants them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperinverter.contracts import UserError, printable
from hyperinverter.system.files import as_path
from hyperinverter.system.terminal import put, say

if TYPE_CHECKING:
    from hyperinverter.alignment import Alignment  # brings torch

EXAMPLE = "hyperinverter align me.jpg holiday/ --out aligned"


def align(
    photos: Annotated[
        list[Path],
        typer.Argument(parser=as_path, metavar="PHOTO|FOLDER...", help="Photos, or folders of them."),
    ],
    out: Annotated[
        Path,
        typer.Option(parser=as_path, metavar="DIR", help="Folder for crops, report.csv and alignment.json."),
    ],
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side of the crops; default: the domain's.", min=1)
    ] = None,
    domain: Annotated[
        str, typer.Option(metavar="NAME", help="Whose framing: digiface, faces (as FFHQ), churches, own.")
    ] = "digiface",
    framing: Annotated[
        str | None, typer.Option(metavar="NAME", help="ffhq, digiface or centre, whatever the domain.")
    ] = None,
    face: Annotated[
        str, typer.Option(metavar="largest|all|N", help="Which face of several; 0 is the largest.")
    ] = "largest",
    landmarks: Annotated[
        Path | None,
        typer.Option(
            parser=as_path,
            metavar="FILE",
            help="JSON or CSV with 68 or 5 points per photo, instead of a search.",
        ),
    ] = None,
    min_side: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Least side of a face's square in its photo, in sizes.", min=0),
    ] = 0.5,
) -> int:
    """Find the faces of photos, and cut them out upright, as the FFHQ data set does.

    DIR gets NAME.png per photo (NAME_0.png, NAME_1.png for several faces), report.csv with a line per crop or
    failure, and alignment.json, with which "hyperinverter paste" puts an edited crop back. The exit status is 1 if
    a photo has no crop; the others are made all the same.
    """
    from hyperinverter.alignment.align import check_options
    from hyperinverter.alignment.records import read_landmarks
    from hyperinverter.system.files import writing_to

    way, side = _domain(domain, framing, size)
    which: str | int = int(face) if face.isdecimal() else face
    check_options(side, way, which, min_side)
    points = read_landmarks(landmarks) if landmarks is not None else {}
    found = list(_photos(photos, out))
    put(f"{len(found)} {'photo' if len(found) == 1 else 'photos'}: {way} framing, {side} px, to {out}")
    with writing_to(out, 0, "choose another folder with --out DIR"):
        return _align_all(found, out, size=side, framing=way, face=which, min_side=min_side, points=points)


def _domain(domain: str, framing: str | None, size: int | None) -> tuple[str, int]:
    """Framing and size of the crops."""
    from hyperinverter import config
    from hyperinverter.alignment import framing_of
    from hyperinverter.data.digiface import RESOLUTION

    cfg = config.compose([f"domain={domain}"]).domain
    side = size or cfg.resolution or (RESOLUTION if cfg.name == "digiface" else None)
    if side is None:
        raise UserError(f"the domain {domain} has no size of its own; give one with --size PIXELS")
    return framing or framing_of(cfg.name, cfg.faces), side


def _photos(asked: Sequence[Path], out: Path) -> Iterator[Path]:
    """Every photo asked for, once; what lies in a folder and is no photo is left out."""
    from hyperinverter.data.listing import list_photos

    seen, own = set(), out.resolve()
    for path in asked:
        if not path.is_dir():
            items = [path]
        else:
            listing = list_photos(path).with_unreadable()
            items = [path / name for name in listing.names]
            items = [item for item in items if own == path.resolve() or own not in item.resolve().parents]
            if not items:
                raise UserError(f"no photos below {path}; give a folder that holds some")
            if left_out := listing.report(path):
                say(left_out)
        for item in items:
            if item.resolve() not in seen:
                seen.add(item.resolve())
                yield item


def _align_all(photos: list[Path], out: Path, *, framing: str, points: dict[str, Any], **options: Any) -> int:
    from tqdm import tqdm

    from hyperinverter.alignment import Alignment, records
    from hyperinverter.alignment import align as align_one

    record = records.Record(out)
    names = records.Names(out, record, several=options["face"] == "all")
    rows, failed = [], 0
    put(f"{'photo':<32} {'status':<10} {'faces':>5} {'side':>7} {'padded':>6}  crop")
    try:
        for photo in tqdm(photos, desc="aligning", unit="photo", disable=None):
            given = points.get(photo.name)
            try:
                result = align_one(photo, framing=framing, points=given, **options)
            except UserError as error:  # its landmarks are no face, say; the others go on
                result = Alignment("unreadable", str(error))
            if points and given is None:
                said = f"{photo.name} is not in the landmarks file: its face was searched"
                tqdm.write(printable(said), file=sys.stderr)
            lines = _keep(photo, result, out, names, record, framing)
            for line in lines:
                tqdm.write(_shown(line), file=sys.stdout)
            rows += lines
            failed += not result.ok
    finally:  # also when interrupted: crops without their matrix could not be pasted back
        record.write()
        records.write_report(out / records.REPORT, rows)
    put(f"{len(photos) - failed} of {len(photos)} aligned; {out / records.REPORT}")
    return 1 if failed else 0


def _keep(
    photo: Path, result: Alignment, out: Path, names: Any, record: Any, framing: str
) -> list[dict[str, Any]]:
    """Write a photo's crops and note them; return its lines of the report."""
    from tqdm import tqdm

    from hyperinverter.alignment import records
    from hyperinverter.system.files import replacing

    if not result.ok:
        return [records.row(photo, result)]
    stem = names.stem(photo)
    if stem != photo.stem:
        said = f"{photo}: its crop is called {stem}.png, the name is taken"
        tqdm.write(printable(said), file=sys.stderr)
    lines = []
    for face, name in zip(result.faces, names.of(stem, result.faces), strict=True):
        with replacing(out / name) as part:
            face.image.save(part, "PNG")
        record.crops[name] = records.recorded(photo, face, framing)
        lines.append(records.row(photo, result, face, name))
    return lines


def _shown(line: dict[str, Any]) -> str:
    """A line of the report as the terminal shows it."""
    name = line["photo"] if len(line["photo"]) <= 32 else f"...{line['photo'][-29:]}"
    side = f"{float(line['side_px']):.0f} px" if line["side_px"] else ""
    padded = f"{float(line['padding']):.0%}" if line["padding"] else ""
    text = "; ".join(part for part in (line["crop"], line["message"]) if part)
    return printable(f"{name:<32} {line['status']:<10} {line['faces']:>5} {side:>7} {padded:>6}  {text}")
