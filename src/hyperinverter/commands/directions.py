"""``hyperinverter directions``: list, show, fit and discover directions of editing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperinverter.system.files import as_path

EXAMPLE = "hyperinverter directions list digiface"


def directions(
    action: Annotated[str, typer.Argument(metavar="list|show|fit|discover", help="What to do.")],
    asked: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT",
            help="list, show: a catalogue or file, and a name. fit: a CSV of photo,label, or two folders; or "
            "StyleCLIP's fs3.npy, the text's difference as text.npy, and S_mean_std if you have it.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="digiface, a run folder, or a model file.")] = "digiface",
    name: Annotated[str, typer.Option(help="fit: what the direction is called.")] = "direction",
    keep: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="fit: directions along which it must not move.")
    ] = "",
    shrinkage: Annotated[
        float, typer.Option(min=0, help="fit: 0.3 for shapes and expressions, 3 for colours and pose.")
    ] = 0.3,
    threshold: Annotated[
        float, typer.Option(min=0, help="fit with fs3.npy: what a channel must have in common with the text.")
    ] = 0.13,
    method: Annotated[str, typer.Option(help="discover: pca or sefa.")] = "pca",
    space: Annotated[
        str, typer.Option(metavar="w|s", help="discover by pca: in w, or in styles (StyleSpace).")
    ] = "w",
    layers: Annotated[
        str,
        typer.Option(
            metavar="FIRST-LAST",
            help="discover: style layers that move, such as 3-7. With --space s they are numbered as in StyleSpace, "
            "torgb's included. Default: all.",
        ),
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="discover: how many.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(parser=as_path, metavar="PATH", help="fit, discover: the file to write (.safetensors)."),
    ] = None,
) -> int:
    """List and show directions, fit one to labels, or discover some for any generator.

    For example, the principal components of four style layers, for edit and serve --directions pca_s.safetensors:
    hyperinverter directions discover --space s --layers 6-9 --out pca_s.safetensors
    """
    from hyperinverter.commands import directing
    from hyperinverter.contracts import UserError

    given = asked or []
    if action == "list":
        return directing.show_all(given, model)
    if action == "show":
        return directing.show_one(given, model)
    if action == "fit" and given and Path(given[0]).suffix == ".npy":
        return directing.fit_to_text(given, model, name, threshold, out)
    if action == "fit":
        wanted = [part for part in keep.split(",") if part]
        return directing.fit_to(given, model, name, keep=wanted, shrinkage=shrinkage, out=out)
    if action == "discover":
        return directing.discover(model, method, space, layers, count, out)
    raise UserError(f"directions has no action {action[:40]!r}: list, show, fit or discover")
