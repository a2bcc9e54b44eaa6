"""``hyperinverter paste``: put edited crops back into their photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hyperinverter.commands import options
from hyperinverter.contracts import UserError
from hyperinverter.system.files import as_path
from hyperinverter.system.terminal import put, write_line

if TYPE_CHECKING:
    from hyperinverter.alignment.records import Record, Recorded

    _Part = tuple[Recorded, Path, Path | None]  # a crop, the file of its edit, the file of its inversion

EXAMPLE = "hyperinverter paste aligned/me.edit.png --alignment aligned --out pasted"


def paste(
    edited: Annotated[
        list[Path],
        typer.Argument(
            parser=as_path, metavar="EDITED...", help="Edited crops: NAME.edit.png for the crop NAME.png."
        ),
    ],
    alignment: Annotated[
        Path,
        typer.Option(parser=as_path, metavar="DIR|FILE", help="alignment.json of the crops, or its folder."),
    ],
    out: Annotated[Path, typer.Option(parser=as_path, metavar="DIR", help="Folder for the photos.")],
    mode: options.PasteMode = "face",
    inversion: Annotated[
        Path | None,
        typer.Option(
            parser=as_path,
            metavar="FILE|DIR",
            help="NAME.inverted.png for mode difference; default: next to the edit.",
        ),
    ] = None,
    shape: Annotated[
        Literal["square", "oval"], typer.Option(help="Of the mask: all of the crop, or without its corners.")
    ] = "square",
    feather: Annotated[
        float, typer.Option(metavar="SHARE", help="Width of the mask's fade, in sides of the crop.")
    ] = 0.15,
    crop: Annotated[
        str | None,
        typer.Option(metavar="NAME.png", help="The crop that was edited, if the name does not tell."),
    ] = None,
    photo: Annotated[
        Path | None,
        typer.Option(parser=as_path, metavar="FILE", help="The photo, if it has moved since it was aligned."),
    ] = None,
) -> int:
    """Put edited crops back into their photos, as NAME.pasted.png (.tif for CMYK).

    Outside a soft mask not one pixel changes; inside, only what the edit has changed. Mode, size and colour profile
    of the photo are kept, its EXIF rotation is carried out, and other EXIF entries are left out. Several edited
    faces of one photo go into one picture. Mode difference hides the errors of the inversion, and shows ghosts of
    the old contours where an edit moves them far, as a turn of the head does.
    """
    from hyperinverter.alignment.records import Record
    from hyperinverter.system.files import writing_to

    groups = _grouped(edited, Record(alignment), crop, inversion, mode)
    if photo is not None and len(groups) > 1:
        raise UserError(f"--photo names one photo, the edits belong to {len(groups)}; paste them one by one")
    failed = 0
    with writing_to(out, 0, "choose another folder with --out DIR"):
        for (source, parts), stem in zip(groups.items(), _stems(groups), strict=True):
            try:
                _paste_one(photo or source, parts, out / stem, mode, shape, feather)
            except UserError as error:
                failed += 1
                write_line(f"error: {error}")
    return 1 if failed else 0


def _grouped(
    edited: list[Path], record: Record, crop: str | None, inversion: Path | None, mode: str
) -> dict[Path, list[_Part]]:
    """The edited crops of each photo.

    Raises:
        UserError: If nothing was cut out, or an edit belongs to no crop.
    """
    if not record.crops:
        raise UserError(f"no crops in {record.path}; align photos first: hyperinverter align PHOTO --out DIR")
    groups: dict[Path, list[_Part]] = {}
    for path in edited:
        name = _crop_of(path, record, crop)
        before = _inversion(path, name, inversion) if mode == "difference" else None
        groups.setdefault(record.crops[name].photo, []).append((record.crops[name], path, before))
    return groups


def _stems(photos: Iterable[Path]) -> list[str]:
    """What the results of photos are called: NAME, then NAME-2 for another photo of that name."""
    seen: Counter[str] = Counter()
    stems = []
    for photo in photos:
        seen[photo.stem] += 1
        count = seen[photo.stem]
        stems.append(photo.stem if count == 1 else f"{photo.stem}-{count}")
    return stems


def _crop_of(edited: Path, record: Record, given: str | None) -> str:
    """The name of the crop that was edited."""
    name = given if given is not None else record.of(edited)
    if name not in record.crops:
        raise UserError(f"{record.path} has no crop {name}; there are {', '.join(sorted(record.crops)[:5])}")
    return name


def _inversion(edited: Path, crop: str, given: Path | None) -> Path:
    """The inversion that belongs to an edit."""
    if given is not None and not given.is_dir():
        return given
    path = (given or edited.parent) / f"{Path(crop).stem}.inverted.png"
    if not path.is_file():
        raise UserError(
            f"mode difference needs the inversion of {crop} without the edit, there is none at {path}; name it with "
            f"--inversion FILE, or use --mode face"
        )
    return path


def _paste_one(
    photo: Path, parts: Sequence[_Part], target: Path, mode: str, shape: str, feather: float
) -> None:
    from hyperinverter.alignment import Edit, paste_all
    from hyperinverter.data.transforms import load_rgb
    from hyperinverter.system.files import sha256_of

    edits = [
        Edit(load_rgb(path), one.crop, load_rgb(before) if before else None) for one, path, before in parts
    ]
    if not photo.is_file():
        raise UserError(f"the photo {photo} is gone; say where it is now with --photo FILE")
    if sha256_of(photo) != parts[0][0].sha256:
        raise UserError(f"{photo} is not the photo that was aligned; restore it, or align it again")
    pasted = paste_all(photo, edits, mode=mode, shape=shape, feather=feather)
    written = pasted.save(target.parent, target.name)
    put(f"{written}{f' ({pasted.note})' if pasted.note else ''}")
