"""Train, be killed at random moments, go on by the same command, and say how it ended: one line of JSON.

Everything is imported once; every session is a fork of this process, so that dozens of kills take a minute.

    python tests/helpers/killing.py FOLDER KILLS SEED OVERRIDE...
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hyperinverter import config
from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.contracts import UserError
from hyperinverter.runs import read_card, read_metrics
from hyperinverter.training import checkpointing, job


def session(typed: list[str], folder: Path) -> int:
    """Start the run, or go on with it, in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        log = os.open(folder.parent / f"{folder.name}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 2)
        job.run(config.compose(typed), folder)
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        os._exit(status)


def seen(folder: Path) -> int:
    """Photos seen by the last line of the table."""
    if not (folder / "metrics.csv").is_file():
        return 0
    return max((int(row["images"]) for row in read_metrics(folder)), default=0)


def rows(folder: Path) -> list[dict[str, str]]:
    """The table without what a clock says."""
    return [{n: v for n, v in row.items() if "seconds" not in n and v} for row in read_metrics(folder)]


def after_kill(folder: Path) -> dict[str, Any]:
    """What a killed session left."""
    last = folder / "checkpoints" / checkpointing.LAST
    told: dict[str, Any] = {"seen": seen(folder), "saved": 0, "readable": True}
    if last.is_file():
        try:
            told["saved"] = int(read_checkpoint(last)["state_dict"]["images_seen"])
        except UserError as error:
            told |= {"readable": False, "why": str(error)}
    return told


def killed(
    pid: int, folder: Path, photos: int, delay: float, number: signal.Signals
) -> dict[str, Any] | None:
    """Send a signal ``delay`` seconds after so many photos were seen; None if the session was over before."""
    while seen(folder) < photos:
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return None
        time.sleep(0.005)
    time.sleep(delay)
    if os.waitpid(pid, os.WNOHANG) != (0, 0):
        return None
    os.kill(pid, number)
    asked = time.monotonic()
    _, status = os.waitpid(pid, 0)
    return {"signal": number.name, "seconds": round(time.monotonic() - asked, 2), "status": status}


def compared(whole: Path, folder: Path) -> dict[str, bool]:
    """Whether a run that was killed ended as the one that was not."""
    numbers = [(read_card(run) or {}).get("metrics", {}) for run in (whole, folder)]
    timeless = [{name: value for name, value in n.items() if "seconds" not in name} for n in numbers]
    told = {"metrics": timeless[0] == timeless[1] and bool(timeless[0]), "rows": rows(whole) == rows(folder)}
    told["weights"] = True
    for file in (checkpointing.BEST, checkpointing.LAST):
        contents = [read_checkpoint(run / "checkpoints" / file) for run in (whole, folder)]
        # the weights, and beside an average what is trained
        states = [
            c["state_dict"] | {f"learning.{n}": t for n, t in c.get("learning", {}).items()} for c in contents
        ]
        told["weights"] &= all(bool((states[0][name] == states[1][name]).all()) for name in states[0])
    return told


def main(place: Path, kills: int, seed: int, typed: list[str]) -> dict[str, Any]:
    """Run once to the end, then be killed ``kills`` times over several runs, each finished in the end."""
    draw = random.Random(seed)
    again = [*typed, "resume=auto"]
    os.waitpid(session(typed, place / "whole"), 0)
    last = seen(place / "whole")
    told: list[dict[str, Any]] = []
    ends: list[dict[str, bool]] = []
    while len(told) < kills:
        folder = place / f"killed{len(ends)}"
        for _ in range(min(3, kills - len(told))):
            number = draw.choice([signal.SIGKILL, signal.SIGTERM])
            # behind the last photo come a validation, two saves and the test
            photos, delay = draw.randint(seen(folder), last), draw.uniform(0, 0.4)
            before = seen(folder)
            fact = killed(session(again, folder), folder, photos, delay, number)
            if fact is None:
                break
            told.append({**fact, "photos": photos, "before": before, **after_kill(folder)})
        _, status = os.waitpid(session(again, folder), 0)
        ends.append({"finished": status == 0, **(compared(place / "whole", folder) if status == 0 else {})})
    return {"kills": told, "ends": ends}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])))
