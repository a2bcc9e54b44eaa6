"""``hyperinverter mix``: one photo's code with another photo's residuals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperinverter.commands import options

EXAMPLE = "hyperinverter mix first.jpg second.jpg --layers medium,fine --out mixed"


def mix(
    first: Annotated[str, typer.Argument(metavar="INVERSION|PHOTO", help="Whose w is used.")],
    second: Annotated[str, typer.Argument(metavar="INVERSION|PHOTO", help="Whose residuals are used.")],
    layers: Annotated[
        str,
        typer.Option(
            help="Groups that take the second's residuals: coarse,medium,fine; the others keep the first's."
        ),
    ] = "coarse,medium,fine",
    model: options.ModelOfFiles = None,
    out: options.Out = Path("mixed"),
    align: options.Align = False,
    framing: options.Framing = None,
) -> int:
    """Draw the first photo's w with the second photo's residuals: FIRST_with_SECOND.png, a labelled strip."""
    from hyperinverter.commands.editing import Editor
    from hyperinverter.commands.inputs import single
    from hyperinverter.contracts import UserError
    from hyperinverter.system.terminal import say

    groups = [group.strip() for group in layers.split(",") if group.strip()]
    if not groups:
        raise UserError(f"--layers={layers[:40]} names no group: such as --layers medium,fine")
    one, other = single(first), single(second)
    editor = Editor([one, other], model, (), out, align=align, framing=framing)
    titles, frames = editor.mixed(one, other, groups)
    name = f"{one.name}_with_{other.name}"
    editor.save_strip(titles, frames, name)
    say(str(out / f"{name}.png"))
    return 0
