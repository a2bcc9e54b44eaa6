"""``hyperinverter serve``: the editor, a page on this machine."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from hyperinverter.commands import options
from hyperinverter.system.files import as_path

EXAMPLE = "hyperinverter serve --model digiface_best --model digiface"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help=(
                "digiface, a run folder, a model file, or a way to invert; up to three to compare. Default: "
                "digiface_best, and the paper's digiface next to it."
            ),
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Another address than this machine's own needs --password.")
    ] = "127.0.0.1",
    password: Annotated[
        str | None, typer.Option(help="Asked for by the page (the user name does not matter).")
    ] = None,
    framing: Annotated[
        str | None,
        typer.Option(
            metavar="ffhq|digiface|centre", help="How faces are cut out. Default: as the model's domain says."
        ),
    ] = None,
    directions: options.Catalogue = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            parser=as_path,
            metavar="PATH",
            help="Folder with evaluations, runs or sweeps, whose photos can be opened.",
        ),
    ] = None,
) -> int:
    """Open a page with a photo and sliders: drop a photo, move a slider, and the photo changes.

    The page is for this machine alone, keeps photos in a temporary folder until it is closed, and sends nothing away.
    """
    _check(host, password)
    from hyperinverter.commands.serve.server import run

    return run(
        model or ["digiface_best", "digiface"],
        host=host,
        port=port,
        password=password,
        runs=runs,
        framing=framing,
        directions=directions or [],
    )


def _check(host: str, password: str | None) -> None:
    """Refuse to let others in without a password, and to start without what the page needs."""
    from hyperinverter.contracts import UserError

    if not _is_loopback(host) and not password:
        raise UserError(
            f"--host {host} lets others on the network in: add --password WORD, or leave --host out to stay on this "
            "machine"
        )
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError('the editor needs its extra: pip install "hyperinverter[serve]"') from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
