"""Load and save StyleGAN2 generators and their discriminators: files are tensors and plain values, never run."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hyperinverter.checkpoints import nvidia, pickles, rosinality
from hyperinverter.checkpoints.opening import GENERATOR_INSIDE, as_kept, find_file
from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.checkpoints.reading import (
    IMPOSSIBLE,
    as_floats,
    existing,
    nothing_known,
    read_safetensors,
    refuse_archive,
    reported,
)
from hyperinverter.checkpoints.registry import PACKAGED
from hyperinverter.checkpoints.shapes import Foreign, Load, multiplier_of, under
from hyperinverter.checkpoints.unwrapping import is_network, unwrap
from hyperinverter.contracts import UserError
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.frozen import load_strictly
from hyperinverter.networks.generator import Generator, GeneratorConfig, MappingNetwork
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import parse_json, replacing

_FORMAT = "StyleGAN2 generator"
_MEAN_SAMPLES = 100_000  # of w, where a file does not know its mean; 0.3 % of w's spread is left as error

_GENERATORS = (
    "give NVIDIA's stylegan2-ada-pytorch or stylegan3 .pkl of a StyleGAN2, rosinality's .pt, a .safetensors of this "
    "project, or a packaged name such as digiface"
)
_DISCRIMINATORS = (
    "give NVIDIA's network pickle with D, rosinality's .pt with d, or a checkpoint of HyperInverter's release"
)

# Where generators and discriminators are kept, averaged ones first.
_GENERATOR_PLACES = (
    *("G_ema", "g_ema", "generator_ema", "netG_ema", "params_ema", "ema"),
    *("generator", "decoder", "G", "g", "netG"),
)
_DISCRIMINATOR_PLACES = ("D", "d", "discriminator", "netD")
_BASICSR = frozenset({"style_mlp.1.weight", "constant_input.weight"})

_log = logging.getLogger(__name__)


def load_generator(path: str | Path) -> Generator:
    """Load a StyleGAN2 generator, frozen and in eval mode.

    Everything that fixes its shape (resolution, widths, z, w, mapping layers) is read from the file. The network runs
    in float32, also where NVIDIA's would run some blocks in float16 on a GPU. What a file leaves open is settled as
    follows, and said in the log: without a mean of w it is measured over 100,000 fixed samples; without noise maps
    they are drawn from a fixed seed.

    Args:
        path: The name of a packaged domain ("digiface"), or a file, recognised by its content: NVIDIA's network pickle
            (``G_ema`` of stylegan2-ada-pytorch, or of a StyleGAN2 trained with the stylegan3 repository),
            rosinality's ``.pt`` (``g_ema``), a ``.safetensors`` of ``save_generator`` or of ``save_hyperinverter``.
            Networks of either layout are also read as a state dict, as a saved module, or as a part of a larger
            checkpoint (``decoder``, ``generator``), whatever wrappers added to their names.

    Returns:
        ``.mapping(z)``, ``.synthesis(ws, noise_mode="const")``, ``.w_avg``, ``.kernels()``; ``.sha256`` is the hash
        of the file it came from.

    Raises:
        UserError: If the file is missing, damaged, not a generator, or of a variant that is not supported
            (conditional, StyleGAN3, TensorFlow, not square), which is named.
    """
    file, sha256 = find_file(path, "generator")
    kind = pickles.kind_of(file)
    if kind == "safetensors" or (kind == "other" and file.suffix == ".safetensors"):
        generator = _from_safetensors(file)
        sha256 = generator.sha256 or sha256
    elif kind == "other":
        raise nothing_known(file, _GENERATORS)
    else:
        refuse_archive(file)
        with reported(file, _GENERATORS):
            load = functools.partial(pickles.load_tensors, path=file)
            foreign = _foreign_generator(pickles.read(file), load)
            if foreign is None:
                raise Unreadable(
                    "is a torch file without a generator: there is no g_ema or G_ema in it"
                    if kind == "torch"
                    else "is a pickle without G_ema, the generator of NVIDIA's network pickles"
                )
            generator = _settled(foreign, file)
    generator.source, generator.sha256 = as_kept(path, "generator"), sha256
    return generator.requires_grad_(False).eval()


def load_discriminator(path: str | Path) -> Discriminator:
    """Load the discriminator a generator was trained against: where the adversarial loss starts.

    Args:
        path: NVIDIA's network pickle (``D``), rosinality's ``.pt`` (``d``), or a checkpoint of HyperInverter's
            release (``discriminator``).

    Returns:
        The discriminator, ready to be trained on.

    Raises:
        UserError: If the file is missing, damaged, or holds no unconditional StyleGAN2 discriminator.
    """
    discriminator = find_discriminator(path)
    if discriminator is None:
        raise UserError(f"{path} holds no discriminator; {_DISCRIMINATORS}")
    return discriminator


load_critic = load_discriminator  # its name in version 0.1


def find_discriminator(path: str | Path) -> Discriminator | None:
    """``load_discriminator``, with None for packaged names and files that hold no discriminator.

    Raises:
        UserError: If the file is missing or damaged, or its discriminator is of a variant that is not supported.
    """
    if isinstance(path, str) and f"{path}_generator" in PACKAGED:
        return None
    file = existing(path)
    kind = pickles.kind_of(file)
    if kind == "other":
        raise nothing_known(file, _DISCRIMINATORS)
    if kind == "safetensors":
        tensors, header = read_safetensors(file)
        if "format" in header:  # our own, which hold none
            return None
        content, load = tensors, as_floats
    else:
        refuse_archive(file)
        load = functools.partial(pickles.load_tensors, path=file)
    with reported(file, _DISCRIMINATORS):
        if kind != "safetensors":
            content = pickles.read(file)
        read = {
            nvidia.is_discriminator: nvidia.read_discriminator,
            rosinality.is_discriminator: rosinality.read_discriminator,
        }
        found = unwrap(content, lambda names: any(known(names) for known in read), _DISCRIMINATOR_PLACES)
        if found is None:
            inside = map(content.get, _DISCRIMINATOR_PLACES) if isinstance(content, dict) else ()
            if any(map(is_network, inside)):
                raise Unreadable("has a discriminator of another kind than StyleGAN2's")
            return None
        known = next(known for known in read if known(found.stored))
        config, group, state = read[known](found, load)
        with torch.device("meta"):
            discriminator = Discriminator(config, group)
    load_strictly(discriminator, state, file)
    return discriminator


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
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, header)


def _from_safetensors(file: Path) -> Generator:
    """A file of this project, or a state dict of others."""
    tensors, header = read_safetensors(file)
    if not header.keys() & {"config", "model"}:
        with reported(file, _GENERATORS):
            foreign = _foreign_generator(tensors, as_floats)
            if foreign is not None:
                return _settled(foreign, file)
    return generator_inside(file, tensors, header)


def _foreign_generator(content: Any, load: Load) -> Foreign | None:
    """Read a generator of other people's; None if there is none.

    Raises:
        Unreadable: If it is of a variant that is not supported.
    """
    read = {nvidia.is_generator: nvidia.read_generator, rosinality.is_generator: rosinality.read_generator}
    found = unwrap(content, lambda names: any(known(names) for known in read), _GENERATOR_PLACES)
    if found is not None:
        return next(reader for known, reader in read.items() if known(found.stored))(found, load)
    if unwrap(content, _BASICSR.issubset, _GENERATOR_PLACES):
        raise Unreadable("is a StyleGAN2 with the names of BasicSR, which are not read")
    return None


def _settled(foreign: Foreign, file: Path) -> Generator:
    """Build other people's generator, and settle what its file leaves open."""
    generator = _filled_generator(foreign.config, foreign.tensors, file)
    multiplier = multiplier_of(foreign.tensors)
    if not foreign.knows_multiplier and multiplier != foreign.config.mapping_lr_multiplier:
        other = replace(foreign.config, mapping_lr_multiplier=multiplier)
        changed = _filled_generator(other, foreign.tensors, file)
        if not foreign.knows_mean or _misses_mean(changed.mapping) < _misses_mean(generator.mapping):
            generator = changed
            _log.warning(
                "%s was trained with lr_mlp=%g, judging by the size of its weights", file, multiplier
            )
    if not foreign.knows_mean:
        _log.warning("%s has no latent_avg: the mean of w is measured over %d samples", file, _MEAN_SAMPLES)
        generator.mapping.w_avg = _codes(generator.mapping, _MEAN_SAMPLES)[0]
    if not foreign.knows_noise:
        _log.warning("%s holds no noise maps: they are drawn from a fixed seed", file)
    if not foreign.knows_clamp:
        _log.warning(
            "%s does not say its conv_clamp: none is used; if it was trained with one, give its network pickle",
            file,
        )
    return generator


