"""Make a packaged file from a finished run: float16 weights, the recipe in the header.

python -m hyperinverter_recipes.package outputs/runs/RUN src/hyperinverter/assets/digiface_phase1.safetensors

Phase II is then made smaller with ``python -m hyperinverter_recipes.shrink phase2``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hyperinverter.checkpoints import load_generator, load_hyperinverter, load_w_inverter, save_model
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.system.files import sha256_of
from hyperinverter_recipes.running import said

_FACTS = ("command", "seed", "commit", "images_seen", "seconds", "device", "versions", "metrics", "loaded")


def package(run: Path, out: Path) -> str:
    """Write ``out`` and return its SHA-256."""
    card = json.loads((run / "run.json").read_text(encoding="utf-8"))
    if card["status"] != "finished":
        raise SystemExit(f"{run} is not finished: {card['status']}")
    generator = load_generator(card["loaded"]["generator"]["path"])
    model: WInverter | HyperInverter
    model = load_w_inverter(run, generator) if card["phase"] == 1 else load_hyperinverter(run, generator)
    save_model(model, out, {name: card[name] for name in _FACTS if name in card}, half=True)
    return sha256_of(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a packaged file from a finished run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    print(f"{package(args.run, args.out)}  {args.out}")


if __name__ == "__main__":
    said(main)
