"""Find, verify and load weights strictly. Files are tensors and plain values; nothing in them is executed."""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperinverter.checkpoints import formats, pickles
from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.checkpoints.registry import PACKAGED, packaged
from hyperinverter.contracts import UserError
from hyperinverter.inversion.description import build, build_w_encoder, describe
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.critic import Critic
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.frozen import load_strictly
from hyperinverter.networks.generator import Generator, GeneratorConfig, MappingNetwork
from hyperinverter.networks.hypernets import HyperNetwork
from hyperinverter.system.command import train_command
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import replacing, sha256_of

_SAFETENSORS_GENERATOR = "StyleGAN2 generator"
_SAFETENSORS_MODEL = "hyperinverter model"
_GENERATOR_INSIDE = "generator."  # before the names of the generator's tensors in a self-contained model
_MEAN_SAMPLES = 100_000  # of w, where a file does not know its mean; 0.3 % of w's spread is left as error
_BAD_DESCRIPTION = (ValueError, TypeError, RuntimeError, ArithmeticError, AttributeError, LookupError)

_GENERATORS = (
    "give NVIDIA's stylegan2-ada-pytorch or stylegan3 .pkl of a StyleGAN2, rosinality's .pt, a .safetensors of this "
    "project, or a packaged name such as digiface"
)
_CRITICS = (
    "give NVIDIA's network pickle with D, rosinality's .pt with d, or a checkpoint of HyperInverter's release"
)
_W_ENCODERS = (
    "give a W encoder of HyperInverter's release, a phase I run folder, its checkpoint, or a packaged name such as "
    "digiface"
)
_MODELS = (
    "give a checkpoint of HyperInverter's release, a run folder, its checkpoint, a file of save_hyperinverter, or a "
    "packaged name such as digiface"
)

_log = logging.getLogger(__name__)


# Generators and critics --------------------------------------------------------------------------------------


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
    file, sha256 = _find(path, "generator")
    kind = pickles.kind_of(file)
    if kind in ("torch", "pickle"):
        with _told(file, _GENERATORS):
            config, tensors, knows_mean = _foreign_generator(file, kind)
            generator = _filled_generator(config, tensors, file)
        if not knows_mean:
            _log.warning(
                "%s has no latent_avg: the mean of w is measured over %d samples", file, _MEAN_SAMPLES
            )
            generator.mapping.w_avg = _measured_mean(generator.mapping)
    elif kind == "safetensors" or file.suffix == ".safetensors":
        tensors, header = _read_safetensors(file)
        generator, recorded = _own_generator(file, tensors, header)
        sha256 = recorded or sha256
    else:
        raise _nothing_known(file, _GENERATORS)
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
    file = _existing(path)
    kind = pickles.kind_of(file)
    if kind == "safetensors":
        return None
    if kind not in ("torch", "pickle"):
        raise _nothing_known(file, _CRITICS)
    with _told(file, _CRITICS):
        content, load = pickles.read(file), functools.partial(pickles.load_tensors, path=file)
        if kind == "pickle":
            if not isinstance(content, dict) or content.get("D") is None:
                return None
            config, group, tensors = formats.nvidia_critic(formats.nvidia_network(content, "D"), load)
        elif isinstance(content, dict) and isinstance(content.get("d"), dict):
            config, group, tensors = formats.rosinality_critic(content["d"], load)
        else:
            state = _state_dict(content) if isinstance(content, dict) and "state_dict" in content else {}
            network = formats.Network("discriminator", {}, {}, formats.under(state, "discriminator"), {})
            if not network.stored:
                return None
            config, group, tensors = formats.nvidia_critic(network, load)
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
        "format": _SAFETENSORS_GENERATOR,
        "config": json.dumps(generator.metadata()),
        "recipe": json.dumps(dict(recipe)),
    }
    save_file(tensors, path, header)


