"""Packaged weights: name -> file, SHA-256, what it is and where it comes from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hyperinverter.contracts import UserError


@dataclass(frozen=True)
class Packaged:
    """One file under ``hyperinverter/assets``."""

    file: str
    sha256: str
    source: str  # the command or package it was made with; figures in outputs/published
    licence: str


PACKAGED: dict[str, Packaged] = {
    "digiface_generator": Packaged(
        "digiface_generator.safetensors",
        "7eae3674f7c646287a978161c6c754c912d4ab100aab220c5e0b198b69f3b39a",
        "python -m hyperinverter.recipes.digiface_generator, an earlier form for the first 16,000 of 40,000 images",
        "MIT",
    ),
    "digiface_phase1": Packaged(
        "digiface_phase1.safetensors",
        "37fa4022b0f7884fd35bbf2f98216acaaae1c1bfc28bafc9a315b78caebd1bcd",
        "python train.py; run card in outputs/published/digiface_phase1 and in the file's header",
        "MIT",
    ),
    "digiface_phase2": Packaged(
        "digiface_phase2.safetensors",
        "fe0ac1694029b43f11e981b7f9bc2adc2925169990d3db6165d80ea045210ac1",
        "python train.py phase=2; run card in outputs/published/digiface_phase2 and in the file's header",
        "MIT",
    ),
}


@dataclass(frozen=True)
class PublishedFile:
    """A file of others that is looked for under its own name and never fetched by this project."""

    page: str
    about: str


# Addresses: HyperInverter:scripts/download_auxiliary_pretrained_models.py. NVIDIA's own files of the same names are
# for TensorFlow and have to be converted first.
PUBLISHED_GENERATORS: dict[str, PublishedFile] = {
    "stylegan2-ffhq-config-f.pkl": PublishedFile(
        "https://drive.google.com/uc?id=1j6ekeBhMOnBRl2qEFlmfPUqrCNm-FkKh",
        "StyleGAN2 config-f for FFHQ at 1024 px in the PyTorch form, as the HyperInverter authors keep it",
    ),
    "stylegan2-church-config-f.pkl": PublishedFile(
        "https://drive.google.com/uc?id=1fJUwO39r91YyJCtMobT75jWNcpDkBBY5",
        "StyleGAN2 config-f for LSUN churches at 256 px in the PyTorch form, as the HyperInverter authors keep it",
    ),
}


def packaged(kind: str, name: str) -> tuple[Path, str]:
    """Return path and hash of a packaged file, verified.

    Args:
        kind: "generator", "phase1" or "phase2".
        name: The domain.

    Raises:
        UserError: If there is no such file, or it is not the one this version was released with.
    """
    key = f"{name}_{kind}"
    if key not in PACKAGED:
        names = sorted(k.removesuffix(f"_{kind}") for k in PACKAGED if k.endswith(f"_{kind}"))
        raise UserError(f"no packaged {kind} is called {name!r}; there is: {', '.join(names) or 'none'}")
    path = Path(str(resources.files("hyperinverter") / "assets" / PACKAGED[key].file))
    if not path.is_file():
        raise UserError(f"the packaged file {path.name} is missing; install hyperinverter again")
    found = sha256_of(path)
    if found != PACKAGED[key].sha256:
        raise UserError(
            f"the packaged file {path.name} is damaged (SHA-256 {found[:12]}..., expected "
            f"{PACKAGED[key].sha256[:12]}...); install hyperinverter again"
        )
    return path, found


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
