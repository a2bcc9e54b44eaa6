"""Directions in the files that people have: InterFaceGAN, GANSpace, SeFa, StyleCLIP and their relatives.

Nothing in a file is executed: ``.npy`` and ``.npz`` are read without pickles, ``.pt`` as tensors only. The layouts are
those of the projects named at each reader.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hyperinverter.checkpoints.pickles import Unreadable, load_plain
from hyperinverter.contracts import UserError
from hyperinverter.editing.directions import Direction
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import parse_json, write_bytes

OURS = "hyperinverter.directions"
_LARGEST = 256 * 2**20  # bytes; the largest known file of directions has 11 MB


def read_directions(path: str | Path, *, w_dim: int, num_ws: int) -> dict[str, Direction]:
    """Read every direction of a file, for a generator of this width and number of style layers.

    These are known:

    - our own ``.safetensors``;
    - ``.npy`` and ``.pt`` with one direction, ``(D,)``, ``(1, D)``, ``(L, D)``, ``(1, L, D)`` or ``(1, L * D)``:
      InterFaceGAN, e4e, PTI, HyperInverter, StyleFeatureEditor;
    - GANSpace's components, whose power 1 is one standard deviation: ``.pt`` with mean, comp, std, or ``.npz`` with
      lat_mean, lat_comp, lat_stdev;
    - closed-form factors: ``.pt`` with eigvec.

    Args:
        path: The file. ``FILE:3-5`` takes the style layers 3 to 5 only.
        w_dim: D.
        num_ws: L.

    Returns:
        Name -> direction. A file of one direction gives it the file's name.

    Raises:
        UserError: If the file is missing, of another kind, needs a pickle to be executed, or does not fit.
    """
    text = str(path)
    place, layers = Path(text).expanduser(), None
    if not place.is_file() and (head := text.rpartition(":"))[0]:
        place, layers = Path(head[0]).expanduser(), _layers(head[2], text)
    if not place.is_file():
        raise UserError(f"there is no file {place}: give a file of directions, or a name of the catalogue")
    if place.stat().st_size > _LARGEST:
        raise UserError(f"{place} is larger than any file of directions (256 MB): is it the right file?")
    found = _read(place, w_dim, num_ws)
    fitting = {name: direction.fit_for(w_dim, num_ws) for name, direction in found.items()}
    if layers is not None:
        fitting = {name: d.in_layers(layers[0], layers[1] + 1, num_ws) for name, d in fitting.items()}
    return fitting


def save_directions(directions: Mapping[str, Direction], path: str | Path, facts: Mapping[str, Any]) -> None:
    """Write directions to one ``.safetensors`` file that ``read_directions`` reads.

    Args:
        directions: Name -> direction.
        path: Where.
        facts: What the file as a whole says: generator hash, method, data.
    """
    described = {
        d.name: {"safe": list(d.safe), "unit": d.unit, "about": d.about, "facts": dict(d.facts)}
        for d in directions.values()
    }
    metadata = {"kind": OURS, "facts": json.dumps(dict(facts)), "directions": json.dumps(described)}
    tensors = {d.name: d.shift.float().contiguous() for d in directions.values()}
    write_bytes(Path(path), save(tensors, metadata))


def _layers(text: str, typed: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not first.isdigit() or not (last or first).isdigit():
        raise UserError(f"there is no file {typed}; style layers are written as FILE:3-5")
    return int(first), int(last or first)


def _read(place: Path, w_dim: int, num_ws: int) -> dict[str, Direction]:
    name = _name_of(place)
    ending = place.suffix.lower()
    if ending == ".safetensors":
        return _ours(place)
    if ending == ".npy":
        return {name: _single(name, _array(place), place, w_dim, num_ws)}
    if ending == ".npz":
        return _components(place, _arrays(place), "lat_mean", "lat_comp", "lat_stdev")
    if ending in (".pt", ".pth"):
        content = _tensors(place)
        if isinstance(content, Tensor):
            return {name: _single(name, content, place, w_dim, num_ws)}
        if isinstance(content, dict) and {"mean", "comp", "std"} <= content.keys():
            return _components(place, content, "mean", "comp", "std")
        if isinstance(content, dict) and isinstance(content.get("eigvec"), Tensor):
            return _factors(content["eigvec"], place)
        if isinstance(content, dict) and "state_dict" in content:
            raise UserError(
                f"{place} holds a network (a StyleCLIP mapper?), not a direction: apply it to a code and save the "
                "difference as a .pt tensor (1, L, D)"
            )
        raise UserError(
            f"{place} holds no direction: a tensor, components (mean, comp, std) or factors (eigvec)"
        )
    if ending == ".pkl":
        raise UserError(
            f"{place} is a pickle, which could execute anything when it is opened: save its array with numpy.save"
        )
    raise UserError(f"{place} is no file of directions: .safetensors, .npy, .npz and .pt are read")


def _name_of(place: Path) -> str:
    """``stylegan_ffhq_smile_w_boundary.npy`` -> ``stylegan_ffhq_smile_w_boundary``, as a direction may be called."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in place.stem)[:64]
    return plain.lstrip("_-.") or "direction"