def _foreign_generator(file: Path, kind: str) -> tuple[GeneratorConfig, dict[str, Tensor], bool]:
    content, load = pickles.read(file), functools.partial(pickles.load_tensors, path=file)
    if kind == "pickle":
        return *formats.nvidia_generator(formats.nvidia_network(content, "G_ema"), load), True
    if isinstance(content, dict) and "g_ema" not in content and "style.1.weight" in content:
        content = {"g_ema": content}  # the state dict alone
    if not isinstance(content, dict) or not isinstance(content.get("g_ema"), dict):
        raise Unreadable("is a torch file without a generator: there is no g_ema in it")
    return formats.rosinality_generator(content["g_ema"], content.get("latent_avg"), load)


def _own_generator(
    file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> tuple[Generator, str]:
    """The generator of a file of ``save_generator`` or ``save_hyperinverter``, and the hash that one recorded."""
    inside = {
        name.removeprefix(_GENERATOR_INSIDE): tensor
        for name, tensor in tensors.items()
        if name.startswith(_GENERATOR_INSIDE)
    }
    recorded = ""
    try:
        if inside and "model" in header:
            described, tensors = json.loads(header["model"])["generator"], inside
            recorded = header.get("generator_sha256", "")
        else:
            described = json.loads(header["config"])
        config = GeneratorConfig(**_known(described))
        floats = {name: tensor.float() for name, tensor in tensors.items()}
        return _filled_generator(config, floats, file), recorded
    except _BAD_DESCRIPTION as error:
        raise UserError(
            f"{file} is not a generator of this project (header: {first_line(error)}); {_GENERATORS}"
        ) from error


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


# Phase I -----------------------------------------------------------------------------------------------------


def load_w_encoder(path: str | Path) -> WEncoder:
    """Load phase I's encoder, frozen and in eval mode: photos -> offsets from the generator's mean w.

    Args:
        path: A W encoder of HyperInverter's release (IR-SE-50 or ResNet-34, told by its tensors; a ``latent_avg`` in
            it is not used, the generator's own mean counts), or what ``load_w_inverter`` takes.

    Raises:
        UserError: If the file is missing, damaged, or holds no W encoder.
    """
    found = _open_model(path, "phase1", _W_ENCODERS)
    if found.theirs:
        return _their_w_encoder(found)
    prefix = "w_inverter.encoder" if found.description.get("phase") == 2 else "encoder"
    with _fitting(found.file), torch.device("meta"):
        encoder = build_w_encoder(found.description, found.description["generator"]["w_dim"])
    load_strictly(encoder, formats.under(found.tensors, prefix), found.file)
    return encoder.requires_grad_(False).eval()


def load_w_inverter(path: str | Path, generator: Generator) -> WInverter:
    """Load phase I.

    Args:
        path: The name of a packaged domain, a run folder, its checkpoint, a file of ``save_model`` or
            ``save_hyperinverter``, or a W encoder of HyperInverter's release.
        generator: The generator it was trained with.

    Raises:
        UserError: If the file is missing, damaged, of another kind or for another generator.
    """
    found = _open_model(path, "phase1", _W_ENCODERS)
    if found.theirs:
        return _joined(generator, _their_w_encoder(found), path).eval()
    model = _own_model(found, generator)
    return model.w_inverter if isinstance(model, HyperInverter) else model


def _their_w_encoder(found: _Found) -> WEncoder:
    """E1 of the authors' W encoder file (``encoder.``), or of the copy in a HyperInverter file (``w_encoder.``)."""
    with _told(found.file, _W_ENCODERS):
        stored = formats.under(found.stored, "encoder") or formats.under(found.stored, "w_encoder")
        if not stored:
            raise Unreadable("holds no W encoder")
        if any(name.startswith(("styles.", "latlayer")) for name in stored):
            raise Unreadable(
                "is an encoder for W+, one code per style layer", "give an encoder for W, one code per photo"
            )
        kind = formats.backbone_of(stored)
        tensors = formats.encoder_tensors(pickles.load_tensors(stored, found.file), ("linear",))
        if tensors.get("linear.weight", torch.empty(0)).ndim != 2:
            raise Unreadable("is no whole W encoder: it has no linear.weight of two dimensions")
        with torch.device("meta"):
            encoder = WEncoder(kind(), tensors["linear.weight"].shape[0])
    load_strictly(encoder, tensors, found.file)
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
    """Load the whole method, in eval mode: ``model.invert(images)`` for ``(B, 3, H, W)`` in [-1, 1].

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
    found = _open_model(source, "phase2", _MODELS)
    if found.theirs:
        if generator is None:
            raise UserError(
                f"{found.file} holds no generator; add generator=PATH, the file it was trained with"
            )
        model = _their_model(found, _generator_object(generator), w_encoder)
        return model.eval()
    if generator is None and found.has_generator:
        ours, recorded = _own_generator(found.file, found.tensors, found.header)
        ours.source, ours.sha256 = str(source), recorded
        generator = ours.requires_grad_(False).eval()
    loaded = _own_model(found, _generator_object(found.generator_path if generator is None else generator))
    if not isinstance(loaded, HyperInverter):
        raise UserError(
            f"{source} holds phase I only; train phase II on it: {train_command()} phase=2 phase.from_run={source}"
        )
    if w_encoder is not None and not _same(_w_encoder_object(w_encoder), loaded.w_inverter.encoder):
        raise UserError(
            f"{found.file} was trained on another W encoder than {_called(w_encoder)}; leave w_encoder out, the file "
            "holds its own"
        )
    return loaded.eval()


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
    inside = {f"{_GENERATOR_INSIDE}{name}": t for name, t in model.generator.state_dict().items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in (model.state_dict() | inside).items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            save_file(tensors, unfinished, _model_header(model, {}))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be written ({error}); choose another place for it") from error


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
    save_file(tensors, path, _model_header(model, recipe))


def _model_header(model: WInverter | HyperInverter, recipe: Mapping[str, Any]) -> dict[str, str]:
    return {
        "format": _SAFETENSORS_MODEL,
        "model": json.dumps(describe(model)),
        "generator_sha256": model.generator.sha256,
        "recipe": json.dumps(dict(recipe)),
    }


def _their_model(
    found: _Found, generator: Generator, w_encoder: WEncoder | str | Path | None
) -> HyperInverter:
    """A checkpoint of HyperInverter's release around its generator."""
    used = _their_w_encoder(found) if w_encoder is None else _w_encoder_object(w_encoder)
    w_inverter = _joined(generator, used, found.file if w_encoder is None else _called(w_encoder))
    with _told(found.file, _MODELS):
        _check_size(found, generator)
        regressors = pickles.load_tensors(formats.under(found.stored, "hypernet"), found.file)
        kernels = formats.predicted_kernels(
            formats.under(regressors, "weight_regressors"), generator.kernels(), generator.img_resolution
        )
        hidden, extractor, channels = formats.regressor_sizes(regressors, kernels)
        with torch.device("meta"):
            hypernet = HyperNetwork(kernels, channels, hidden, extractor_channels=extractor)
        wbar = formats.under(found.stored, "w_bar_encoder")
        kind = formats.backbone_of(wbar)
        wbar = {
            name: t for name, t in wbar.items() if formats.style_of(name) in (None, *hypernet.used_styles)
        }
        heads = ("styles", "latlayer1", "latlayer2")
        features = formats.encoder_tensors(pickles.load_tensors(wbar, found.file), heads)
        with torch.device("meta"):
            encoder = FeatureEncoder(kind(), generator.num_ws, channels, used=hypernet.used_styles)
    load_strictly(hypernet, regressors, found.file)
    load_strictly(encoder, features, found.file)
    if w_encoder is not None and formats.under(found.stored, "w_encoder"):
        copy = pickles.load_tensors(formats.under(found.stored, "w_encoder"), found.file)
        ours = formats.encoder_tensors(copy, ("linear",))
        state = used.state_dict()
        if ours.keys() != state.keys() or any(
            not torch.equal(ours[name], t.cpu()) for name, t in state.items()
        ):
            _log.warning(
                "%s was trained on another W encoder than %s, which is used now; leave w_encoder out to use its own",
                found.file,
                _called(w_encoder),
            )
    return HyperInverter(w_inverter, encoder, hypernet)


def _check_size(found: _Found, generator: Generator) -> None:
    """Refuse a generator of another resolution than the model was trained for."""
    styles = {
        index
        for name in formats.under(found.stored, "w_bar_encoder")
        if (index := formats.style_of(name)) is not None
    }
    if styles != set(range(generator.num_ws)):
        raise Unreadable(
            f"was trained for {len(styles)} style layers ({2 ** (len(styles) // 2 + 1)} px), the generator has "
            f"{generator.num_ws} ({generator.img_resolution} px)",
            "give the generator it was trained with",
        )


def _own_model(found: _Found, generator: Generator) -> WInverter | HyperInverter:
    file, ours = found.file, generator.sha256
    if found.made_for and ours and found.made_for != ours and not found.has_generator:
        raise UserError(
            f"{file} was trained with another generator (SHA-256 {found.made_for[:12]}..., this one is "
            f"{ours[:12]}...); choose that generator with generator.path=FILE, or train again"
        )
    inside = formats.under(found.tensors, _GENERATOR_INSIDE.rstrip("."))
    state = generator.state_dict()
    if inside and (
        inside.keys() != state.keys()
        or any(not torch.equal(inside[name], t.cpu()) for name, t in state.items())
    ):
        raise UserError(
            f"{file} was trained with another generator than {generator.source or 'this one'}; leave generator out, "
            "the file holds its own"
        )
    with _fitting(file), torch.device("meta"):
        model = build(found.description, generator)
    own = {name: t for name, t in found.tensors.items() if not name.startswith(_GENERATOR_INSIDE)}
    load_strictly(model, own, file)
    return model.eval()


# What a path leads to ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """An opened model file."""

    file: Path
    theirs: bool  # of HyperInverter's release; else of this project
    stored: dict[str, Any] = field(default_factory=dict)  # theirs: name -> StoredTensor
    tensors: dict[str, Tensor] = field(default_factory=dict)  # ours
    description: dict[str, Any] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)
    made_for: str = ""  # SHA-256 of the generator
    generator_path: str = "digiface"  # where the generator came from

    @property
    def has_generator(self) -> bool:
        return any(name.startswith(_GENERATOR_INSIDE) for name in self.tensors)


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


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a run's checkpoint: tensors and plain values only.

    Raises:
        UserError: If it is cut short, of another kind, or holds anything else.
    """
    try:
        pickles.check_archive(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign files; what is wrong is said below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for bytes that are no checkpoint depends on the bytes
        raise UserError(
            f"{file} cannot be read as a checkpoint: it is cut short or of another kind ({first_line(error)}); give "
            "best.ckpt or last.ckpt of a run"
        ) from error
    if not _is_ours(content):
        raise UserError(
            f"{file} is not a checkpoint of this project: it names no model; give best.ckpt of a run"
        )
    return content


def _open_model(path: str | Path, kind: str, mend: str) -> _Found:
    """Open a packaged name, a run or a file, of this project or of HyperInverter's release.

    Raises:
        UserError: If it is none of these.
    """
    if isinstance(path, str) and f"{path}_{kind}" in PACKAGED:
        file, _ = packaged(kind, path)
        found = _open_safetensors(file)
        return _Found(**{**vars(found), "generator_path": path})
    file = checkpoint_of(path)
    content_kind = pickles.kind_of(file)
    if content_kind == "safetensors" or file.suffix == ".safetensors":
        return _open_safetensors(file)
    if file.suffix == ".ckpt":
        return _open_checkpoint(file, read_checkpoint(file))
    if content_kind == "other":
        raise _nothing_known(file, mend)
    with _told(file, mend):
        content = pickles.read(file)
        if _is_ours(content):
            return _open_checkpoint(file, read_checkpoint(file))
        return _Found(file, theirs=True, stored=_state_dict(content))


def _open_safetensors(file: Path) -> _Found:
    tensors, header = _read_safetensors(file)
    try:
        description = json.loads(header["model"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{file} is not a model of this project: its header describes none; {_MODELS}"
        ) from error
    if not isinstance(description, dict):
        raise UserError(
            f"{file} is not a model of this project: its header describes {description!r}; {_MODELS}"
        )
    floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    made_for = header.get("generator_sha256", "")
    return _Found(
        file, theirs=False, tensors=floats, description=description, header=header, made_for=made_for
    )


def _open_checkpoint(file: Path, content: Mapping[str, Any]) -> _Found:
    state, description = content["state_dict"], content["model"]
    if not isinstance(description, dict):
        raise UserError(f"{file} is not a model of this project: it describes {description!r}; {_MODELS}")
    return _Found(
        file,
        theirs=False,
        tensors={name: t for name, t in formats.under(state, "inverter").items() if isinstance(t, Tensor)},
        description=description,
        made_for=str(content.get("generator_sha256", "")),
        generator_path=str(content.get("generator_path", "digiface")),
    )


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("state_dict"), dict) and "model" in content


def _state_dict(content: Any) -> dict[str, Any]:
    """``state_dict`` of a foreign checkpoint, its names checked to be text."""
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise Unreadable("is not a checkpoint of HyperInverter's release: it has no state_dict")
    return state


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


def _existing(path: str | Path) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {file}; check its path")
    return file


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({first_line(error)}): it is cut short or of another kind; restore "
            "it from its source"
        ) from error


def _nothing_known(file: Path, mend: str) -> UserError:
    """The sentence for a file that is no container of weights at all."""
    start = file.read_bytes()[:200] if file.stat().st_size < 1 << 20 else b""
    if file.stat().st_size == 0:
        reason = "is empty"
    elif start.startswith(b"version https://git-lfs"):
        reason, mend = "is a pointer of Git LFS, not the file itself", "fetch it with git lfs pull"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        reason, mend = (
            "is a web page, not weights",
            "download it again, in a browser if the page asks for a click",
        )
    else:
        reason = "is neither a torch file, a pickle nor safetensors: it is cut short or of another kind"
    return UserError(f"{file} {reason}; {mend}")


@contextmanager
def _told(file: Path, mend: str) -> Iterator[None]:
    """Turn a reader's reason into the sentence a person reads."""
    try:
        yield
    except Unreadable as error:
        raise UserError(f"{file} {error.reason}; {error.mend or mend}") from error
    except (OSError, MemoryError) as error:
        raise UserError(
            f"{file} cannot be read ({first_line(error)}); check the disk and free memory"
        ) from error
    except _BAD_DESCRIPTION as error:  # shapes no network can have, such as a w of no numbers
        raise UserError(f"{file} is no network there can be ({first_line(error)}); {mend}") from error


@contextmanager
def _fitting(file: Path) -> Iterator[None]:
    """Turn what a wrong description trips over into the sentence a person reads."""
    try:
        yield
    except _BAD_DESCRIPTION as error:
        raise UserError(f"{file} does not fit: {first_line(error)}; {_MODELS}") from error


def _generator_object(generator: Generator | str | Path) -> Generator:
    return generator if isinstance(generator, Generator) else load_generator(generator)


def _w_encoder_object(w_encoder: WEncoder | str | Path) -> WEncoder:
    return w_encoder if isinstance(w_encoder, WEncoder) else load_w_encoder(w_encoder)


def _called(part: nn.Module | str | Path) -> str:
    return "the given one" if isinstance(part, nn.Module) else str(part)


def _same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(t.cpu(), theirs[n].cpu()) for n, t in mine.items()
    )


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
