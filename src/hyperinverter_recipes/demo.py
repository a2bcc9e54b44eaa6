"""The complete product in a few minutes, on the built-in faces: `make demo`.

Trains a short phase I, a short phase II and a small sweep with the same commands the README gives, shortened by
overrides; then shows the comparison and inverts and edits test photos with the packaged, fully trained models.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

OUTPUTS = Path("outputs/demo")
SHORT = ["data.num_train=2000", "data.num_val=64", "data.num_test=100", f"paths.outputs={OUTPUTS}"]
STEPS = (
    ("phase I: learn the encoder", ["phase.kimg=1", "phase.epoch_kimg=0.5"]),
    ("phase II: learn the residuals", ["phase=2", "phase.kimg=0.8", "phase.epoch_kimg=0.4"]),
    (
        "a sweep: four ways to merge the features, on the packaged phase I",
        [
            "phase=2",
            "+sweep=fusion",
            "fusion=concat,add,gated,photo_only",
            "phase.kimg=0.8",
            "phase.from_run=packaged",
        ],
    ),
)


def main() -> int:
    """Run every step; return the exit code of the first that fails."""
    if not Path("train.py").is_file():
        print("error: run the demo from the folder that holds train.py (`make demo` does)", file=sys.stderr)
        return 1
    started = time.monotonic()
    for title, overrides in STEPS:
        command = ["train.py", *overrides, *SHORT]
        print(f"\n== {title}\n   python {' '.join(command)}", flush=True)
        done = subprocess.run([sys.executable, *command], check=False)
        if done.returncode != 0:
            print(
                f"error: this step ended with exit code {done.returncode}; its message is above",
                file=sys.stderr,
            )
            return done.returncode
    picture = show_packaged_models()
    sweep = max((OUTPUTS / "sweeps").iterdir(), key=lambda path: path.stat().st_mtime)
    print(f"\n== done in {(time.monotonic() - started) / 60:.1f} minutes; look at")
    print(f"   {picture}   test photos through the packaged models, inverted and edited")
    print(f"   {sweep / 'panel.png'}   the same photos through every job of the sweep")
    print(f"   {sweep / 'table.md'}   its ranking")
    print("   next: python train.py, python train.py phase=2, python train.py phase=2 +sweep")
    return 0


def show_packaged_models(count: int = 8) -> Path:
    """Draw the packaged models' inversions and edits of the first test photos; return the picture's path."""
    from hyperinverter.pictures import save_picture
    from hyperinverter_recipes.side_by_side import packaged_models

    path = OUTPUTS / "packaged_models.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(packaged_models(count), path)
    return path


if __name__ == "__main__":
    sys.exit(main())
