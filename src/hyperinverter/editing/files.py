"""One inversion in one file: ``NAME.inversion.safetensors``.

It holds codes, residuals, features and both images of one photo, and says which model and which photo they came from.
Residuals that a hypernetwork multiplied from factors are kept as these: exact, and a fraction of the size. The factors
that all photos of a model share are in the file as well, or once for many photos in a file next to them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from hyperinverter.contracts import Inversion, UserError, shown
from hyperinverter.ops.factored import FactoredResidual, materialised
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import as_path, parse_json, replacing

KIND = "hyperinverter.inversion"
VERSION = 2  # 1 had no factors
SHARED = ".factors.safetensors"
_PARTS = ("u", "w2", "b2")  # of a factored residual; all but the first are shared by the photos of a model


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


def save_inversion(
    inversion: Inversion,
    path: str | Path,
    origin: Origin | None = None,
    *,
    shared: bool = False,
    unchanged: bool = False,
) -> None:
    """Write the inversion of one photo, complete or not at all.

    Args:
        inversion: Of one photo.
        path: Of the file.
        origin: Where it came from.
        shared: Whether the factors that all photos of a model share go into one file for all that are in this folder,
            ``HASH.factors.safetensors`` with the start of the model's hash, which must be known.
        unchanged: Whether it is as ``invert`` or ``invert_to_factors`` returned it: its factors are then not compared
            with its residuals, which may lack those that have factors.

    Raises:
        TypeError: If it is no inversion.
        ValueError: If it holds several photos.
        UserError: If the file cannot be written.
    """
    if not isinstance(inversion, Inversion):
        raise TypeError(f"expected an inversion, as invert returns it, got {type(inversion).__name__}")
    if len(inversion.w) != 1:
        raise ValueError(f"a file holds one photo's inversion, got {len(inversion.w)}")
    place, known = as_path(path), origin or Origin()
    apart = place.parent / shared_name(known) if shared and known.model_sha256 else None
    factors = {
        name: factors
        for name, factors in inversion.factors.items()
        if (unchanged or _are_of(factors, inversion.residuals.get(name))) and (apart or _are_fewer(factors))
    }
    tensors = {"w": inversion.w, "w_image": inversion.w_image, "image": inversion.image}
    residuals = {**(inversion.factors if unchanged else {}), **inversion.residuals}
    tensors |= {
        f"residuals.{name}": materialised(residual)
        for name, residual in residuals.items()
        if name not in factors
    }
    own, common = (
        {f"factors.{name}.{part}": getattr(f, part) for name, f in factors.items() for part in parts}
        for parts in (_PARTS[:1], _PARTS[1:])
    )
    metadata = {"kind": KIND, "version": str(VERSION), "origin": json.dumps(dataclasses.asdict(known))}
    metadata["factors"] = json.dumps({name: list(f.kernel_shape) for name, f in factors.items()})
    if apart and factors:
        metadata["shared"] = apart.name
        if not apart.is_file():
            _write(apart, common, {"kind": KIND, "model_sha256": known.model_sha256})
        common = {}
    _write(place, {**tensors, **own, **common}, metadata)


def _write(place: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    arrays = {name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    try:
        with replacing(place) as part:
            save_file(arrays, part, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{place} cannot be written ({first_line(error)}); choose another place for it"
        ) from error


def _are_of(factors: FactoredResidual, residual: Tensor | None) -> bool:
    """Whether a residual is still the product of these factors: of an edited inversion it is not.

    Both are compared after a product with one vector of random signs (Freivalds 1977): a pass over the residual, where
    the product of the factors costs as much as writing the file.
    """
    if residual is None or residual.shape != factors.shape:
        return False
    signs = torch.randint(0, 2, factors.b2.shape, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)
    signs = signs.to(factors.u)
    wanted = (
        factors.u[0] @ (factors.w2 @ signs) + factors.b2 @ signs
    )  # (I,): rows of the residual in memory order
    far = (residual.reshape(-1, len(signs)) @ signs - wanted).abs().max()
    return bool(far <= 1e-4 * residual.abs().max())  # rounding gives up to 1e-5


def _are_fewer(factors: FactoredResidual) -> bool:
    """Whether the factors are fewer numbers than the residual, with those that photos share."""
    count = factors.u.numel() + factors.w2.numel() + factors.b2.numel()
    return count < math.prod(factors.kernel_shape)


def shared_name(origin: Origin) -> str:
    """Name of the file with the factors that all photos of a model share."""
    return f"{origin.model_sha256[:16]}{SHARED}"


def load_inversion(path: str | Path) -> tuple[Inversion, Origin]:
    """Read what ``save_inversion`` wrote.

    Raises:
        UserError: If the file or one that it needs is missing, damaged, or of another kind.
    """
    place = as_path(path)
    if not place.is_file():
        raise UserError(f"there is no inversion file {place}; make one with `hyperinverter invert PHOTO`")
    try:
        with safe_open(place, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != KIND:
                raise UserError(
                    f"{place} is a safetensors file, but not an inversion: give a NAME.inversion.safetensors"
                )
            if int(metadata.get("version", "1")) > VERSION:
                raise UserError(f"{place} was written by a newer version of hyperinverter: update it")
            tensors = _floats(file)
        origin = _origin(parse_json(metadata["origin"]))
        if "shared" in metadata:
            tensors |= _shared(place, metadata["shared"], origin)
        factors = _factors(parse_json(metadata.get("factors", "{}")), tensors)
        residuals = {
            name.removeprefix("residuals."): tensor
            for name, tensor in tensors.items()
            if name.startswith("residuals.")
        }
        residuals |= {name: each.materialise() for name, each in factors.items()}
        found = Inversion(tensors["w"], residuals, tensors["w_image"], tensors["image"], factors)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{place} is damaged or not an inversion ({str(error)[:200]}): invert the photo again"
        ) from error
    if wrong := _odd_part(found) or next((n for n, t in tensors.items() if not bool(t.isfinite().all())), ""):
        raise UserError(
            f"{place} holds numbers that are no inversion ({shown(wrong)}): invert the photo again"
        )
    return found, origin


def _floats(file: Any) -> dict[str, Tensor]:
    """The tensors of an open file in single precision, as they were written; others may have made them smaller."""
    return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # not a mapping


def _odd_part(found: Inversion) -> str:
    """Name of the first part that is not of one photo; empty if there is none."""
    images = {"w_image": found.w_image, "image": found.image}
    odd = [] if found.w.ndim in (2, 3) and found.w.numel() else ["w"]
    odd += [name for name, image in images.items() if image.ndim != 4 or image.shape[1] != 3]
    parts = {"w": found.w, **images, **found.residuals}
    return next(iter([*odd, *(name for name, part in parts.items() if part.shape[:1] != (1,))]), "")


def _shared(place: Path, name: str, origin: Origin) -> dict[str, Tensor]:
    """The factors of the model, from the file next to an inversion."""
    file = place.parent / Path(name).name
    if not file.is_file():
        raise UserError(
            f"{place.name} needs {file.name}, which was written next to it: copy it there, or invert the photo again"
        )
    with safe_open(file, "pt") as opened:
        if (opened.metadata() or {}).get("model_sha256") != origin.model_sha256:
            raise ValueError(f"{file.name} is of another model")
        return _floats(opened)


def _factors(shapes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, FactoredResidual]:
    """Factors of residuals, whose shapes fit each other."""
    found = {}
    for name, shape in shapes.items():
        u, w2, b2 = (tensors[f"factors.{name}.{part}"] for part in _PARTS)
        if not (
            isinstance(shape, list) and len(shape) > 1 and all(isinstance(n, int) and n > 0 for n in shape)
        ):
            raise ValueError(f"the shape of {name} is none")
        rows, width = shape[1], math.prod(shape) // shape[1]
        if u.shape != (1, rows, len(w2)) or w2.shape != (u.shape[-1], width) or b2.shape != (width,):
            raise ValueError(f"the factors of {name} do not fit each other")
        found[name] = FactoredResidual(u, w2, b2, tuple(shape))
    return found


def load_origin(path: str | Path) -> Origin:
    """Where the inversion in a file came from; its tensors are not read.

    Raises:
        UserError: If the file is damaged, or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            return _origin(parse_json((file.metadata() or {})["origin"]))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path} is damaged or not an inversion ({str(error)[:200]}): remove it") from error


def lacks_shared(path: str | Path) -> bool:
    """Whether an inversion needs a file of shared factors that is not next to it; False also if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            name = (file.metadata() or {}).get("shared")
    except (SafetensorError, OSError):
        return False
    return name is not None and not (Path(path).parent / Path(name).name).is_file()


def _origin(said: Mapping[str, Any]) -> Origin:
    known = {field.name for field in dataclasses.fields(Origin)}
    found = Origin(**{name: value for name, value in said.items() if name in known})
    texts = (
        found.model,
        found.model_sha256,
        found.generator_sha256,
        found.photo,
        found.photo_sha256,
        found.fit,
    )
    strengths = found.strength.values() if isinstance(found.strength, dict) else [found.strength]
    rows = [] if found.crop is None else found.crop
    fits = (
        all(isinstance(text, str) for text in texts)
        and all(map(_is_number, strengths))
        and (found.white is None or _is_number(found.white))
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == 3 and all(map(_is_number, row)) for row in rows)
        and len(rows) in (0, 3)
    )
    if not fits:
        raise ValueError("what it says of its origin is none")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
