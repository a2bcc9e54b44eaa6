"""What the shapes of a network's tensors say of it: the configuration is read from them, never from a file's word."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.networks.generator import GeneratorConfig
from hyperinverter.ops.resample import fir_kernel

Tensors = dict[str, Tensor]
Load = Callable[[Mapping[str, Any]], Tensors]


@dataclass(frozen=True)
class Foreign:
    """A generator of other people's: what it is, its tensors in our names, and what its file leaves open."""

    config: GeneratorConfig
    tensors: Tensors
    knows_mean: bool = True  # of w; else zeros stand for it
    knows_noise: bool = True  # else it was drawn here
    knows_multiplier: bool = True  # of the mapping network's learning rate
    knows_clamp: bool = True


ORDINARY = "give a StyleGAN2 network as the repositories train it by default"
USUAL_MULTIPLIER = 0.01  # of the mapping network's learning rate
CONFIG_F = (32768, 512)  # channel_base, channel_max of the published networks
_LARGEST_MAP = 2048  # px, of a network whose file leaves the noise out
_ALTERNATIVES = (CONFIG_F, (16384, 512))  # ADA's paper256, and rosinality's channel_multiplier 1


def generator_config(
    tensors: Tensors,
    clamp: float | None,
    lr_multiplier: float,
    hint: tuple[Any, Any] = CONFIG_F,
) -> GeneratorConfig:
    """Read a generator's configuration off its tensors, in our names.

    Raises:
        Unreadable: If a tensor that tells it is missing.
    """
    blocks = _resolutions(tensors, r"synthesis\.b(\d+)\.conv1\.weight")
    _check_square(tensors, blocks[-1] // 4)
    widths = [shape_of(tensors, f"synthesis.b{resolution}.conv1.weight", 4)[0] for resolution in blocks]
    base, most, special = _channels(blocks, widths, hint)
    colours = shape_of(tensors, f"synthesis.b{blocks[-1]}.torgb.weight", 4)[0]
    if colours != 3:
        raise Unreadable(f"draws images of {colours} channels", "give a generator of RGB images")
    w_dim = shape_of(tensors, "mapping.w_avg", 1)[0]
    layers = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in tensors)
    for i in range(layers):
        if shape_of(tensors, f"mapping.fc{i}.weight", 2)[0] != w_dim:
            raise Unreadable("has a mapping network wider than w", ORDINARY)
    return GeneratorConfig(
        z_dim=shape_of(tensors, "mapping.fc0.weight", 2)[1],
        w_dim=w_dim,
        img_resolution=blocks[-1],
        mapping_layers=layers,
        mapping_lr_multiplier=lr_multiplier,
        channel_base=base,
        channel_max=most,
        conv_clamp=clamp,
        widths=special,
    )


def _check_square(tensors: Tensors, enlargement: int) -> None:
    """Refuse a generator whose images are not square, as its first constant shows."""
    const = tensors.get("synthesis.b4.const")
    if const is None or const.ndim != 3 or const.shape[1:] == (4, 4):
        return
    height, width = const.shape[1:]
    if height != width:
        raise Unreadable(
            f"draws images that are not square ({height * enlargement}x{width * enlargement} pixels): they are not "
            "supported",
            "give a generator of square images",
        )
    raise Unreadable(f"begins with a constant of {height}x{width} pixels where StyleGAN2 has 4x4", ORDINARY)


def multiplier_of(tensors: Tensors) -> float:
    """What the learning rate of the mapping network was multiplied by, as the size of its weights shows.

    Both repositories begin with weights of the size 1 / multiplier and multiply by it when the network runs; training
    changes that little. The nearest power of ten.
    """
    weights = [t for name, t in tensors.items() if re.fullmatch(r"mapping\.fc\d+\.weight", name)]
    sizes = sorted(weight.square().mean().sqrt().item() for weight in weights)
    middle = sizes[len(sizes) // 2] if sizes else math.nan
    if sum(weight.numel() for weight in weights) < 256 or not 0 < middle < math.inf:
        return USUAL_MULTIPLIER
    return float(10.0 ** -round(math.log10(middle)))


def noise_of(resolution: int, layer: int) -> Tensor:
    """Noise ``(R, R)`` for a layer whose file has none: the same at every load.

    Raises:
        Unreadable: If no network has layers of this resolution. The names in a file may say anything.
    """
    if resolution > _LARGEST_MAP:
        raise Unreadable(f"has a layer of {resolution} px, which no network has")
    draw = torch.Generator().manual_seed(layer)
    return torch.randn(resolution, resolution, generator=draw)


def discriminator_config(tensors: Tensors, clamp: float | None) -> GeneratorConfig:
    """Read a discriminator's widths off its tensors.

    Raises:
        Unreadable: If a tensor that tells them is missing.
    """
    blocks = [4, *_resolutions(tensors, r"b(\d+)\.conv0\.weight", first=8)]
    widths = [shape_of(tensors, "b4.conv.weight", 4)[0]]
    widths += [shape_of(tensors, f"b{resolution}.conv0.weight", 4)[0] for resolution in blocks[1:]]
    base, most, special = _channels(blocks, widths, CONFIG_F)
    return GeneratorConfig(
        img_resolution=blocks[-1], channel_base=base, channel_max=most, conv_clamp=clamp, widths=special
    )


def _resolutions(tensors: Tensors, pattern: str, first: int = 4) -> list[int]:
    found = sorted(int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name)))
    if not 1 <= len(found) <= 12 or found != [first << i for i in range(len(found))] or found[-1] < 8:
        raise Unreadable(f"is no StyleGAN2 network of a usual resolution: it has the blocks {found[:20]}")
    return found


def shape_of(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != dimensions:
        found = "is missing" if tensor is None else f"has the shape {tuple(tensor.shape)}"
        raise Unreadable(f"is not a complete network: {name} {found}")
    return tuple(tensor.shape)


def _channels(
    blocks: list[int], widths: list[int], hint: tuple[Any, Any]
) -> tuple[int, int, tuple[int, ...] | None]:
    """Channel base and maximum that give these widths; the widths themselves where none does."""
    derived = (widths[-1] * blocks[-1], max(widths))
    for base, most in (hint, *_ALTERNATIVES, derived):
        known = type(base) is int and type(most) is int
        if known and widths == [min(base // resolution, most) for resolution in blocks]:
            return base, most, None
    return *CONFIG_F, tuple(widths)


def without_filters(tensors: Tensors, ending: str, gain: float) -> Tensors:
    """Leave out the constant FIR filters, which ours does not store, if they are the ones ours uses."""
    expected = fir_kernel(gain)
    for name, tensor in tensors.items():
        if not name.endswith(ending):
            continue
        if tensor.shape != expected.shape or not torch.allclose(tensor, expected, rtol=1e-4):
            raise Unreadable(f"resamples with another filter than [1, 3, 3, 1] ({name})", ORDINARY)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(ending)}


def under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with ``prefix`` and a dot, without them."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


def positive(value: Any, name: str) -> float | None:
    """``value``, checked to be a positive number or None.

    Raises:
        Unreadable: If it is something else.
    """
    if value is None or (isinstance(value, (int, float)) and value > 0 and math.isfinite(value)):
        return value
    raise Unreadable(f"is damaged: its {name} is no positive number")
