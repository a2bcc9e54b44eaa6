"""Load and save both phases: W encoders, phase I, and the complete method."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperinverter.checkpoints import authors
from hyperinverter.checkpoints.generators import generator_inside, load_generator
from hyperinverter.checkpoints.opening import GENERATOR_INSIDE, Opened, generator_of, open_model
from hyperinverter.checkpoints.reading import fitting, reported, with_counters
from hyperinverter.checkpoints.shapes import under
from hyperinverter.checkpoints.unwrapping import Unwrapped
from hyperinverter.contracts import UserError
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter, PhaseII
from hyperinverter.inversion.specification import (
    ModelSpec,
    WEncoderSpec,
    build,
    build_on,
    build_w_encoder,
    describe,
)
from hyperinverter.networks.encoders import WEncoder
from hyperinverter.networks.frozen import load_strictly
from hyperinverter.networks.generator import Generator
from hyperinverter.system.command import train_command
from hyperinverter.system.files import parse_json, replacing, sha256_of

_FORMAT = "hyperinverter model"

_W_ENCODERS = (
    "give a W encoder of HyperInverter's release, a phase I run folder, its checkpoint, or a packaged name such as "
    "digiface"
)
_MODELS = (
    "give a checkpoint of HyperInverter's release, a run folder, its checkpoint, a file of save_hyperinverter, or a "
    "packaged name such as digiface"
)

_log = logging.getLogger(__name__)


# Phase I -----------------------------------------------------------------------------------------------------


def load_w_encoder(path: str | Path) -> WEncoder:
    """Load phase I's encoder, frozen and in eval mode: photos -> offsets from the generator's mean w.

    Args:
        path: A W encoder of HyperInverter's release (IR-SE-50 or ResNet-34, recognised by its tensors; a
            ``latent_avg`` in it is not used, the generator's own mean counts), or what ``load_w_inverter`` takes.

    Raises:
        UserError: If the file is missing, damaged, or holds no W encoder.
    """
    found = open_model(path, "phase1", _W_ENCODERS)
    if found.theirs is not None:
        return _their_w_encoder(found, found.theirs)
    assert found.spec is not None
    prefix = "encoder" if found.spec.kind == "w_encoder" else "w_inverter.encoder"
    shape = found.spec.generator
    tensors = under(found.tensors, prefix)
    return _w_encoder(found.file, found.spec.w_encoder, shape.w_dim, shape.num_ws, tensors)


def load_w_inverter(path: str | Path, generator: Generator) -> WInverter:
    """Load phase I.

    Args:
        path: The name of a packaged domain, a run folder, its checkpoint, a file of ``save_model`` or
            ``save_hyperinverter``, or a W encoder of HyperInverter's release.
        generator: The generator it was trained with.

    Raises:
        UserError: If the file is missing, damaged, of another kind or for another generator.
    """
    found = open_model(path, "phase1", _W_ENCODERS)
    if found.theirs is not None:
        return _joined(generator, _their_w_encoder(found, found.theirs), path).eval()
    assert found.spec is not None
    model = _own_model(found, found.spec, generator)
    return model.w_inverter if isinstance(model, PhaseII) else model


def _their_w_encoder(found: Opened, theirs: Unwrapped) -> WEncoder:
    """E1 of the authors' W encoder file, or the copy in a HyperInverter file."""
    with reported(found.file, _W_ENCODERS):
        spec, w_dim, tensors = authors.read_w_encoder(theirs, found.load)
    return _w_encoder(found.file, spec, w_dim, 0, tensors)


def _w_encoder(
    file: Path, spec: WEncoderSpec, w_dim: int, num_ws: int, tensors: Mapping[str, Tensor]
) -> WEncoder:
    with fitting(file, _W_ENCODERS), torch.device("meta"):
        encoder = build_w_encoder(spec, w_dim, num_ws)
    if not isinstance(encoder, WEncoder):
        raise UserError(f"{file} holds an encoder to W+ ({spec.method}); give one to W, or use load_inverter")
    load_strictly(encoder, with_counters(encoder, tensors), file)
    return encoder.requires_grad_(False).eval()


def _joined(generator: Generator, encoder: WEncoder, source: object) -> WInverter:
    width = encoder.linear.weight.shape[0]
    if width != generator.w_dim:
        raise UserError(
            f"the W encoder {source} gives codes of {width} numbers, the generator {generator.source or 'given'} takes "
            f"{generator.w_dim}; give the two that were trained together"
        )
    return WInverter(generator, encoder)


# Both phases -------------------------------------------------------------------------------------------------


