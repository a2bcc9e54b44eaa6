"""``hyperinverter invert``: photos -> images, codes and residuals in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperinverter.commands import options

BatchOfFolder = Annotated[
    int | None, typer.Option(min=1, help="Photos in one pass. Default: 8, or 16 of many small photos.")
]
Refine = Annotated[
    str | None, typer.Option(metavar="pti", help="Tune the generator for each photo afterwards: pti.")
]
Report = Annotated[
    str,
    typer.Option(
        metavar="full|l2", help="Numbers in report.csv; l2 leaves out the perceptual distance: faster."
    ),
]
Compact = Annotated[
    bool,
    typer.Option("--compact", help="Keep what all photos of a model share once in the folder: small files."),
]

EXAMPLE = "hyperinverter invert photo.jpg --model digiface --out inverted"


def invert(
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO|FOLDER", help="Image files, or folders of them.")
    ],
    model: Annotated[
        str, typer.Option(help="digiface, a run folder, a model file, or a way to invert.")
    ] = "digiface",
    out: options.Out = Path("inverted"),
    align: options.Align = False,
    framing: options.Framing = None,
    fit: options.Fit = "crop",
    white: options.White = None,
    strength: options.Strength = "1",
    batch: BatchOfFolder = None,
    refine: Refine = None,
    steps: Annotated[int, typer.Option(min=0, help="Of --refine.")] = 30,
    report: Report = "full",
    compact: Compact = False,
    again: Annotated[
        bool, typer.Option("--again", help="Invert photos that have their results already, too.")
    ] = False,
) -> int:
    """Invert photos: NAME.inverted.png, NAME.w_image.png and NAME.inversion.safetensors for each, and a report.

    --model takes ways to invert without training as well: w_opt, wplus_opt and pti, each with @GENERATOR and options,
    such as pti:steps=100@digiface. --refine pti goes on from what the model finds.

    What is done already is skipped. The exit status is 1 if a photo could not be inverted; the others are.
    """
    from hyperinverter.commands.inputs import announced, check_fit, parse_strength
    from hyperinverter.commands.inverting import Inversions
    from hyperinverter.contracts import UserError

    if refine not in (None, "pti"):
        raise UserError(f"--refine={refine[:40]} is not known: write --refine pti")
    if report not in ("full", "l2"):
        raise UserError(f"--report={report[:40]} is not known: write --report full or --report l2")
    if refine:
        model = f"{model}+pti:{steps}"
    job = Inversions(
        model,
        out,
        align=align,
        framing=framing,
        fit=check_fit(fit),
        white=white,
        strength=parse_strength(strength),
        batch=batch,
        perceptual=report == "full",
        compact=compact,
    )
    return job.run(announced(photos), again=again)
