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
        "python train.py loss.lpips=0.8; run card in outputs/published/digiface_phase1 and in the file's header",
        "MIT",
    ),
    "digiface_phase2": Packaged(
        "digiface_phase2.safetensors",
        "447920375aefd9db210045168eb592ccf4020275b90ab13aba594e6c7b8057bd",
        "python train.py phase=2; run card in outputs/published/digiface_phase2 and in the file's header",
        "MIT",
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