def load_hyperinverter(
    path: str | Path | None = None,
    generator: Generator | str | Path | None = None,
    *,
    w_encoder: WEncoder | str | Path | None = None,
    hyper: str | Path | None = None,
) -> HyperInverter:
    """Load the complete method, in eval mode: ``model.invert(images)`` for ``(B, 3, H, W)`` in [-1, 1].

    Ours: ``load_hyperinverter("digiface")``, a run folder, its checkpoint, a file of ``save_model`` or
    ``save_hyperinverter``. The authors': ``load_hyperinverter(generator=PKL, w_encoder=PT, hyper=PT)``; hidden size
    and coverage are read from ``hyper``. Loading checks that the parts belong together: resolution, number of style
    layers, width of w, names and shapes of layers, and the generator's hash where it was recorded.

    Args:
        path: The model. ``hyper`` is another name for it.
        generator: Object, packaged name or file. Default: the one inside a self-contained file, the packaged
            generator of the domain, or the one the run was trained with. The authors' files hold none.
        w_encoder: Object, or what ``load_w_encoder`` takes. Default: the copy inside the model. As in the authors'
            code a given one is used in place of the copy; if the two differ the log says so. Our own files refuse
            another one than they were trained on.
        hyper: The model, by the name of its part.

    Raises:
        UserError: If a file is missing, damaged, of another kind, or the parts do not belong together.
    """
    if (path is None) == (hyper is None):
        raise UserError(
            "name one model: load_hyperinverter(PATH), or load_hyperinverter(generator=, w_encoder=, hyper=PATH)"
        )
    source = path if path is not None else hyper
    assert source is not None
    found = open_model(source, "phase2", _MODELS)
    if found.theirs is not None:
        if generator is None:
            raise UserError(
                f"{found.file} holds no generator; add generator=PATH, the file it was trained with"
            )
        return _their_model(found, found.theirs, _generator_object(generator), w_encoder).eval()
    assert found.spec is not None
    loaded = _own_around(found, found.spec, source, generator)
    if isinstance(loaded, PhaseII) and not isinstance(loaded, HyperInverter):
        raise UserError(
            f"{source} holds a {type(loaded).__name__}, not a HyperInverter; load_inverter({str(source)!r}) reads it"
        )
    if not isinstance(loaded, HyperInverter):
        raise UserError(
            f"{source} holds phase I only; train phase II on it: {train_command()} phase=2 phase.from_run={source}"
        )
    if w_encoder is not None and not _alike(
        _w_encoder_object(w_encoder).state_dict(), loaded.w_inverter.encoder.state_dict()
    ):
        raise UserError(
            f"{found.file} was trained on another W encoder than {_called(w_encoder)}; leave w_encoder out, the file "
            "holds its own"
        )
    return loaded.eval()


def load_inverter(path: str | Path, generator: Generator | str | Path | None = None) -> WInverter | PhaseII:
    """Load whatever way to invert a model holds, phase I or both phases, in eval mode.

    Args:
        path: A packaged name (both phases), a run folder of either phase, its checkpoint, a model file, or a file of
            pSp or e4e.
        generator: As for ``load_hyperinverter``. Default for a file of pSp or e4e: the one inside (``decoder``).

    Returns:
        The model; its ``source`` and ``sha256`` say where it came from.

    Raises:
        UserError: If the file is missing, damaged, of another kind, or for another generator.
    """
    found = open_model(path, "phase2", _MODELS)
    model: WInverter | PhaseII
    if found.theirs is not None and authors.is_wplus_encoder(found.theirs):
        model = _their_wplus(found, found.theirs, path if generator is None else generator)
    elif found.spec is None:
        model = load_hyperinverter(path, generator)
    else:
        model = _own_around(found, found.spec, path, generator).eval()
    model.source, model.sha256 = str(path), sha256_of(found.file)
    return model


def _their_wplus(found: Opened, theirs: Unwrapped, generator: Generator | str | Path) -> WInverter:
    """An encoder of pSp or e4e around a generator; their files usually hold the one it was trained with."""
    with reported(found.file, _MODELS):
        spec, w_dim, num_ws, tensors = authors.read_wplus_encoder(theirs, found.load)
    around = _generator_object(generator)
    if (w_dim, num_ws) != (around.w_dim, around.num_ws):
        raise UserError(
            f"{found.file} gives {num_ws} codes of {w_dim} numbers, the generator {around.source or 'given'} takes "
            f"{around.num_ws} of {around.w_dim}; give the one it was trained with"
        )
    with fitting(found.file, _MODELS), torch.device("meta"):
        encoder = build_w_encoder(spec, w_dim, num_ws)
    load_strictly(encoder, with_counters(encoder, tensors), found.file)
    return WInverter(around, encoder.requires_grad_(False)).eval()


def _own_around(
    found: Opened, spec: ModelSpec, source: str | Path, generator: Generator | str | Path | None
) -> WInverter | PhaseII:
    """A model of this project around the given generator, else the one inside its file, else the one it names."""
    if generator is None and found.has_generator:
        generator = generator_inside(found.file, found.tensors, found.header)
        generator.source = str(source)
    around = _generator_object(generator_of(found) if generator is None else generator)
    return _own_model(found, spec, around)


