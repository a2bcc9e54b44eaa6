"""Options that several commands share, each with one sentence of help; defaults stand where a command takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hyperinverter.system.files import as_path

Batch = Annotated[int, typer.Option(min=1, help="Photos in one pass.")]
Out = Annotated[Path, typer.Option(parser=as_path, metavar="DIR", help="Folder of the results.")]

# How photos become square pictures of the model's side.
Align = Annotated[
    bool, typer.Option("--align", help="Cut photos out first, as the model's domain frames them.")
]
Framing = Annotated[
    str | None, typer.Option(metavar="ffhq|digiface|centre", help="Of --align, whatever the model's domain.")
]
Fit = Annotated[
    str, typer.Option(metavar="crop|pad|squeeze", help="Of photos that are neither aligned nor square.")
]
White = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Value of white in photos of more than 8 bits; default 65535."),
]

# Residuals of an inversion, and what moves its w.
Strength = Annotated[
    str,
    typer.Option(help="Of the residuals: 0 to 1, or per group of layers: coarse=1,medium=1,fine=0.5."),
]
EditStrength = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="What a large edit leaves of residuals where it changes the picture. Default: what the model says.",
    ),
]
EditGain = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=4,
        help="How many times as far as asked an edit moves the code that is drawn. Default: what the model says.",
    ),
]
EditRule = Annotated[
    Literal["add", "fade", "warp", "follow", "picture"] | None,
    typer.Option(
        "--rule",
        help="What an edit does with residuals: draw them where they were (add); of those that have a place, take some "
        "away (fade), move them (warp), or both (follow); or move what all of them add to the picture (picture). "
        "Default: what the model says.",
    ),
]
Catalogue = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CATALOGUE|FILE",
        help="Where names come from: digiface, pca, sefa, or a file; may be given several times, and the last one wins "
        "where two have a name. In edit the model's catalogue is known as well. Default: that alone, else pca. "
        "s6_501 is channel 501 of style layer 6, "
        "everywhere.",
    ),
]

# What comes out.
Animation = Literal["gif", "webp", "mp4"]
PasteMode = Annotated[
    Literal["face", "difference"],
    typer.Option(help="face: the edited face; difference: edit - inversion, added to the photo."),
]

# Commands that read photos or the files of `invert`.
ModelOfFiles = Annotated[
    str | None,
    typer.Option(
        help="digiface, a run folder, or a model file. Default: what inverted the files, digiface for photos."
    ),
]
Sources = Annotated[
    list[str],
    typer.Argument(metavar="INVERSION|PHOTO", help="Photos, or NAME.inversion.safetensors of `invert`."),
]
