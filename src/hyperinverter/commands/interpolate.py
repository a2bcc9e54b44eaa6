"""``hyperinverter interpolate``: from one inverted photo to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hyperinverter.commands import options

EXAMPLE = "hyperinverter interpolate first.jpg second.jpg --steps 7 --out between"


def interpolate(
    first: Annotated[str, typer.Argument(metavar="INVERSION|PHOTO", help="What the strip begins with.")],
    second: Annotated[str, typer.Argument(metavar="INVERSION|PHOTO", help="What it ends with.")],
    model: options.ModelOfFiles = None,
    out: options.Out = Path("between"),
    steps: Annotated[int, typer.Option(min=2, help="Pictures, both ends included.")] = 7,
    what: Annotated[Literal["w", "residuals", "both"], typer.Option(help="What is mixed.")] = "both",
    path: Annotated[
        Literal["line", "sphere"],
        typer.Option(help="How w moves: straight, or at an even distance from the mean code."),
    ] = "line",
    align: options.Align = False,
    framing: options.Framing = None,
    animate: Annotated[
        options.Animation | None, typer.Option(help="Also an animation, there and back.")
    ] = None,
) -> int:
    """Mix two inversions in equal steps: FIRST_to_SECOND.png, a labelled strip.

    With --what w the residuals stay the first photo's, with --what residuals its code does.
    """
    from hyperinverter.commands.editing import Editor, save_animation
    from hyperinverter.commands.inputs import single
    from hyperinverter.system.terminal import say

    one, other = single(first), single(second)
    editor = Editor([one, other], model, (), out, align=align, framing=framing)
    frames = editor.between(one, other, steps=steps, what=what, path=path)
    name = f"{one.name}_to_{other.name}"
    editor.save_strip([f"{index / (steps - 1):.2f}" for index in range(steps)], frames, name)
    say(str(out / f"{name}.png"))
    if animate is not None:
        save_animation(editor.between(one, other, steps=25, what=what, path=path), out / f"{name}.{animate}")
        say(str(out / f"{name}.{animate}"))
    return 0