def _ours(place: Path) -> dict[str, Direction]:
    try:
        with safe_open(place, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != OURS:
                raise UserError(f"{place} is a safetensors file, but not one of directions")
            described = parse_json(metadata["directions"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        return {name: _described(name, shift, described[name]) for name, shift in tensors.items()}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{place} is damaged or not a file of directions ({str(error)[:200]}): copy it again"
        ) from error


def _described(name: str, shift: Tensor, said: Mapping[str, Any]) -> Direction:
    low, high = (float(value) for value in said["safe"])
    return Direction(name, shift, (low, high), str(said["unit"]), str(said["about"]), dict(said["facts"]))


def _array(place: Path) -> Tensor:
    try:
        with place.open("rb") as file:
            return torch.from_numpy(_read_array(file, place.stat().st_size))
    except Exception as error:  # numpy answers a damaged header with whatever Python's own reader of it meets
        if "allow_pickle" in str(error) or "Object" in str(error):
            raise UserError(
                f"{place} is an array of Python objects, which could execute anything when it is opened: save plain "
                "numbers with numpy.save(FILE, array.astype('float32'))"
            ) from error
        raise UserError(f"{place} is no readable .npy file ({first_line(error)}): copy it again") from error


def _arrays(place: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(place) as archive:
            members = [member for member in archive.infolist() if member.filename.startswith("lat_")]
            if sum(member.file_size for member in members) > _LARGEST:
                raise ValueError("it unpacks to more than 256 MB")
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    array = _read_array(file, member.file_size)
                arrays[member.filename.removesuffix(".npy")] = torch.from_numpy(array)
            return arrays
    except Exception as error:  # as above
        raise UserError(
            f"{place} is no readable .npz file of numbers ({first_line(error)}): copy it again"
        ) from error


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """An array in numpy's format, if its numbers are there; a header may promise more than fits in memory."""
    held = io.BytesIO(file.read(size))
    form = np.lib.format
    old = form.read_magic(held) == (1, 0)
    shape, _, dtype = (form.read_array_header_1_0 if old else form.read_array_header_2_0)(held)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size:
        raise ValueError("it is cut short")
    held.seek(0)
    return form.read_array(held, allow_pickle=False).astype(np.float32)


def _tensors(place: Path) -> Any:
    try:
        return load_plain(place)
    except (Unreadable, OSError) as error:
        raise UserError(
            f"{place} holds more than tensors, or is damaged; nothing of it was executed: save the direction alone "
            "with torch.save(tensor, FILE)"
        ) from error


def _single(name: str, values: Tensor, place: Path, w_dim: int, num_ws: int) -> Direction:
    """One direction in any of the shapes people store it in."""
    flat = values.detach().float()
    while flat.ndim > 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim == 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim == 1 and flat.numel() == num_ws * w_dim and flat.numel() != w_dim:
        flat = flat.view(num_ws, w_dim)  # StyleFeatureEditor's boundaries of W+
    if flat.ndim == 2 and torch.equal(flat, flat[:1].expand_as(flat)):
        flat = flat[0].clone()  # e4e's pose.pt: the same row for every layer
    if flat.ndim not in (1, 2):
        raise UserError(
            f"{place} holds a tensor of shape {tuple(values.shape)}, a direction is (D,) or (L, D)"
        )
    try:
        return Direction(name, flat)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def _components(
    place: Path, content: Mapping[str, Any], mean: str, comp: str, std: str
) -> dict[str, Direction]:
    """GANSpace (Härkönen et al. 2020): orthonormal components and their standard deviations in W."""
    lacking = {mean, comp, std} - content.keys()
    if lacking:
        raise UserError(
            f"{place} lacks {', '.join(sorted(lacking))}: GANSpace's components have mean, comp and std in W"
        )
    axes, sizes = content[comp].float().flatten(1), content[std].float().flatten()  # (K, D), (K,)
    if len(axes) != len(sizes) or not bool(((axes @ axes.T) - torch.eye(len(axes))).abs().max() < 1e-2):
        raise UserError(f"{place} holds components that are not orthonormal: is it GANSpace's file of W?")
    return {
        f"pc{index}": Direction(
            f"pc{index}", sizes[index] * axes[index], unit="one standard deviation of w along it"
        )
        for index in range(len(axes))
        if float(sizes[index]) > 0
    }


def _factors(vectors: Tensor, place: Path) -> dict[str, Direction]:
    """Closed-form factors (Shen & Zhou 2021) as rosinality's code stores them: the columns are directions."""
    if vectors.ndim != 2:
        raise UserError(f"{place} holds eigvec of shape {tuple(vectors.shape)}, expected (D, K)")
    columns = vectors.float().T
    return {f"sefa{index}": Direction(f"sefa{index}", column.clone()) for index, column in enumerate(columns)}
