"""``hyperinverter train``: one run or a sweep, as ``python train.py`` in a checkout."""

from __future__ import annotations

import runpy
import sys
from typing import Annotated

import typer

from hyperinverter.system.command import TRAIN

EXAMPLE = "hyperinverter train phase=2 phase.kimg=0.5 logger=csv"
CONTEXT = {"ignore_unknown_options": True, "help_option_names": []}  # options, --help included, are Hydra's


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="OVERRIDE", help="GROUP=OPTION or KEY=VALUE.")
    ] = None,
) -> int:
    """Train one phase, or a sweep of runs; what is left open has a default."""
    before = sys.argv
    sys.argv = [before[0], *(overrides or [])]
    try:
        # As `python -m`: what starts this process again finds the module as __main__, and needs no console command.
        runpy.run_module(TRAIN, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("training leaves by SystemExit")
