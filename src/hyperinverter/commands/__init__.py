"""The console command ``hyperinverter``: everything that is not training.

hyperinverter doctor [DOMAIN] [KEY=VALUE ...]     what this machine has, and what a domain still needs
hyperinverter weights fetch DOMAIN|LABEL ...      download weight files, once and checked
hyperinverter weights list                        every weight file there is
hyperinverter bench [NAME:BATCH ...]              speed, memory and arithmetic on this machine
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hyperinverter.contracts import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; every expected failure is one sentence on stderr.

    Args:
        arguments: As typed after the command; default those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="hyperinverter", description="What is not training: see each command's --help."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    doctor = commands.add_parser("doctor", help="what this machine has, and what a domain still needs")
    doctor.add_argument("asked", nargs="*", metavar="DOMAIN|KEY=VALUE", help="default: every domain")
    weights = commands.add_parser("weights", help="fetch or list weight files")
    weights.add_argument("action", choices=("fetch", "list"))
    weights.add_argument("asked", nargs="*", metavar="DOMAIN|LABEL|KEY=VALUE")
    bench = commands.add_parser("bench", help="speed, memory and arithmetic against the slow obvious way")
    bench.add_argument(
        "asked", nargs="*", metavar="NAME:BATCH", help="such as step:8; default: all of the size"
    )
    bench.add_argument(
        "--size", default="digiface", help="digiface (64 px) or full256 (full width, hidden 128)"
    )
    bench.add_argument("--rounds", type=int, default=5, help="the median of so many counts (default 5)")
    bench.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="processor: for a busy machine"
    )
    bench.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of table.csv")
    bench.add_argument("--profile", action="store_true", help="show where the time goes instead")
    typed = parser.parse_args(arguments)
    try:
        status = _run(typed)
        sys.stdout.flush()  # here, where a reader that has gone is expected
        return status
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has nowhere to go
        return 141  # as of a process that the signal for it ended
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return 130


def _run(typed: argparse.Namespace) -> int:
    # Imported when needed: most bring torch, and --help should not wait for it.
    if typed.command == "doctor":
        from hyperinverter.commands.doctor import run as examine

        return examine(typed.asked)
    if typed.command == "bench":
        from hyperinverter.commands.bench import run as measure

        return measure(
            typed.asked,
            size=typed.size,
            rounds=typed.rounds,
            clock=typed.clock,
            out=typed.out,
            profiling=typed.profile,
        )
    from hyperinverter.commands.weights import run as handle

    return handle(typed.action, typed.asked)
