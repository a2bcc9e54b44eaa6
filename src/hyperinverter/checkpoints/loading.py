"""Find, verify and load weights strictly. Files are tensors and plain values; nothing in them is executed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperinverter.checkpoints.registry import PACKAGED, packaged, sha256_of
from hyperinverter.contracts import UserError
from hyperinverter.inversion.description import build, describe
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.frozen import load_strictly
from hyperinverter.networks.generator import Generator, GeneratorConfig

_SAFETENSORS_GENERATOR = "StyleGAN2 generator"
_SAFETENSORS_MODEL = "hyperinverter model"


def load_generator(path: str | Path) -> Generator:
    """Load a generator, frozen and in eval mode.

    Args:
        path: The name of a packaged domain ("digiface") or a ``.safetensors`` file of ours.

    Returns:
        The generator; ``.sha256`` is the hash of the file it came from.

    Raises:
        UserError: If the file is missing, damaged or not a generator.
    """
    file, sha256 = _find(path, "generator")
    tensors, header = _read_safetensors(file)
    try:
        generator = Generator(GeneratorConfig(**_known(json.loads(header["config"]))))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is not a generator of this project (header: {error}); give the file that "
            "`python -m hyperinverter.recipes.digiface_generator` wrote, or a packaged name such as digiface"
        ) from error
    load_strictly(generator, {name: tensor.float() for name, tensor in tensors.items()}, file)
    generator.source, generator.sha256 = str(path), sha256
    return generator.requires_grad_(False).eval()


def save_generator(generator: Generator, path: Path, recipe: Mapping[str, Any], half: bool = True) -> None:
    """Write a generator with its shapes and its recipe in the header; ``half`` stores float16."""
    tensors = {
        name: (tensor.half() if half else tensor).contiguous()
        for name, tensor in generator.state_dict().items()
    }
    header = {
        "format": _SAFETENSORS_GENERATOR,
        "config": json.dumps(generator.metadata()),
        "recipe": json.dumps(dict(recipe)),
    }
    save_file(tensors, path, header)


def load_w_inverter(path: str | Path, generator: Generator) -> WInverter:
    """Load phase I.

    Args:
        path: The name of a packaged domain, a run folder, its checkpoint, or a file of ``save_model``.
        generator: The generator it was trained with.

    Raises:
        UserError: If the file is missing, damaged, of another kind or for another generator.
    """
    model = _load_model(path, "phase1", generator)
    return model.w_inverter if isinstance(model, HyperInverter) else model


def load_hyperinverter(path: str | Path, generator: Generator | str | Path | None = None) -> HyperInverter:
    """Load the whole method: ``model.invert(images)`` for ``(B, 3, R, R)`` in [-1, 1].

    Args:
        path: The name of a packaged domain ("digiface"), a phase II run folder, its checkpoint, or a file of
            ``save_model``.
        generator: Object, packaged name or file; default the packaged generator of the domain, or the one the
            run was trained with.

    Raises:
        UserError: If a file is missing, damaged, of another kind, or the parts do not belong together.
    """
    if generator is None:
        generator = _generator_of(path)
    if not isinstance(generator, Generator):
        generator = load_generator(generator)
    model = _load_model(path, "phase2", generator)
    if not isinstance(model, HyperInverter):
        raise UserError(
            f"{path} holds phase I only; train phase II on it: python train.py phase=2 phase.from_run={path}"
        )
    return model.eval()


def save_model(
    model: WInverter | HyperInverter, path: Path, recipe: Mapping[str, Any], half: bool = False
) -> None:
    """Write what was trained (in phase II phase I's encoder too) with the model's description in the header.

    Args:
        model: The model; its generator is named by hash, not stored.
        path: A ``.safetensors`` file.
        recipe: How it was trained, as plain values.
        half: Store float16.
    """
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    header = {
        "format": _SAFETENSORS_MODEL,
        "model": json.dumps(describe(model)),
        "generator_sha256": _generator(model).sha256,
        "recipe": json.dumps(dict(recipe)),
    }
    save_file(tensors, path, header)


def checkpoint_of(path: str | Path) -> Path:
    """The checkpoint of a run folder, or the file itself.

    Raises:
        UserError: If there is none.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (path / "checkpoints" / name).is_file():
                return path / "checkpoints" / name
        raise UserError(f"{path} has no checkpoints/best.ckpt; give the folder of a run that has trained")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give a run folder or a file")
    return path


def _load_model(path: str | Path, kind: str, generator: Generator) -> WInverter | HyperInverter:
    if isinstance(path, str) and f"{path}_{kind}" in PACKAGED:
        file, _ = packaged(kind, path)
    else:
        file = checkpoint_of(path)
    tensors, description, made_for = _read_model(file)
    ours = generator.sha256
    if made_for and ours and made_for != ours:
        raise UserError(
            f"{file} was trained with another generator (SHA-256 {made_for[:12]}..., this one is {ours[:12]}...); "
            "choose that generator with generator.path=FILE, or train again"
        )
    try:
        model = build(description, generator)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} does not fit: {error}") from error
    load_strictly(model, tensors, file)
    return model.eval()


def _read_model(file: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Tensors, description and generator hash of a checkpoint or of a file of ``save_model``."""
    if file.suffix == ".safetensors":
        tensors, header = _read_safetensors(file)
        try:
            description = json.loads(header["model"])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{file} is not a model of this project: its header describes none; give a run folder, its "
                "checkpoint, or a packaged name such as digiface"
            ) from error
        floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
        return floats, description, header.get("generator_sha256", "")
    content = read_checkpoint(file)
    prefix = "inverter."
    tensors = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    return tensors, content["model"], str(content.get("generator_sha256", ""))


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a run's checkpoint: tensors and plain values only.

    Raises:
        UserError: If it is cut short, of another kind, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign files; what is wrong is said below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for bytes that are no checkpoint depends on the bytes
        cause = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(
            f"{file} cannot be read as a checkpoint: it is cut short or of another kind ({cause}); give best.ckpt or "
            "last.ckpt of a run"
        ) from error
    ours = isinstance(content, dict) and isinstance(content.get("state_dict"), dict) and "model" in content
    if not ours:
        raise UserError(
            f"{file} is not a checkpoint of this project: it names no model; give best.ckpt of a run"
        )
    return content


def _generator_of(path: str | Path) -> str | Path:
    """Which generator a packaged name or a run was trained with."""
    if isinstance(path, str) and f"{path}_phase2" in PACKAGED:
        return path
    file = checkpoint_of(path)
    if file.suffix == ".safetensors":
        _read_model(file)  # a foreign file is told before a generator is looked for
        return "digiface"
    return str(read_checkpoint(file).get("generator_path", "digiface"))


def _find(path: str | Path, kind: str) -> tuple[Path, str]:
    if isinstance(path, str) and f"{path}_{kind}" in PACKAGED:
        return packaged(kind, path)
    file = Path(path).expanduser()
    if not file.is_file():
        names = sorted(k.removesuffix(f"_{kind}") for k in PACKAGED if k.endswith(f"_{kind}"))
        raise UserError(
            f"there is no {kind} file {file}; check {kind}.path, or use a packaged one: {', '.join(names) or 'none'}"
        )
    return file, sha256_of(file)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}): it is cut short or of another kind; restore it from its "
            "source"
        ) from error


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


def _generator(model: nn.Module) -> Generator:
    assert isinstance(model, (WInverter, HyperInverter))
    return model.generator
