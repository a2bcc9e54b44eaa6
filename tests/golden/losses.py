"""Golden losses: the first 20 steps of training on fixed seeds, recorded once and compared after every change.

python tests/golden/losses.py record      write this platform's file (after a change that is meant to change numbers)
python tests/golden/losses.py compare     run again and compare

Each case is a complete ``python train.py`` in a process of its own, so that the comparison does not depend on where
the code lives. On the machine that recorded a file, all numbers are equal to the last bit. Other processors choose
other kernels: there a relative difference of ``TOLERANCE`` is allowed, because twenty steps amplify rounding.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOLERANCE = 2e-2
STEPS = 20
BATCH = 4

# 64 px photos of the built-in size, networks as narrow as the options allow: what is checked is every step's arithmetic.
COMMON = [
    *(
        f"phase.kimg={STEPS * BATCH / 1000}",
        f"phase.epoch_kimg={STEPS * BATCH / 1000}",
        f"phase.batch_size={BATCH}",
    ),
    *(
        "phase.warmup_kimg=0.02",
        "data.num_workers=0",
        "data.num_val=2",
        "data.num_test=2",
        "logger=csv",
        "seed=7",
    ),
    *("trainer.log_every=1", "check_memory=false", "panels.num_photos=1", "panels.num_saved=0"),
]
NARROW = ["phase=2", "hypernet.hidden_dim=8", "hypernet.channels=16", "hypernet.extractor_channels=8"]
CASES: dict[str, list[str]] = {
    "phase1": ["phase=1"],
    "phase2": [*NARROW, "loss.id=0.1"],
    "phase2_adversarial": [*NARROW, "loss.adv=0.05", "loss.adv_from_kimg=0.02", "loss.r1_every=4"],
    "phase2_accumulate": [*NARROW, "phase.accumulate=2", "phase.ema_kimg=0.01", "fusion=difference"],
}


def photos(root: Path) -> Path:
    """Smooth 64 px pictures from a fixed seed, in the folders a training reads."""
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 16), ("val", 2), ("test", 2)):
        (root / split).mkdir(parents=True)
        for index in range(count):
            corners = torch.randint(0, 256, (4, 4, 3), generator=draw, dtype=torch.uint8).numpy()
            picture = Image.fromarray(corners).resize((64, 64), Image.Resampling.BICUBIC)
            picture.save(root / split / f"{index:02d}.png")
    return root


def losses(case: str, place: Path) -> dict[str, list[str]]:
    """Train one case; every logged number of every step, as text with all its digits."""
    data = place / "photos" if (place / "photos").is_dir() else photos(place / "photos")
    folder = place / case
    typed = [
        *(
            *COMMON,
            *CASES[case],
            f"data.root={data}",
            f"paths.cache={place / 'cache'}",
            f"hydra.run.dir={folder}",
        ),
        *(f"generator.path={HERE / 'digiface_generator_v0.safetensors'}", "domain=digiface", "data=folder"),
    ]
    if "phase=2" in typed:
        typed.append(f"phase.from_run={place / 'phase1'}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {
        "OMP_NUM_THREADS": "1"
    }
    environment |= {"HYPERINVERTER_OUTPUTS": str(place / "outputs")}
    done = subprocess.run(
        [sys.executable, "train.py", *typed],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stderr.strip()[-2000:]}")
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    names = sorted(name for name in rows[0] if name.startswith("train/") and "seconds" not in name)
    if len(rows) != STEPS:
        raise RuntimeError(f"{case}: {len(rows)} steps were logged instead of {STEPS}")
    return {name.removeprefix("train/"): [row[name] for row in rows] for name in names}


def file_of_platform() -> Path:
    """The recorded file for this system, processor family and release of torch."""
    release = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    return HERE / f"losses_{platform.system().lower()}_{platform.machine()}_torch{release}.json"


def measure(cases: list[str]) -> dict[str, dict[str, list[str]]]:
    """All numbers of these cases; phase II always uses the phase I of the first case."""
    with tempfile.TemporaryDirectory() as scratch:
        return {case: losses(case, Path(scratch)) for case in cases}


def differences(
    recorded: dict[str, dict[str, list[str]]], now: dict[str, dict[str, list[str]]]
) -> tuple[float, list[str]]:
    """The largest relative difference, and a line for each column that is not there on both sides."""
    largest, missing = 0.0, []
    for case, columns in now.items():
        before = recorded[case]
        missing += [f"{case}: {name} is on one side only" for name in sorted(columns.keys() ^ before.keys())]
        for name in columns.keys() & before.keys():
            for old, new in zip(before[name], columns[name], strict=True):
                if old != new:
                    a, b = float(old or "nan"), float(new or "nan")
                    largest = max(
                        largest, abs(a - b) / max(abs(a), abs(b), 1e-12) if a == a and b == b else 1.0
                    )
    return largest, missing


def main(action: str) -> int:
    """Record or compare; the exit status is 1 if numbers differ by more than the tolerance."""
    path = file_of_platform()
    now = measure(list(CASES))
    if action == "record":
        path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        print(f"recorded {path.name}")
        return 0
    largest, missing = differences(json.loads(path.read_text(encoding="utf-8")), now)
    for line in missing:
        print(line)
    print(
        "equal to the last digit"
        if largest == 0 and not missing
        else f"largest relative difference {largest:.2e}"
    )
    return int(bool(missing) or largest > TOLERANCE)


if __name__ == "__main__":
    if sys.argv[1:] not in (["record"], ["compare"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
