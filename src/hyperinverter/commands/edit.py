"""``hyperinverter edit``: move inverted photos along directions; pictures, labelled strips, animations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "hyperinverter edit photo.jpg --direction smile=2 --out edited"


def edit(
    photos: Annotated[
        list[str],
        typer.Argument(metavar="INVERSION|PHOTO", help="Photos, or NAME.inversion.safetensors of `invert`."),
    ],
    direction: Annotated[
        list[str],
        typer.Option(
            "--direction", "-d", metavar="NAME=POWER", help="What to change, and how much. Several add up."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="digiface, a run folder, or a model file. Default: what inverted the files, digiface for photos."
        ),
    ] = None,
    directions: Annotated[
        str | None,
        typer.Option(
            help="Where names come from: digiface, pca, sefa, or a file. Default: the model's catalogue, else pca."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("edited"),
    align: Annotated[
        bool, typer.Option("--align", help="Cut photos out first, as the model's domain frames them.")
    ] = False,
    framing: Annotated[
        str | None,
        typer.Option(metavar="ffhq|digiface|centre", help="Of --align, whatever the model's domain."),
    ] = None,
    fit: Annotated[
        str, typer.Option(metavar="crop|pad|squeeze", help="Of photos that are neither aligned nor square.")
    ] = "crop",
    white: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Value of white in photos of more than 8 bits; default 65535."),
    ] = None,
    strength: Annotated[str, typer.Option(help="Of the residuals, as in `invert`.")] = "1",
    edit_strength: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="What a large edit leaves of the residuals; a small one leaves more. Default: what the model says.",
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="FROM:TO:STEPS", help="A labelled strip over powers of the first direction."),
    ] = None,
    animate: Annotated[
        str | None, typer.Option(metavar="gif|webp|mp4", help="The sweep as an animation, there and back.")
    ] = None,
    paste: Annotated[
        Path | None,
        typer.Option(
            metavar="PHOTO", help="Put the edited face back into this photo, which --align has cut."
        ),
    ] = None,
    paste_mode: Annotated[
        str, typer.Option(help="face: the edited face itself; difference: only what the edit changes.")
    ] = "face",
) -> int:
    """Edit photos: NAME.edit.png for each, with --sweep also NAME.sweep.png.

    Power is the amount of an edit, in units of its direction (see `hyperinverter directions show`); strength scales the
    residuals of the inversion. Directions with a power outside their safe range are reported.
    """
    from hyperinverter.commands.editing import Editor, parse_sweep
    from hyperinverter.commands.inputs import check_fit, parse_strength, sources
    from hyperinverter.contracts import UserError
    from hyperinverter.editing.directions import parse_power
    from hyperinverter.system.terminal import say

    if animate is not None and animate not in ("gif", "webp", "mp4"):
        raise UserError(f"--animate={animate[:20]} is none of gif, webp, mp4")
    if paste_mode not in ("face", "difference"):
        raise UserError(f"--paste-mode={paste_mode[:20]} is neither face nor difference")
    found, line = sources(photos, inversions=True)
    if line:
        say(line)
    if paste is not None and len(found) > 1:
        raise UserError("--paste puts one face back into one photo: give a single photo or inversion")
    powers = [parse_power(text) for text in direction]
    editor = Editor(
        found,
        model,
        directions,
        out,
        align=align,
        framing=framing,
        fit=check_fit(fit),
        white=white,
        strength=parse_strength(strength),
        edit_strength=edit_strength,
    )
    return editor.run(
        powers,
        sweep=parse_sweep(sweep or ("-3:3:7" if animate else None)),
        animate=animate,
        paste=paste,
        paste_mode=paste_mode,
    )
