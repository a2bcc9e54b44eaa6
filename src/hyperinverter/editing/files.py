"""One inversion in one file: ``NAME.inversion.safetensors``.

It holds codes, residuals, features and both images of one photo, and says which model and which photo they came from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hyperinverter.contracts import Inversion, UserError
from hyperinverter.ops.factored import materialised
from hyperinverter.system.files import parse_json, write_bytes

KIND = "hyperinverter.inversion"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an inversion came from.

    Args:
        model: What was typed for the model: ``digiface``, a run folder, a file.
        model_sha256: Of the model's weights.
        generator_sha256: Of the generator's file.
        photo: Name of the photo's file.
        photo_sha256: Of that file.
        crop: Photo -> crop as a 3x3 matrix in pixels, row by row; None if the photo was not aligned.
        fit, white: How the photo was made square and 8 bits, see ``data.transforms.read_photo``.
        strength: Of the residuals when ``image`` was drawn: one number, or one per group of layers.
    """

    model: str = ""
    model_sha256: str = ""
    generator_sha256: str = ""
    photo: str = ""
    photo_sha256: str = ""
    crop: list[list[float]] | None = None
    strength: float | dict[str, float] = 1.0
    fit: str = "crop"
    white: int | None = None


def save_inversion(inversion: Inversion, path: str | Path, origin: Origin | None = None) -> None:
    """Write the inversion of one photo, complete or not at all.

    Raises:
        ValueError: If it holds several photos.
    """
    if len(inversion.w) != 1:
        raise ValueError(f"a file holds one photo's inversion, got {len(inversion.w)}")
    image = (
        inversion.image.clone()
    )  # without residuals it is the same tensor as w_image, which a file cannot hold twice
    tensors = {"w": inversion.w, "w_image": inversion.w_image, "image": image}
    tensors |= {f"residuals.{name}": materialised(residual) for name, residual in inversion.residuals.items()}
    metadata = {
        "kind": KIND,
        "version": str(VERSION),
        "origin": json.dumps(dataclasses.asdict(origin or Origin())),
    }
    plain = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(Path(path), save(plain, metadata))


def load_inversion(path: str | Path) -> tuple[Inversion, Origin]:
    """Read what ``save_inversion`` wrote.

    Raises:
        UserError: If the file is missing, damaged, or of another kind.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError(f"there is no inversion file {place}; make one with `hyperinverter invert PHOTO`")
    try:
        with safe_open(place, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != KIND:
                raise UserError(
                    f"{place} is a safetensors file, but not an inversion: give a NAME.inversion.safetensors"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        origin = _origin(parse_json(metadata["origin"]))
        residuals = {
            name.removeprefix("residuals."): tensor
            for name, tensor in tensors.items()
            if name.startswith("residuals.")
        }
        found = Inversion(
            w=tensors["w"], residuals=residuals, w_image=tensors["w_image"], image=tensors["image"]
        )
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{place} is damaged or not an inversion ({str(error)[:200]}): invert the photo again"
        ) from error
    if found.w.ndim not in (2, 3) or any(not bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise UserError(f"{place} holds numbers that are no inversion: invert the photo again")
    return found, origin


def load_origin(path: str | Path) -> Origin:
    """Where the inversion in a file came from; its tensors are not read.

    Raises:
        UserError: If the file is damaged, or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            return _origin(parse_json((file.metadata() or {})["origin"]))
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged or not an inversion ({str(error)[:200]}): remove it") from error


def _origin(said: Mapping[str, Any]) -> Origin:
    known = {field.name for field in dataclasses.fields(Origin)}
    return Origin(**{name: value for name, value in said.items() if name in known})
