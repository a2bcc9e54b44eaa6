"""Load and save StyleGAN2 generators and their discriminators: files are tensors and plain values, never run."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hyperinverter.checkpoints import nvidia, pickles, rosinality
from hyperinverter.checkpoints.opening import GENERATOR_INSIDE, find_file, state_dict_of
from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.checkpoints.reading import (
    IMPOSSIBLE,
    existing,
    nothing_known,
    read_safetensors,
    reported,
)
from hyperinverter.checkpoints.registry import PACKAGED
from hyperinverter.checkpoints.shapes import under
from hyperinverter.contracts import UserError
from hyperinverter.networks.critic import Critic
from hyperinverter.networks.frozen import load_strictly
from hyperinverter.networks.generator import Generator, GeneratorConfig, MappingNetwork
from hyperinverter.system.errors import first_line

_FORMAT = "StyleGAN2 generator"
_MEAN_SAMPLES = 100_000  # of w, where a file does not know its mean; 0.3 % of w's spread is left as error

_GENERATORS = (
    "give NVIDIA's stylegan2-ada-pytorch or stylegan3 .pkl of a StyleGAN2, rosinality's .pt, a .safetensors of this "
    "project, or a packaged name such as digiface"
)
_CRITICS = (
    "give NVIDIA's network pickle with D, rosinality's .pt with d, or a checkpoint of HyperInverter's release"
)

_log = logging.getLogger(__name__)


def load_generator(path: str | Path) -> Generator:
    """Load a StyleGAN2 generator, frozen and in eval mode.

    Everything that fixes its shape (resolution, widths, z, w, mapping layers) is read from the file. The network runs
    in float32, also where NVIDIA's would run some blocks in float16 on a GPU.

    Args:
        path: The name of a packaged domain ("digiface"), or a file, told apart by content: NVIDIA's network pickle
            (``G_ema`` of stylegan2-ada-pytorch, or of a StyleGAN2 trained with the stylegan3 repository),
            rosinality's ``.pt`` (``g_ema``; without a ``latent_avg`` the mean of w is measured over 100,000 fixed
            samples, and said in the log), a ``.safetensors`` of ``save_generator`` or of ``save_hyperinverter``.

    Returns:
        ``.mapping(z)``, ``.synthesis(ws, noise_mode="const")``, ``.w_avg``, ``.kernels()``; ``.sha256`` is the hash
        of the file it came from.

    Raises:
        UserError: If the file is missing, damaged, not a generator, or of a variant that is not supported
            (conditional, StyleGAN3, TensorFlow), which is named.
    """
    file, sha256 = find_file(path, "generator")
    kind = pickles.kind_of(file)
    if kind in ("torch", "pickle"):
        with reported(file, _GENERATORS):
            config, tensors, knows_mean = _foreign_generator(file, kind)
            generator = _filled_generator(config, tensors, file)
        if not knows_mean:
            _log.warning(
                "%s has no latent_avg: the mean of w is measured over %d samples", file, _MEAN_SAMPLES
            )
            generator.mapping.w_avg = _measured_mean(generator.mapping)
    elif kind == "safetensors" or file.suffix == ".safetensors":
        tensors, header = read_safetensors(file)
        generator = generator_inside(file, tensors, header)
        sha256 = generator.sha256 or sha256
    else:
        raise nothing_known(file, _GENERATORS)
    generator.source, generator.sha256 = str(path), sha256
    return generator.requires_grad_(False).eval()


def load_critic(path: str | Path) -> Critic:
    """Load the discriminator a generator was trained against: where the adversarial loss starts.

    Args:
        path: NVIDIA's network pickle (``D``), rosinality's ``.pt`` (``d``), or a checkpoint of HyperInverter's
            release (``discriminator``).

    Returns:
        The critic, ready to be trained on.

    Raises:
        UserError: If the file is missing, damaged, or holds no unconditional StyleGAN2 discriminator.
    """
    critic = find_critic(path)
    if critic is None:
        raise UserError(f"{path} holds no discriminator; {_CRITICS}")
    return critic


def find_critic(path: str | Path) -> Critic | None:
    """``load_critic``, with None for packaged names and whole files that hold no discriminator.

    Raises:
        UserError: If the file is missing or damaged, or its discriminator is of a variant that is not supported.
    """
    if isinstance(path, str) and f"{path}_generator" in PACKAGED:
        return None
    file = existing(path)
    kind = pickles.kind_of(file)
    if kind == "safetensors":
        return None
    if kind not in ("torch", "pickle"):
        raise nothing_known(file, _CRITICS)
    with reported(file, _CRITICS):
        content, load = pickles.read(file), functools.partial(pickles.load_tensors, path=file)
        if kind == "pickle":
            if not isinstance(content, dict) or content.get("D") is None:
                return None
            config, group, tensors = nvidia.read_critic(nvidia.find_network(content, "D"), load)
        elif isinstance(content, dict) and isinstance(content.get("d"), dict):
            config, group, tensors = rosinality.read_critic(content["d"], load)
        else:
            state = state_dict_of(content) if isinstance(content, dict) and "state_dict" in content else {}
            network = nvidia.Network("discriminator", {}, {}, under(state, "discriminator"), {})
            if not network.stored:
                return None
            config, group, tensors = nvidia.read_critic(network, load)
        with torch.device("meta"):
            critic = Critic(config, group)
    load_strictly(critic, tensors, file)
    return critic


def save_generator(generator: Generator, path: Path, recipe: Mapping[str, Any], half: bool = True) -> None:
    """Write a generator with its shapes and its recipe in the header; ``half`` stores float16."""
    tensors = {
        name: (tensor.half() if half else tensor).contiguous()
        for name, tensor in generator.state_dict().items()
    }
    header = {
        "format": _FORMAT,
        "config": json.dumps(generator.metadata()),
        "recipe": json.dumps(dict(recipe)),
    }
    save_file(tensors, path, header)


def _foreign_generator(file: Path, kind: str) -> tuple[GeneratorConfig, dict[str, Tensor], bool]:
    content, load = pickles.read(file), functools.partial(pickles.load_tensors, path=file)
    if kind == "pickle":
        return *nvidia.read_generator(nvidia.find_network(content, "G_ema"), load), True
    if isinstance(content, dict) and "g_ema" not in content and "style.1.weight" in content:
        content = {"g_ema": content}  # the state dict alone
    if not isinstance(content, dict) or not isinstance(content.get("g_ema"), dict):
        raise Unreadable("is a torch file without a generator: there is no g_ema in it")
    return rosinality.read_generator(content["g_ema"], content.get("latent_avg"), load)


def generator_inside(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Generator:
    """The generator of an opened file of ``save_generator`` or ``save_hyperinverter``, frozen and in eval mode.

    ``.sha256`` is the hash that a self-contained file recorded of the file its generator came from, else empty.

    Raises:
        UserError: If there is none, or it is described wrongly.
    """
    inside, recorded = under(tensors, GENERATOR_INSIDE.rstrip(".")), ""
    try:
        if inside and "model" in header:
            described, tensors = json.loads(header["model"])["generator"], inside
            recorded = header.get("generator_sha256", "")
        else:
            described = json.loads(header["config"])
        config = GeneratorConfig(**_known(described))
        floats = {name: tensor.float() for name, tensor in tensors.items()}
        generator = _filled_generator(config, floats, file)
    except IMPOSSIBLE as error:
        raise UserError(
            f"{file} is not a generator of this project (header: {first_line(error)}); {_GENERATORS}"
        ) from error
    generator.sha256 = recorded
    return generator.requires_grad_(False).eval()


def _filled_generator(config: GeneratorConfig, tensors: dict[str, Tensor], file: Path) -> Generator:
    with torch.device("meta"):  # shapes are compared before memory is taken, and nothing random is drawn
        generator = Generator(config)
    load_strictly(generator, tensors, file)
    return generator


@torch.no_grad()
def _measured_mean(mapping: MappingNetwork) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    width = next(mapping.parameters()).shape[1]
    chunks = [mapping(torch.randn(1000, width, generator=draw))[:, 0] for _ in range(_MEAN_SAMPLES // 1000)]
    return torch.stack([chunk.mean(dim=0) for chunk in chunks]).mean(dim=0)


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """A generator's configuration, also from the nested form of NVIDIA's files."""
    if not isinstance(config, Mapping):
        raise TypeError(f"the configuration is {config!r}")
    if "mapping_kwargs" not in config:
        return dict(config)
    flat = {field.name: config[field.name] for field in fields(GeneratorConfig) if field.name in config}
    mapping, synthesis = config["mapping_kwargs"], config.get("synthesis_kwargs", {})
    flat |= {
        "mapping_layers": mapping.get("num_layers", 8),
        "mapping_lr_multiplier": mapping.get("lr_multiplier", 0.01),
        "channel_base": synthesis.get("channel_base", 32768),
        "channel_max": synthesis.get("channel_max", 512),
        "conv_clamp": synthesis.get("conv_clamp"),
    }
    return flat
