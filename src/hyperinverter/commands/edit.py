"""``hyperinverter edit``: move inverted photos along directions; pictures, labelled strips, animations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperinverter.commands import options
from hyperinverter.contracts import UserError
from hyperinverter.system.files import as_path

Powers = Annotated[
    list[str],
    typer.Option(
        "--direction", "-d", metavar="NAME=POWER", help="What to change, and how much. Several add up."
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option(metavar="FROM:TO:STEPS", help="A labelled strip over powers of the first direction."),
]


def _photo(typed: str) -> Path:
    if typed.startswith("--"):  # the next option, which the parser takes for the photo
        raise UserError(f"--paste needs the photo that the face goes back into: --paste PHOTO {typed[:40]}")
    return as_path(typed)


Paste = Annotated[
    Path | None,
    typer.Option(
        parser=_photo,
        metavar="PHOTO",
        help="Put the edited face back into this photo, which --align has cut.",
    ),
]

EXAMPLE = "hyperinverter edit photo.jpg --direction smile=1 --out edited"


def edit(
    photos: options.Sources,
    direction: Powers,
    model: options.ModelOfFiles = None,
    directions: options.Catalogue = None,
    out: options.Out = Path("edited"),
    align: options.Align = False,
    framing: options.Framing = None,
    fit: options.Fit = "crop",
    white: options.White = None,
    strength: options.Strength = "1",
    edit_strength: options.EditStrength = None,
    edit_gain: options.EditGain = None,
    rule: options.EditRule = None,
    sweep: Sweep = None,
    animate: Annotated[
        options.Animation | None,
        typer.Option(
            help="The sweep as an animation, there and back; without --sweep over the direction's safe range."
        ),
    ] = None,
    paste: Paste = None,
    paste_mode: options.PasteMode = "face",
) -> int:
    """Edit photos: NAME.edit.png for each, with --sweep also NAME.sweep.png.

    Power is the amount of an edit, in units of its direction (see `hyperinverter directions show`); strength scales the
    residuals of the inversion. Directions with a power outside their safe range are reported.
    """
    from hyperinverter.commands.editing import Editor, parse_sweep
    from hyperinverter.commands.inputs import announced, check_fit, parse_strength
    from hyperinverter.editing.directions import parse_power

    found = announced(photos, inversions=True)
    if paste is not None and len(found) > 1:
        raise UserError("--paste puts one face back into one photo: give a single photo or inversion")
    editor = Editor(
        found,
        model,
        directions or [],
        out,
        align=align,
        framing=framing,
        fit=check_fit(fit),
        white=white,
        strength=parse_strength(strength),
        edit_strength=edit_strength,
        edit_gain=edit_gain,
        rule=rule,
    )
    return editor.run(
        [parse_power(text) for text in direction],
        sweep=parse_sweep(sweep),
        animate=animate,
        paste=paste,
        paste_mode=paste_mode,
    )
