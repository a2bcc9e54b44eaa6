"""``hyperinverter bench``: speed, memory and arithmetic on this machine, against the slow obvious way.

Ours and the reference (``slow_reference``) take turns in one process with the same weights, and medians are
compared. Peak memory is that of a process that does nothing else. FLOPs and operators are counted by PyTorch on
tensors without content. Weights are random; the loss of ``step`` is the pixel loss, without optimizer.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hyperinverter.contracts import UserError
from hyperinverter.system.files import as_path, writing_to
from hyperinverter.system.terminal import put

EXAMPLE = "hyperinverter bench synthesis:8 --rounds 3"

# Heading -> column of the CSV file, in which there are more.
SHOWN = {
    "seconds": "seconds",
    "reference": "reference_seconds",
    "ratio": "ratio",
    "images/s": "images_per_second",
    "MB": "peak_mb",
    "ref. MB": "reference_peak_mb",
    "GFLOP": "gflop",
    "of peak": "share_of_machine",
    "operators": "operators",
    "ref. op.": "reference_operators",
}
ON_GPU = {"launches": "launches", "ref. launches": "reference_launches"}


def bench(
    asked: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME:BATCH", help="Such as step:8. Default: all of the size."),
    ] = None,
    size: Annotated[
        str, typer.Option(help="digiface (64 px), full256 or full1024 (full width, hidden 128).")
    ] = "digiface",
    rounds: Annotated[int, typer.Option(help="Show the median of so many counts.")] = 5,
    clock: Annotated[
        Literal["wall", "processor"], typer.Option(help="processor: for a busy machine.")
    ] = "wall",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU if there is one.")
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "tf32", "bf16"], typer.Option(help="Of both sides; tf32 is for a GPU.")
    ] = "fp32",
    out: Annotated[
        Path,
        typer.Option(parser=as_path, metavar="PATH", help="Folder of table.csv, to which lines are added."),
    ] = Path("outputs/bench"),
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time goes instead.")] = False,
) -> int:
    """Measure speed, memory and arithmetic on this machine against the slow obvious way, a line for each case.

    Each side runs so many rounds after one to warm up; a single round has no warm-up.
    """
    from hyperinverter.commands.bench.cases import SIZES, parse_case  # brings torch
    from hyperinverter.commands.bench.measuring import Place, row
    from hyperinverter.commands.bench.measuring import profile as profile_of

    if size not in SIZES:
        raise UserError(f"bench knows the sizes {', '.join(SIZES)}; got {size!r}")
    if rounds < 1:
        raise UserError(f"--rounds={rounds}: at least 1 is needed")
    cases = [parse_case(text) for text in asked or SIZES[size].cases]
    with writing_to(out, 0, "choose another folder with --out"):
        pass
    place = Place(_device(device, clock), precision, clock)
    if profile:
        for case, batch in cases:
            put(f"{size} {case}:{batch}\n{profile_of(size, case, batch, place)}")
        return 0
    shown = SHOWN | (ON_GPU if place.device == "cuda" else {})
    put(_line(f"{size}, {clock} clock", [*shown]))
    for case, batch in cases:
        measured = row(size, case, batch, rounds, place)
        put(_line(f"{case}:{batch}", [str(measured[column]) for column in shown.values()]))
        add(measured, out / "table.csv")
    put(f"all columns: {out / 'table.csv'}")
    return 0


def _device(asked: str, clock: str) -> str:
    """``cpu`` or ``cuda``.

    Raises:
        UserError: For a GPU that is not there, or a clock that does not see it.
    """
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError(
            "--device=cuda: PyTorch sees no CUDA GPU; leave --device out to measure the processor"
        )
    device = "cuda" if there and asked != "cpu" else "cpu"
    if device == "cuda" and clock == "processor":
        raise UserError("--clock=processor does not see what a GPU does; leave it out, or add --device=cpu")
    return device


def _line(first: str, cells: list[str]) -> str:
    return f"{first:<24}" + "".join(f"{cell:>11}" for cell in cells)


def add(line: dict[str, Any], path: Path) -> None:
    """Append a line to a CSV file, with a header if the file is new.

    Raises:
        UserError: If the file has other columns or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("a+", newline="", encoding="utf-8") as file:
            if not new:
                file.seek(0)
                if next(csv.reader(file), []) != list(line):
                    raise UserError(
                        f"{path} has other columns than this version writes; choose another --out"
                    )
            writer = csv.DictWriter(file, list(line), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(line)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); choose another folder with --out"
        ) from error
