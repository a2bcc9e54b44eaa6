"""Directions in the files that people have: InterFaceGAN, GANSpace, SeFa, StyleCLIP and their relatives.

Nothing in a file is executed: ``.npy`` and ``.npz`` are read without pickles, ``.pt`` as tensors only, and pickles by
a reader of our own that calls nothing. The layouts are those of the projects named at each reader.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hyperinverter.checkpoints.pickles import Unreadable, as_tensor, load_plain
from hyperinverter.checkpoints.pickles import read as read_pickle
from hyperinverter.contracts import UserError
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.styles import StyleSpace
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import as_path, parse_json, write_bytes

OURS = "hyperinverter.directions"
_LAYER = re.compile(r"b\d+\.(conv[01]|torgb)")
_MOST_LAYERS = 64
_LAYERS = "a list of layers with numpy.savez(FILE, *layers)"
_LARGEST = 256 * 2**20  # bytes; the largest known file of directions has 11 MB


def read_directions(
    path: str | Path, *, w_dim: int, num_ws: int, space: StyleSpace | None = None
) -> dict[str, Direction]:
    """Read every direction of a file, for a generator of this width and number of style layers.

    These are known:

    - our own ``.safetensors``;
    - ``.npy`` and ``.pt`` with one direction, ``(D,)``, ``(1, D)``, ``(L, D)``, ``(1, L, D)`` or ``(1, L * D)``:
      InterFaceGAN, e4e, PTI, HyperInverter, StyleFeatureEditor;
    - GANSpace's components, whose power 1 is one standard deviation: ``.pt`` with mean, comp, std, or ``.npz`` with
      lat_mean, lat_comp, lat_stdev;
    - closed-form factors: ``.pt`` with eigvec;
    - shifts of styles, one array for each layer, in the order of StyleSpace, for all layers or all but torgb's:
      ``.npz``, ``.pt`` and ``.pkl`` (what StyleCLIP calls boundary), or all in one vector: ``.npy``;
    - lists of channels: ``.csv`` with the columns name, layer, channel, and ``amount`` in standard deviations of the
      channel (1 if left out) or ``step`` in numbers of S. Lines of one name are one direction.

    Args:
        path: The file. ``FILE:3-5`` takes the style layers 3 to 5 only.
        w_dim: D.
        num_ws: L.
        space: S of the generator; None: files of styles are refused.

    Returns:
        Name -> direction. A file of one direction gives it the file's name.

    Raises:
        UserError: If the file is missing, of another kind, needs a pickle to be executed, or does not fit.
    """
    place, layers = as_path(path), None
    text = str(path)
    if not place.is_file() and (head := text.rpartition(":"))[0]:
        place, layers = as_path(head[0]), _layers(head[2], text)
    if not place.is_file():
        raise UserError(f"there is no file {place}: give a file of directions, or a name of the catalogue")
    if place.stat().st_size > _LARGEST:
        raise UserError(f"{place} is larger than any file of directions (256 MB): is it the right file?")
    found = _read(place, w_dim, num_ws, space)
    widths = {} if space is None else space.widths
    fitting = {name: direction.fit_for(w_dim, num_ws, widths) for name, direction in found.items()}
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
    for d in directions.values():
        tensors |= {f"{d.name}/{layer}": shift.float().contiguous() for layer, shift in d.styles.items()}
    write_bytes(Path(path), save(tensors, metadata))


def _layers(text: str, typed: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not first.isdigit() or not (last or first).isdigit():
        raise UserError(f"there is no file {typed}; style layers are written as FILE:3-5")
    return int(first), int(last or first)


def _read(place: Path, w_dim: int, num_ws: int, space: StyleSpace | None) -> dict[str, Direction]:
    name = _name_of(place)
    ending = place.suffix.lower()
    if ending == ".safetensors":
        return _ours(place)
    if ending == ".csv":
        return channel_lists(place, _needed(space, place))
    if ending == ".npy":
        return {name: _single(name, read_array(place), place, w_dim, num_ws, space)}
    if ending == ".npz":
        arrays = _arrays(place)
        if arrays and not any(key.startswith("lat_") for key in arrays):
            return {name: _needed(space, place).shifts(name, _in_order(arrays))}
        return _components(place, arrays, "lat_mean", "lat_comp", "lat_stdev")
    if ending == ".pkl":
        return {name: _needed(space, place).shifts(name, pickled_arrays(place))}
    if ending in (".pt", ".pth"):
        content = _tensors(place)
        if isinstance(content, Tensor):
            return {name: _single(name, content, place, w_dim, num_ws, space)}
        parts = list(content.values()) if isinstance(content, dict) else content
        if isinstance(parts, (list, tuple)) and parts and all(isinstance(part, Tensor) for part in parts):
            if not isinstance(content, dict):
                return {name: _needed(space, place).shifts(name, parts)}
            if all(isinstance(key, str) and _LAYER.fullmatch(key) for key in content):
                return {name: _needed(space, place).shifts(name, content)}
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
    raise UserError(
        f"{place} is no file of directions: .safetensors, .npy, .npz, .pt, .pkl and .csv are read"
    )


def _needed(space: StyleSpace | None, place: Path) -> StyleSpace:
    if space is None:
        raise UserError(f"{place} moves styles: give the generator that they belong to")
    return space


def _in_order(arrays: Mapping[str, Tensor]) -> Mapping[str, Tensor] | list[Tensor]:
    """Arrays by the names of layers, or in the order of the numbers in their names: ``arr_0``, ``arr_1`` ..."""
    numbers = {key: key.removeprefix("arr_") for key in arrays}
    if not all(number.isdecimal() for number in numbers.values()):
        return arrays
    return [arrays[key] for key in sorted(arrays, key=lambda key: int(numbers[key]))]


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
        return {
            name: _described(
                name,
                shift,
                described[name],
                {
                    key.removeprefix(f"{name}/"): part
                    for key, part in tensors.items()
                    if key.startswith(f"{name}/")
                },
            )
            for name, shift in tensors.items()
            if "/" not in name
        }
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{place} is damaged or not a file of directions ({str(error)[:200]}): copy it again"
        ) from error


def _described(name: str, shift: Tensor, said: Mapping[str, Any], styles: Mapping[str, Tensor]) -> Direction:
    low, high = (float(value) for value in said["safe"])
    return Direction(
        name, shift, (low, high), str(said["unit"]), str(said["about"]), dict(said["facts"]), styles
    )


def read_array(place: Path) -> Tensor:
    """The numbers of a ``.npy`` file, in float32.

    Raises:
        UserError: If it is damaged, or holds objects.
    """
    if not place.is_file():
        raise UserError(f"there is no file {place}: give a .npy file of numbers")
    try:
        with place.open("rb") as file:
            return torch.from_numpy(_read_array(file, place.stat().st_size))
    except Exception as error:  # numpy answers a damaged header with whatever Python's own reader of it meets
        if "allow_pickle" in str(error) or "Object" in str(error):
            raise UserError(
                f"{place} is an array of Python objects, which could execute anything when it is opened: save plain "
                f"numbers with numpy.save(FILE, array.astype('float32')), {_LAYERS}"
            ) from error
        raise UserError(f"{place} is no readable .npy file ({first_line(error)}): copy it again") from error


def _arrays(place: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(place) as archive:
            held = archive.infolist()
            members = [member for member in held if member.filename.startswith("lat_")] or held
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


def pickled_arrays(place: Path) -> list[Tensor]:
    """The arrays of a pickled list, of the last one if it is a list of lists; nothing of it is executed.

    A list of layers, as StyleCLIP's GetBoundary makes it; or its ``S_mean_std``, means and standard deviations.

    Raises:
        UserError: If it holds something else.
    """
    refusal = (
        f"{place} is a pickle, but not of a list of arrays; nothing of it was executed: save its array with "
    )
    refusal += f"numpy.save, {_LAYERS}"
    try:
        content = read_pickle(place)
        while isinstance(content, (list, tuple)) and content and isinstance(content[-1], (list, tuple)):
            content = content[-1]
        held = [as_tensor(part) for part in content] if isinstance(content, (list, tuple)) else [None]
        if not 0 < len(held) <= _MOST_LAYERS or sum(part.nbytes for part in held if part) > _LARGEST:
            raise UserError(refusal)
        found = [part.load().float() for part in held if part is not None]
    except (Unreadable, OSError) as error:
        raise UserError(refusal) from error
    if len(found) != len(held):
        raise UserError(refusal)
    return found


def channel_lists(place: Path, space: StyleSpace) -> dict[str, Direction]:
    """Directions of single channels, a line for each channel."""
    lists: dict[str, list[tuple[str, int, float]]] = {}
    number = 1
    try:
        with place.open(encoding="utf-8-sig", newline="", errors="replace") as lines:
            table = csv.DictReader(lines)
            columns = set(table.fieldnames or ())
            if not {"name", "layer", "channel"} <= columns or {"amount", "step"} <= columns:
                raise UserError(
                    f"{place} needs the columns name, layer, channel, and amount or step; it has: "
                    f"{', '.join(columns)[:200]}"
                )
            for row in table:
                number = table.line_num
                amount = float(row.get("step") or row.get("amount") or 1)
                moved = str(row["layer"]).strip(), int(row["channel"]), amount
                lists.setdefault(str(row["name"]).strip(), []).append(moved)
    except (TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{place}, line {number}: a line is a name, a layer, a channel and a number"
        ) from error
    if not lists:
        raise UserError(f"{place} has no line below the names of its columns: one for each channel")
    return {name: space.channels(name, moved, raw="step" in columns) for name, moved in lists.items()}


def _single(
    name: str, values: Tensor, place: Path, w_dim: int, num_ws: int, space: StyleSpace | None = None
) -> Direction:
    """One direction in any of the shapes people store it in."""
    flat = values.detach().float()
    while flat.ndim > 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim == 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim == 1 and flat.numel() == num_ws * w_dim and flat.numel() != w_dim:
        flat = flat.view(num_ws, w_dim)  # StyleFeatureEditor's boundaries of W+
    if flat.ndim == 1 and flat.numel() != w_dim and space is not None and space.fits(flat.numel()):
        return space.shifts(name, flat)
    if flat.ndim == 2 and len(flat) > _MOST_LAYERS:
        raise UserError(
            f"{place} holds {len(flat)} rows, not a direction; StyleCLIP's fs3.npy becomes one with a text: "
            "hyperinverter directions fit fs3.npy text.npy"
        )
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
