"""``hyperinverter interpolate``: from one inverted photo to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "hyperinverter interpolate first.jpg second.jpg --steps 7 --out between"


def interpolate(
    first: Annotated[str, typer.Argument(metavar="INVERSION|PHOTO", help="What the strip begins with.")],
    second: Annotated[str, typer.Argument(metavar="INVERSION|PHOTO", help="What it ends with.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="digiface, a run folder, or a model file. Default: what inverted the files, digiface for photos."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("between"),
    steps: Annotated[int, typer.Option(min=2, help="Pictures, both ends included.")] = 7,
    what: Annotated[str, typer.Option(help="What is mixed: w, residuals, or both.")] = "both",
    path: Annotated[
        str,
        typer.Option(
            metavar="line|sphere", help="How w moves: straight, or at an even distance from the mean code."
        ),
    ] = "line",
    align: Annotated[
        bool, typer.Option("--align", help="Cut photos out first, as the model's domain frames them.")
    ] = False,
    framing: Annotated[
        str | None,
        typer.Option(metavar="ffhq|digiface|centre", help="Of --align, whatever the model's domain."),
    ] = None,
    animate: Annotated[
        str | None, typer.Option(metavar="gif|webp|mp4", help="Also an animation, there and back.")
    ] = None,
) -> int:
    """Mix two inversions in equal steps: FIRST_to_SECOND.png, a labelled strip.

    With --what w the residuals stay the first photo's, with --what residuals its code does.
    """
    from hyperinverter.commands.editing import Editor, save_animation
    from hyperinverter.commands.inputs import single
    from hyperinverter.contracts import UserError
    from hyperinverter.system.terminal import say

    if what not in ("w", "residuals", "both"):
        raise UserError(f"--what={what[:20]} is none of w, residuals, both")
    if path not in ("line", "sphere"):
        raise UserError(f"--path={path[:20]} is neither line nor sphere")
    if animate is not None and animate not in ("gif", "webp", "mp4"):
        raise UserError(f"--animate={animate[:20]} is none of gif, webp, mp4")
    one, other = single(first), single(second)
    editor = Editor([one, other], model, None, out, align=align, framing=framing)
    frames = editor.between(one, other, steps=steps, what=what, path=path)
    name = f"{one.name}_to_{other.name}"
    editor.save_strip([f"{index / (steps - 1):.2f}" for index in range(steps)], frames, name)
    say(str(out / f"{name}.png"))
    if animate is not None:
        save_animation(editor.between(one, other, steps=25, what=what, path=path), out / f"{name}.{animate}")
        say(str(out / f"{name}.{animate}"))
    return 0
