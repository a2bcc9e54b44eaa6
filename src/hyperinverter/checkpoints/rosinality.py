"""Files of rosinality's stylegan2-pytorch (model.py) in our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.checkpoints.shapes import (
    USUAL_MULTIPLIER,
    Foreign,
    Load,
    Tensors,
    discriminator_config,
    generator_config,
    noise_of,
    positive,
    shape_of,
    without_filters,
)
from hyperinverter.checkpoints.unwrapping import Unwrapped
from hyperinverter.networks.frozen import differences
from hyperinverter.networks.generator import GeneratorConfig

_LAYER = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
}
_CONV = {**_LAYER, "noise.weight": "noise_strength", "activate.bias": "bias"}
_TORGB = {**_LAYER, "bias": "bias"}
_MEANS = ("latent_avg", "mean_latent")  # names of the mean of w, in the state dict or next to it


def is_generator(names: Mapping[str, Any]) -> bool:
    """Whether names are a generator's."""
    return "style.1.weight" in names or ("input.input" in names and "conv1.conv.weight" in names)


def is_discriminator(names: Mapping[str, Any]) -> bool:
    """Whether names are a discriminator's."""
    return "final_linear.0.weight" in names or "convs.0.0.weight" in names


def read_generator(found: Unwrapped, load: Load) -> Foreign:
    """The generator ``g_ema``, or whatever it was called.

    Nothing is flipped or rescaled: both repositories use the same kernels and gains.

    Raises:
        Unreadable: If tensors are missing or left over.
    """
    held = load({name: value for name, value in found.stored.items() if name not in _MEANS})
    w_dim = shape_of(held, "style.1.bias", 1)[0]
    latent_avg, w_avg = found.said(*_MEANS), torch.zeros(w_dim)
    if latent_avg is not None:
        given = _mean(latent_avg, load)
        if given.ndim == 0 or given.shape[-1] != w_dim:
            raise Unreadable(f"has a latent_avg of the shape {tuple(given.shape)} for w of {w_dim} numbers")
        w_avg = given.reshape(-1, w_dim)[0].clone()  # sometimes repeated for every style layer
        if not bool(torch.isfinite(w_avg).all()):
            latent_avg, w_avg = None, torch.zeros(w_dim)  # of no use: measured like one that is missing
    knows_noise = any(name.startswith("noises.") for name in held)
    held = without_filters(without_filters(held, ".blur.kernel", 4.0), ".upsample.kernel", 4.0)
    later = sum(bool(re.fullmatch(r"to_rgbs\.\d+\.bias", name)) for name in held)
    names: dict[str, str] = {"input.input": "synthesis.b4.const"}
    for i in range(sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in held)):
        names |= {f"style.{i + 1}.{kind}": f"mapping.fc{i}.{kind}" for kind in ("weight", "bias")}

    def layer(theirs: str, ours: str, parts: Mapping[str, str]) -> None:
        names.update({f"{theirs}.{part}": f"synthesis.{ours}.{name}" for part, name in parts.items()})

    def conv(theirs: str, ours: str, noise: int) -> None:
        layer(theirs, ours, _CONV)
        names[f"noises.noise_{noise}"] = f"synthesis.{ours}.noise_const"
        if not knows_noise:
            held[f"noises.noise_{noise}"] = noise_of(int(ours[1:].partition(".")[0]), noise)

    conv("conv1", "b4.conv1", 0)
    layer("to_rgb1", "b4.torgb", _TORGB)
    for j in range(later):
        block = f"b{8 << j}"
        conv(f"convs.{2 * j}", f"{block}.conv0", 2 * j + 1)
        conv(f"convs.{2 * j + 1}", f"{block}.conv1", 2 * j + 2)
        layer(f"to_rgbs.{j}", f"{block}.torgb", _TORGB)
    tensors = {ours: _without_ones(ours, tensor) for ours, tensor in _renamed(held, names).items()}
    tensors["mapping.w_avg"] = w_avg
    stated = found.option("lr_mlp", "lr_mul", "lr_multiplier")
    config = generator_config(
        tensors, clamp=None, lr_multiplier=positive(stated, "lr_mlp") or USUAL_MULTIPLIER
    )
    return Foreign(config, tensors, latent_avg is not None, knows_noise, stated is not None)


def _mean(latent_avg: Any, load: Load) -> Tensor:
    """The mean of w, as a tensor or an array or as plain numbers in a list."""
    if isinstance(latent_avg, (list, tuple)) and all(
        isinstance(number, (int, float)) for number in latent_avg
    ):
        return torch.tensor([float(number) for number in latent_avg])
    return load({"latent_avg": latent_avg})["latent_avg"]


def read_discriminator(found: Unwrapped, load: Load) -> tuple[GeneratorConfig, int | None, Tensors]:
    """Configuration, group size and tensors of ``d``.

    Raises:
        Unreadable: If tensors are missing or left over.
    """
    held = load(found.stored)
    for place in (".conv2.0.kernel", ".skip.0.kernel"):
        held = without_filters(held, place, 1.0)
    blocks = sum(bool(re.fullmatch(r"convs\.\d+\.skip\.1\.weight", name)) for name in held)
    top = f"b{4 << blocks}"
    names = {
        "convs.0.0.weight": f"{top}.fromrgb.weight",
        "convs.0.1.bias": f"{top}.fromrgb.bias",
        "final_conv.0.weight": "b4.conv.weight",
        "final_conv.1.bias": "b4.conv.bias",
    }
    for i, layer in enumerate(("fc", "out")):
        names |= {f"final_linear.{i}.{kind}": f"b4.{layer}.{kind}" for kind in ("weight", "bias")}
    for i in range(1, blocks + 1):
        block = f"b{8 << (blocks - i)}"
        names |= {
            f"convs.{i}.conv1.0.weight": f"{block}.conv0.weight",
            f"convs.{i}.conv1.1.bias": f"{block}.conv0.bias",
            f"convs.{i}.conv2.1.weight": f"{block}.conv1.weight",
            f"convs.{i}.conv2.2.bias": f"{block}.conv1.bias",
            f"convs.{i}.skip.1.weight": f"{block}.skip.weight",
        }
    tensors = _renamed(held, names)
    return discriminator_config(tensors, clamp=None), 4, tensors


def _renamed(held: Tensors, names: Mapping[str, str]) -> Tensors:
    missing, extra = sorted(names.keys() - held.keys()), sorted(held.keys() - names.keys())
    if missing or extra:
        problems = differences({"missing": missing, "unexpected": extra})
        raise Unreadable(f"is not a complete rosinality network: tensors {problems}")
    return {ours: held[theirs] for theirs, ours in names.items()}


def _without_ones(name: str, tensor: Tensor) -> Tensor:
    """Take off the leading ones that rosinality's parameters have for broadcasting."""
    dimensions = {"noise_strength": 0, "noise_const": 2, "const": 3, "bias": 1}.get(name.rsplit(".", 1)[1])
    if dimensions is None:
        dimensions = 4 if name.endswith((".conv0.weight", ".conv1.weight", ".torgb.weight")) else tensor.ndim
    if name.endswith(".torgb.bias") and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    while tensor.ndim > dimensions and tensor.shape[0] == 1:
        tensor = tensor[0]
    return tensor
