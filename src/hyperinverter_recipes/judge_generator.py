"""Measure a digiface generator: faces in its samples, their variety, their distance to photos, and photos it can reach.

    python -m hyperinverter_recipes.judge_generator digiface --out outputs/published/digiface_generator

Photos are those of validation, which no generator has seen. The distance is Frechet's in EfficientNet-lite0 features,
which is no FID. What can be reached is the squared error that a search for w leaves (`w_opt`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from hyperinverter.checkpoints import load_generator
from hyperinverter.data.digiface import sample_faces
from hyperinverter.data.transforms import save_png
from hyperinverter.evaluation.frechet import frechet_distance
from hyperinverter.inverters import load_inverter
from hyperinverter.judges.catalogue import build_features
from hyperinverter.judges.identity import DescriptorIdentity
from hyperinverter_recipes.edit_strengths import validation_faces
from hyperinverter_recipes.running import said


@torch.no_grad()
def samples(path: str, count: int, seed: int = 0) -> Tensor:
    """Draw ``(count, 3, R, R)`` in [-1, 1] from a generator, without truncation."""
    generator = load_generator(path)
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    return torch.cat([generator(chunk) for chunk in z.split(32)]).clamp(-1, 1)


def detected(images: Tensor) -> dict[str, float]:
    """Share of images, enlarged to 160 px, in which MTCNN finds a face; at its own and at higher thresholds."""
    from facenet_pytorch import MTCNN  # heavy, and needed only here

    detector = MTCNN(select_largest=False, device="cpu")
    scores = []
    for chunk in tqdm(images.split(64), desc="looking for faces"):
        pixels = ((chunk + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        photos = [Image.fromarray(p).resize((160, 160), Image.Resampling.BILINEAR) for p in pixels]
        found = detector.detect(photos)[1]
        scores += [float(score[0]) if score[0] is not None else 0.0 for score in found]
    values = np.array(scores)
    return {
        "any": float((values > 0).mean()),
        "above_0.9": float((values > 0.9).mean()),
        "above_0.99": float((values > 0.99).mean()),
    }


@torch.no_grad()
def variety(images: Tensor) -> float:
    """Mean distance of the face descriptors of different images: falls when samples share one look."""
    judge = DescriptorIdentity()
    embedded = torch.cat([judge.descriptor(chunk) for chunk in images.split(64)])
    return float(torch.pdist(embedded).mean())


def frechet(images: Tensor, photos: Tensor) -> float:
    """Frechet distance of two sets in EfficientNet-lite0 features."""
    network = build_features("effnet_lite0")
    with torch.no_grad():
        one, other = (
            np.concatenate([network(chunk).numpy() for chunk in part.split(64)]) for part in (images, photos)
        )
    return frechet_distance(one, other)


def reached(path: str, photos: Tensor, steps: int) -> float:
    """Mean squared error of photos, ``(N, 3, R, R)``, after a search for the code w of each."""
    search = load_inverter(f"w_opt:steps={steps},distance=st_lpips_alex@{path}")  # the same for every file
    torch.manual_seed(0)
    drawn = torch.cat([search.invert(chunk).image for chunk in tqdm(photos.split(16), desc="looking for w")])
    return float((drawn.clamp(-1, 1) - photos).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a digiface generator.")
    parser.add_argument("generator")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=512, help="samples and photos")
    parser.add_argument("--reach", type=int, default=32, help="photos whose w is looked for")
    parser.add_argument("--steps", type=int, default=200, help="of the search")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = samples(args.generator, args.count)
    faces = torch.from_numpy(sample_faces(np.arange(args.count))).permute(0, 3, 1, 2).float() / 127.5 - 1
    photos = validation_faces(args.count)
    save_png(make_grid(drawn[:64], nrow=8, padding=2, pad_value=1), args.out / "samples.png")
    figures = {
        "generator": args.generator,
        "images": args.count,
        "mtcnn_on_samples": detected(drawn),
        "mtcnn_on_data_unfiltered": detected(faces),
        "descriptor_distance_samples": variety(drawn),
        "descriptor_distance_data": variety(faces),
        "frechet_effnet_lite0_samples": frechet(drawn, photos),
        "w_opt_l2": reached(args.generator, photos[: args.reach], args.steps),
        "command": f"python -m hyperinverter_recipes.judge_generator {args.generator} --count {args.count} "
        f"--reach {args.reach} --steps {args.steps}",
    }
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    said(main)
