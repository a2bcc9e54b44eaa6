"""Two training steps of a paper experiment at full width on this machine, with random weights.

    python -m hyperinverter_recipes.paper_scale churches FOLDER phase.batch_size=2
    python -m hyperinverter_recipes.paper_scale faces FOLDER domain.resolution=512 phase.batch_size=1
    python -m hyperinverter_recipes.paper_scale faces FOLDER --experiment best_faces phase.batch_size=1

Writes random weights under the names of the published files into FOLDER, runs ``train.py`` on them on the CPU with the
discriminator joining at once, and prints the estimated and the measured memory from the run card. The numbers recorded
are in outputs/published/paper_scale.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import models

from hyperinverter.checkpoints import save_generator, save_model
from hyperinverter.checkpoints.registry import fetched_path
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.judges.identity import FaceRecognition
from hyperinverter.networks.backbones import IRSE50, Backbone, ResNet34
from hyperinverter.networks.encoders import WEncoder
from hyperinverter.networks.generator import Generator, GeneratorConfig
from hyperinverter_recipes.running import said

RESOLUTION = {"faces": 1024, "churches": 256}
SHORT = (
    *("phase=2", "trainer=smoke", "trainer.precision=32-true", "logger=csv", "data.num_workers=0"),
    *("phase.kimg=1", "phase.epoch_kimg=1", "loss.adv_from_kimg=0", "data.num_val=2", "data.num_test=2"),
    *("panels.num_photos=2", "panels.num_saved=2"),
)


def write_weights(domain: str, resolution: int, folder: Path) -> list[str]:
    """Write random weights and photos for a domain below ``folder``; return the overrides that lead to them."""
    torch.manual_seed(0)
    cache = folder / "cache"
    generator = folder / f"generator-{resolution}.safetensors"
    built = Generator(GeneratorConfig(img_resolution=resolution)).eval()
    save_generator(built, generator, {"recipe": "random weights"}, half=False)
    backbone: Backbone = IRSE50() if domain == "faces" else ResNet34()
    save_model(WInverter(built, WEncoder(backbone, built.w_dim)), folder / "phase1.safetensors", {})
    files: dict[str, dict[str, Tensor]] = {"lpips_alex": models.alexnet(weights=None).state_dict()}
    if domain == "faces":
        files["id_arcface"] = FaceRecognition().state_dict()
    else:
        moco = models.resnet50(weights=None).state_dict()
        files["id_moco"] = {f"module.encoder_q.{name}": tensor for name, tensor in moco.items()}
        files["start_resnet34"] = models.resnet34(weights=None).state_dict()
    for label, tensors in files.items():
        path = fetched_path(label, cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, path)
    _write_photos(folder / "photos", resolution)
    return [
        f"paths.cache={cache}",
        f"generator.path={generator}",
        f"phase.from_run={folder / 'phase1.safetensors'}",
        f"data.root={folder / 'photos'}",
        f"paths.outputs={folder / 'outputs'}",
    ]


def _write_photos(root: Path, resolution: int) -> None:
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 24), ("val", 2), ("test", 2)):
        (root / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            corners = torch.randint(0, 256, (8, 8, 3), generator=draw, dtype=torch.uint8).numpy()
            picture = Image.fromarray(corners).resize((resolution, resolution), Image.Resampling.BICUBIC)
            picture.save(root / split / f"{i:02d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Two steps of a paper experiment, with random weights.")
    parser.add_argument("domain", choices=sorted(RESOLUTION))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experiment", help="of these sizes; default: the paper's of the domain")
    parser.add_argument("overrides", nargs="*", help="as after `python train.py`")
    args = parser.parse_intermixed_args()
    resolution = RESOLUTION[args.domain]
    for item in args.overrides:
        if item.startswith("domain.resolution="):
            resolution = int(item.split("=")[1])
    args.folder.mkdir(parents=True, exist_ok=True)
    places = write_weights(args.domain, resolution, args.folder)
    experiment = args.experiment or f"paper_{args.domain}"
    command = ["train.py", f"experiment={experiment}", *SHORT, *args.overrides, *places]
    done = subprocess.run([sys.executable, *command], check=False, env=os.environ)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    run = max((args.folder / "outputs" / "runs").iterdir())
    card = json.loads((run / "run.json").read_text(encoding="utf-8"))
    estimate, measured = sum(card["memory_need_mb"].values()), card["peak_memory_mb"]
    print(f"estimated {estimate:,.0f} MB, measured {measured:,.0f} MB, ratio {estimate / measured:.3f}")
    print(json.dumps(card["memory_need_mb"]))


if __name__ == "__main__":
    said(main)