def _misses_mean(mapping: MappingNetwork) -> float:
    """How far the mean of w is from the one in the file, in spreads of w."""
    mean, spread = _codes(mapping, 2000)
    return ((mean - mapping.w_avg).norm() / spread.norm().clamp_min(1e-12)).item()


@torch.no_grad()
def _codes(mapping: MappingNetwork, samples: int) -> tuple[Tensor, Tensor]:
    """Mean and spread ``(D,)`` of w over fixed samples."""
    draw = torch.Generator().manual_seed(0)
    width = next(mapping.parameters()).shape[1]
    chunks = [mapping(torch.randn(1000, width, generator=draw))[:, 0] for _ in range(samples // 1000)]
    means = torch.stack([chunk.mean(dim=0) for chunk in chunks])
    return means.mean(dim=0), torch.stack([chunk.std(dim=0) for chunk in chunks]).mean(dim=0)


def generator_inside(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Generator:
    """The generator of an opened file of ``save_generator`` or ``save_hyperinverter``, frozen and in eval mode.

    ``.sha256`` is the hash that a self-contained file recorded of the file its generator came from, else empty.

    Raises:
        UserError: If there is none, or it is described wrongly.
    """
    inside, recorded = under(tensors, GENERATOR_INSIDE.rstrip(".")), ""
    try:
        if inside and "model" in header:
            described, tensors = parse_json(header["model"])["generator"], inside
            recorded = header.get("generator_sha256", "")
        else:
            described = parse_json(header["config"])
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
