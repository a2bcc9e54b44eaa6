"""train.py whose jobs only write a run card: the launcher and the sweeper are real, nothing is trained.

FAKE names what goes wrong for a fusion: add=fail, gated=crash, film=hang, attention=silent.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from omegaconf import DictConfig

from hyperinverter import config

SCORES = {"ConcatFusion": 0.05, "AddFusion": 0.04, "DifferenceFusion": 0.03, "MultiplyFusion": 0.02}


def job(cfg: DictConfig) -> float:
    folder = config.run_dir()
    fusion = cfg.fusion._target_.rsplit(".", 1)[1]
    fate = dict(pair.split("=") for pair in os.environ.get("FAKE", "").split() if pair)
    told = {"name": cfg.name, "group": cfg.group, "seed": cfg.seed, "rank_by": "test/l2", "seconds": 1.0}
    told |= {"pid": os.getpid(), "overrides": config.task_overrides(), "kimg": cfg.phase.kimg}
    told["environment"] = {key: os.environ.get(key) for key in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")}
    told["begun"] = time.time()
    what = fate.get(fusion.removesuffix("Fusion").lower())
    if what == "hang":
        signal.signal(signal.SIGINT, lambda *_: write(folder, {**told, "status": "interrupted"}, 130))
        (folder / "ready").touch()
        time.sleep(60)
    if what == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        (folder / "ready").touch()
        time.sleep(60)
    if what == "fail":
        write(folder, {**told, "status": "failed", "error": "this one is broken: choose another"}, 1)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "silent":
        sys.stderr.write("Traceback\n  deep inside\nValueError: without a card\n")
        sys.exit(1)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    metrics = {"test/l2": SCORES.get(fusion, 0.06) + 0.001 * cfg.seed}
    write(folder, {**told, "status": "finished", "ended": time.time(), "metrics": metrics}, 0)
    return 0.0


def write(folder: Path, card: dict, code: int) -> None:
    (folder / "run.json").write_text(json.dumps(card))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    config.front_door(job)
