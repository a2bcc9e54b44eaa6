"""``hyperinverter evaluate``: models and photos -> tables of numbers with intervals, and what may be concluded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperinverter.commands import options

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="digiface, a run folder, a model file, or another way to invert; NAME=MODEL names it in the tables.",
    ),
]
Data = Annotated[
    str, typer.Option(metavar="digiface|FOLDER", help="The built-in test photos, or a folder of photos.")
]
Protocol = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="How images are compared: a file of conf/protocol.")
]
Processes = Annotated[
    int, typer.Option(min=1, help="Processes that share the photos; each takes a GPU if there are several.")
]
SaveImages = Annotated[
    bool, typer.Option("--save-images", help="Keep the PNGs that are measured, in images/MODEL/PHOTO.png.")
]
Weights = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL=FILE", help="Weight file of a network of the protocol that does not ship."),
]
Timed = Annotated[
    bool | None,
    typer.Option("--time/--no-time", help="Time every model alone as well. Default: from 100 photos on."),
]

EXAMPLE = "hyperinverter evaluate digiface --data digiface --n 16 --out evaluated"


def evaluate(
    models: Models,
    data: Data = "digiface",
    protocol: Protocol = "digiface",
    out: options.Out = Path("evaluated"),
    n: Annotated[int | None, typer.Option(min=1, help="Only the first photos.")] = None,
    batch: options.Batch = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    processes: Processes = 1,
    save_images: SaveImages = False,
    weights: Weights = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="NUMBER", help="Leave out a number of the protocol.")
    ] = None,
    time: Timed = None,
    edits: Annotated[
        int, typer.Option(min=0, help="Also measure how well edits survive, on this many photos.")
    ] = 0,
    odd: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --edits: whose residuals make odd faces; best one that is not in the table. Default: digiface, "
            "for its generator.",
        ),
    ] = None,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> int:
    """Compare ways to invert: table.md, table.csv, table.tex, per_photo.csv, pairs.csv and worst_best.png.

    All numbers are of images rounded to 8 bits. What was interrupted goes on with the same command. A folder may get
    more models later, on all photos or on the first ones (--n).
    """
    from hyperinverter.commands.evaluating import Request, run

    request = Request(
        models,
        data,
        protocol,
        out,
        n,
        batch,
        device,
        processes,
        save_images,
        weights or [],
        without or [],
        time,
        edits=edits,
        odd=odd,
    )
    return run(request, part)