def save_hyperinverter(model: HyperInverter, path: str | Path) -> None:
    """Write one self-contained safetensors file: encoders, hypernetwork, generator and what they are.

    ``load_hyperinverter(path)`` gives the same model back, number for number; ``load_generator(path)`` and
    ``load_w_encoder(path)`` read their parts of it. The file appears when it is complete.

    Args:
        model: Both phases.
        path: Usually ending in ``.safetensors``.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path).expanduser()
    inside = {f"{GENERATOR_INSIDE}{name}": t for name, t in model.generator.state_dict().items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in (model.state_dict() | inside).items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            save_file(tensors, unfinished, _model_header(model, {}))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be written ({error}); choose another place for it") from error


def save_model(model: WInverter | PhaseII, path: Path, recipe: Mapping[str, Any], half: bool = False) -> None:
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
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, _model_header(model, recipe))


def recipe_of(path: Path) -> dict[str, Any]:
    """How the model in a file of ``save_model`` was trained; empty for anything else."""
    try:
        with safe_open(path, "pt") as file:
            recipe = parse_json((file.metadata() or {}).get("recipe", "{}"))
    except (OSError, SafetensorError, ValueError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _model_header(model: WInverter | PhaseII, recipe: Mapping[str, Any]) -> dict[str, str]:
    return {
        "format": _FORMAT,
        "model": json.dumps(describe(model).plain()),
        "generator_sha256": model.generator.sha256,
        "recipe": json.dumps(dict(recipe)),
    }


def _their_model(
    found: Opened, theirs: Unwrapped, generator: Generator, w_encoder: WEncoder | str | Path | None
) -> HyperInverter:
    """A checkpoint of HyperInverter's release around its generator."""
    used = _their_w_encoder(found, theirs) if w_encoder is None else _w_encoder_object(w_encoder)
    w_inverter = _joined(generator, used, found.file if w_encoder is None else _called(w_encoder))
    with reported(found.file, _MODELS):
        features, hypernet, tensors = authors.read_hyper(theirs.stored, generator, found.load)
        spec = ModelSpec(
            "hyperinverter", generator.config, describe(w_inverter).w_encoder, features, hypernet
        )
        with torch.device("meta"):
            model = build_on(w_inverter, spec)
    assert isinstance(model, HyperInverter)
    assert model.hypernet is not None  # read_hyper gives its specification
    load_strictly(model.hypernet, under(tensors, "hypernet"), found.file)
    encoder = with_counters(model.feature_encoder, under(tensors, "feature_encoder"))
    load_strictly(model.feature_encoder, encoder, found.file)
    if w_encoder is not None:
        with reported(found.file, _MODELS):
            copy = authors.w_encoder_copy(theirs, found.load)
        if copy and not _alike(used.state_dict(), copy):
            _log.warning(
                "%s was trained on another W encoder than %s, which is used now; leave w_encoder out to use its own",
                found.file,
                _called(w_encoder),
            )
    return model


def _own_model(found: Opened, spec: ModelSpec, generator: Generator) -> WInverter | PhaseII:
    file, ours = found.file, generator.sha256
    if found.made_for and ours and found.made_for != ours and not found.has_generator:
        raise UserError(
            f"{file} was trained with another generator (SHA-256 {found.made_for[:12]}..., this one is "
            f"{ours[:12]}...); choose that generator with generator.path=FILE, or train again"
        )
    inside = under(found.tensors, GENERATOR_INSIDE.rstrip("."))
    if inside and not _alike(inside, generator.state_dict()):
        raise UserError(
            f"{file} was trained with another generator than {generator.source or 'this one'}; leave generator out, "
            "the file holds its own"
        )
    with fitting(file, _MODELS), torch.device("meta"):
        model = build(spec, generator)
    own = {name: t for name, t in found.tensors.items() if not name.startswith(GENERATOR_INSIDE)}
    load_strictly(model, own, file)
    return model.eval()


def _generator_object(generator: Generator | str | Path) -> Generator:
    return generator if isinstance(generator, Generator) else load_generator(generator)


def _w_encoder_object(w_encoder: WEncoder | str | Path) -> WEncoder:
    return w_encoder if isinstance(w_encoder, WEncoder) else load_w_encoder(w_encoder)


def _called(part: nn.Module | str | Path) -> str:
    return "the given one" if isinstance(part, nn.Module) else str(part)


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are the same but for the rounding of halves, and for counters, which nothing reads."""
    names, others = ({n for n in state if not n.endswith("num_batches_tracked")} for state in (one, other))
    return names == others and all(_equal(one[name].cpu(), other[name].cpu()) for name in names)


def _equal(one: Tensor, other: Tensor) -> bool:
    roundings = (torch.float32, torch.float16, torch.bfloat16)
    return one.shape == other.shape and any(torch.equal(one.to(kind), other.to(kind)) for kind in roundings)
