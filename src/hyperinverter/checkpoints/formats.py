"""Other people's state dicts in our names: pure functions from what a file holds to what a network takes.

Names and shapes follow the published files: NVIDIA's StyleGAN2-ADA and StyleGAN3 repositories (training/networks.py,
training/networks_stylegan2.py, torch_utils/persistence.py), rosinality's stylegan2-pytorch (model.py) and
HyperInverter (models/hyper_inverter.py, models/encoders/fpn_encoders.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperinverter.checkpoints.pickles import Record, Unreadable
from hyperinverter.contracts import KernelSpec
from hyperinverter.networks.backbones import IRSE50, Backbone, ResNet34
from hyperinverter.networks.generator import GeneratorConfig
from hyperinverter.ops.resample import fir_kernel

Tensors = dict[str, Tensor]
Load = Callable[[Mapping[str, Any]], Tensors]

_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_MAX_MODULES = 10_000
_CONFIG_F = (32768, 512)  # channel_base, channel_max of the published networks
_ALTERNATIVES = (_CONFIG_F, (16384, 512))  # ADA's paper256, and rosinality's channel_multiplier 1


# NVIDIA's network pickles ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """One network of an NVIDIA pickle: what its objects say of themselves, and where its tensors are."""

    name: str  # key in the pickle, "G_ema" or "D"
    options: dict[str, Any]  # constructor arguments, those of synthesis beside the others
    mapping: dict[str, Any]  # constructor arguments of the mapping network
    stored: dict[str, Any]  # tensor name -> StoredTensor
    modules: dict[str, dict[str, Any]]  # module path -> its attributes

    def agreed(self, attribute: str, default: Any) -> Any:
        """What all layers that have this attribute say; the constructor's argument if none has it.

        Raises:
            Unreadable: If layers differ.
        """
        said = [state[attribute] for state in self.modules.values() if attribute in state]
        if not said:
            return self.options.get(attribute, default)
        if any(value != said[0] for value in said):
            raise Unreadable(f"has layers of {self.name} that differ in {attribute}", _ORDINARY)
        return said[0]


_ORDINARY = "give a StyleGAN2 network as the repositories train it by default"


def nvidia_network(content: Any, name: str) -> Network:
    """Find a network in a network pickle.

    Raises:
        Unreadable: If there is none, or it is none of the unconditional StyleGAN2 family.
    """
    if not isinstance(content, dict) or not isinstance(content.get(name), Record):
        raise Unreadable(
            f"is a pickle without {name}",
            "give a network pickle of NVIDIA's stylegan2-ada-pytorch or stylegan3, a dictionary with G, D and G_ema",
        )
    modules = dict(_walk(content[name]))
    stored = {
        ".".join(filter(None, (path, tensor_name))): tensor
        for path, state in modules.items()
        for group in ("_parameters", "_buffers")
        for tensor_name, tensor in _dictionary(state.get(group, {})).items()
        if tensor is not None
    }
    arguments = _dictionary(modules[""].get("_init_kwargs", {}))
    options = {key: value for key, value in arguments.items() if not key.endswith("_kwargs")}
    for group in ("synthesis_kwargs", "block_kwargs", "epilogue_kwargs"):
        options |= _dictionary(arguments.get(group, {}))
    network = Network(name, options, _dictionary(arguments.get("mapping_kwargs", {})), stored, modules)
    if "synthesis.input" in modules or any(".L0_" in f".{path}" for path in modules):
        raise Unreadable(
            "is a StyleGAN3 network, whose layers are others",
            "give a StyleGAN2 network; the stylegan3 repository trains one with --cfg=stylegan2",
        )
    label_size = modules[""].get("c_dim", options.get("c_dim", 0))
    if label_size or any(tensor_name.startswith("mapping.embed.") for tensor_name in stored):
        raise Unreadable(
            f"is a conditional network (its images depend on a label of {label_size or 'some'} numbers)",
            "give one trained without --cond",
        )
    activations = {state["activation"] for state in modules.values() if _is_text(state, "activation")}
    if not activations <= {"lrelu", "linear"}:
        raise Unreadable(
            f"uses the activation {', '.join(sorted(activations - {'lrelu', 'linear'}))}", _ORDINARY
        )
    return network


def _walk(root: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and attributes of a module and all below it."""
    waiting: list[tuple[str, Any]] = [("", root)]
    for _ in range(_MAX_MODULES):
        if not waiting:
            return
        path, module = waiting.pop()
        if not isinstance(module, Record) or module.name != _PERSISTENT or len(module.arguments) != 1:
            raise Unreadable(f"holds something else than a network under {path or 'its name'}")
        state = _dictionary(_dictionary(module.arguments[0]).get("state", {}))
        yield path, state
        for name, child in _dictionary(state.get("_modules", {})).items():
            if child is not None:
                waiting.append((f"{path}.{name}" if path else str(name), child))
    raise Unreadable(f"has more than {_MAX_MODULES} modules")


def _dictionary(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise Unreadable(f"is damaged: it has {type(value).__name__} where a dictionary belongs")
    return value


def _is_text(state: dict[str, Any], attribute: str) -> bool:
    return isinstance(state.get(attribute), str)


def nvidia_generator(network: Network, load: Load) -> tuple[GeneratorConfig, Tensors]:
    """Configuration and tensors of ``G_ema``.

    Shapes are read from the tensors; the constructor's arguments only say what tensors cannot: gains and clamps.

    Raises:
        Unreadable: If it is a variant that draws other images than ours would.
    """
    if network.agreed("architecture", "skip") != "skip":
        raise Unreadable(
            "is a generator without skip connections", "give one with architecture=skip, the default"
        )
    if (
        network.mapping.get("activation", "lrelu") != "lrelu"
        or network.options.get("activation", "lrelu") != "lrelu"
    ):
        raise Unreadable("uses another activation than lrelu", _ORDINARY)
    tensors = _without_filters(load(network.stored), ".resample_filter", 1.0)
    if not network.agreed("use_noise", True):  # then the file has no noise: none is what strength zero draws
        for name in [n for n in tensors if re.fullmatch(r"synthesis\.b\d+\.conv[01]\.weight", n)]:
            layer, side = name.removesuffix(".weight"), int(name.split(".")[1][1:])
            tensors |= {
                f"{layer}.noise_strength": torch.zeros(()),
                f"{layer}.noise_const": torch.zeros(side, side),
            }
    config = generator_config(
        tensors,
        clamp=_number(network.agreed("conv_clamp", None), "conv_clamp"),
        lr_multiplier=_number(network.mapping.get("lr_multiplier", 0.01), "lr_multiplier") or 0.01,
        hint=(network.options.get("channel_base"), network.options.get("channel_max", 512)),
    )
    return config, tensors


def nvidia_critic(network: Network, load: Load) -> tuple[GeneratorConfig, int | None, Tensors]:
    """Configuration, group size of the minibatch statistic and tensors of ``D``.

    Raises:
        Unreadable: If it is a variant that ours cannot be.
    """
    if network.agreed("architecture", "resnet") != "resnet":
        raise Unreadable("has a D without residual blocks", "give one with architecture=resnet, the default")
    spread = network.modules.get("b4.mbstd", {})
    channels = spread.get("num_channels", network.options.get("mbstd_num_channels", 1))
    group = spread.get("group_size", network.options.get("mbstd_group_size", 4))
    if channels != 1 or not (group is None or (type(group) is int and group > 0)):
        raise Unreadable(f"has a D with {channels} minibatch channels in groups of {group}", _ORDINARY)
    tensors = _without_filters(load(network.stored), ".resample_filter", 1.0)
    # A skip has no clamp and conv1's is scaled when it is used: the argument is the same for all.
    clamps = {
        state["conv_clamp"]
        for path, state in network.modules.items()
        if "conv_clamp" in state and not path.endswith(".skip")
    }
    clamp = clamps.pop() if len(clamps) == 1 else network.options.get("conv_clamp")
    if clamps:
        raise Unreadable("has layers of D that differ in conv_clamp", _ORDINARY)
    return critic_config(tensors, _number(clamp, "conv_clamp")), group, tensors


def _number(value: Any, name: str) -> float | None:
    if value is None or (isinstance(value, (int, float)) and value > 0 and math.isfinite(value)):
        return value
    raise Unreadable(f"is damaged: its {name} is no positive number")


def _without_filters(tensors: Tensors, ending: str, gain: float) -> Tensors:
    """Leave out the constant FIR filters, which ours does not store, if they are the ones ours uses."""
    expected = fir_kernel(gain)
    for name, tensor in tensors.items():
        if not name.endswith(ending):
            continue
        if tensor.shape != expected.shape or not torch.allclose(tensor, expected, rtol=1e-4):
            raise Unreadable(f"resamples with another filter than [1, 3, 3, 1] ({name})", _ORDINARY)
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(ending)}


# Shapes -> configuration -------------------------------------------------------------------------------------


def generator_config(
    tensors: Tensors,
    clamp: float | None,
    lr_multiplier: float,
    hint: tuple[Any, Any] = _CONFIG_F,
) -> GeneratorConfig:
    """Read a generator's configuration off its tensors, in our names.

    Raises:
        Unreadable: If a tensor that tells it is missing.
    """
    blocks = _resolutions(tensors, r"synthesis\.b(\d+)\.conv1\.weight")
    widths = [_shape(tensors, f"synthesis.b{resolution}.conv1.weight", 4)[0] for resolution in blocks]
    base, most, special = _channels(blocks, widths, hint)
    colours = _shape(tensors, f"synthesis.b{blocks[-1]}.torgb.weight", 4)[0]
    if colours != 3:
        raise Unreadable(f"draws images of {colours} channels", "give a generator of RGB images")
    w_dim = _shape(tensors, "mapping.w_avg", 1)[0]
    layers = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in tensors)
    for i in range(layers):
        if _shape(tensors, f"mapping.fc{i}.weight", 2)[0] != w_dim:
            raise Unreadable("has a mapping network wider than w", _ORDINARY)
    return GeneratorConfig(
        z_dim=_shape(tensors, "mapping.fc0.weight", 2)[1],
        w_dim=w_dim,
        img_resolution=blocks[-1],
        mapping_layers=layers,
        mapping_lr_multiplier=lr_multiplier,
        channel_base=base,
        channel_max=most,
        conv_clamp=clamp,
        widths=special,
    )


def critic_config(tensors: Tensors, clamp: float | None) -> GeneratorConfig:
    """Read a critic's widths off its tensors.

    Raises:
        Unreadable: If a tensor that tells them is missing.
    """
    blocks = [4, *_resolutions(tensors, r"b(\d+)\.conv0\.weight", first=8)]
    widths = [_shape(tensors, "b4.conv.weight", 4)[0]]
    widths += [_shape(tensors, f"b{resolution}.conv0.weight", 4)[0] for resolution in blocks[1:]]
    base, most, special = _channels(blocks, widths, _CONFIG_F)
    return GeneratorConfig(
        img_resolution=blocks[-1], channel_base=base, channel_max=most, conv_clamp=clamp, widths=special
    )


def _resolutions(tensors: Tensors, pattern: str, first: int = 4) -> list[int]:
    found = sorted(int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name)))
    if not 1 <= len(found) <= 12 or found != [first << i for i in range(len(found))] or found[-1] < 8:
        raise Unreadable(f"is no StyleGAN2 network of a usual resolution: it has the blocks {found[:20]}")
    return found


def _shape(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != dimensions:
        found = "is missing" if tensor is None else f"has the shape {tuple(tensor.shape)}"
        raise Unreadable(f"is no whole network: {name} {found}")
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
    return *_CONFIG_F, tuple(widths)


# rosinality's files ------------------------------------------------------------------------------------------

_LAYER = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
}
_CONV = {**_LAYER, "noise.weight": "noise_strength", "activate.bias": "bias"}
_TORGB = {**_LAYER, "bias": "bias"}


def rosinality_generator(
    state: Mapping[str, Any], latent_avg: Any, load: Load
) -> tuple[GeneratorConfig, Tensors, bool]:
    """Configuration and tensors of ``g_ema``, and whether the file knows the mean of w (else zeros stand for it).

    Nothing is flipped or rescaled: both repositories use the same kernels and gains.

    Raises:
        Unreadable: If tensors are missing or left over.
    """
    held = load(dict(state))
    w_dim = _shape(held, "style.1.bias", 1)[0]
    w_avg = torch.zeros(w_dim)
    if latent_avg is not None:
        given = load({"latent_avg": latent_avg})["latent_avg"]
        if given.ndim == 0 or given.shape[-1] != w_dim:
            raise Unreadable(f"has a latent_avg of the shape {tuple(given.shape)} for w of {w_dim} numbers")
        w_avg = given.reshape(-1, w_dim)[0].clone()  # sometimes repeated for every style layer
    held = _without_filters(_without_filters(held, ".blur.kernel", 4.0), ".upsample.kernel", 4.0)
    later = sum(bool(re.fullmatch(r"to_rgbs\.\d+\.bias", name)) for name in held)
    names: dict[str, str] = {"input.input": "synthesis.b4.const"}
    for i in range(sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in held)):
        names |= {f"style.{i + 1}.{kind}": f"mapping.fc{i}.{kind}" for kind in ("weight", "bias")}

    def layer(theirs: str, ours: str, parts: Mapping[str, str]) -> None:
        names.update({f"{theirs}.{part}": f"synthesis.{ours}.{name}" for part, name in parts.items()})

    def conv(theirs: str, ours: str, noise: int) -> None:
        layer(theirs, ours, _CONV)
        names[f"noises.noise_{noise}"] = f"synthesis.{ours}.noise_const"

    conv("conv1", "b4.conv1", 0)
    layer("to_rgb1", "b4.torgb", _TORGB)
    for j in range(later):
        block = f"b{8 << j}"
        conv(f"convs.{2 * j}", f"{block}.conv0", 2 * j + 1)
        conv(f"convs.{2 * j + 1}", f"{block}.conv1", 2 * j + 2)
        layer(f"to_rgbs.{j}", f"{block}.torgb", _TORGB)
    tensors = {ours: _without_ones(ours, tensor) for ours, tensor in _renamed(held, names).items()}
    tensors["mapping.w_avg"] = w_avg
    return generator_config(tensors, clamp=None, lr_multiplier=0.01), tensors, latent_avg is not None


def rosinality_critic(state: Mapping[str, Any], load: Load) -> tuple[GeneratorConfig, int | None, Tensors]:
    """Configuration, group size and tensors of ``d``.

    Raises:
        Unreadable: If tensors are missing or left over.
    """
    held = load(dict(state))
    for place in (".conv2.0.kernel", ".skip.0.kernel"):
        held = _without_filters(held, place, 1.0)
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
    return critic_config(tensors, clamp=None), 4, tensors


def _renamed(held: Tensors, names: Mapping[str, str]) -> Tensors:
    missing, extra = sorted(names.keys() - held.keys()), sorted(held.keys() - names.keys())
    if missing or extra:
        problems = [
            f"{len(wrong)} tensors {what} (first: {wrong[0]})"
            for what, wrong in (("missing", missing), ("unexpected", extra))
            if wrong
        ]
        raise Unreadable(f"is no whole rosinality network: {', '.join(problems)}")
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


# The authors' encoders and hypernetworks ---------------------------------------------------------------------


def under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with ``prefix`` and a dot, without them."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


def backbone_of(names: Mapping[str, Any]) -> type[Backbone]:
    """Tell the paper's two backbones apart by the tensors of an encoder.

    Raises:
        Unreadable: If it has neither.
    """
    if "input_layer.0.weight" in names:
        return IRSE50
    if "conv1.weight" in names:
        return ResNet34
    raise Unreadable(
        "is an encoder with neither IR-SE-50 nor ResNet-34", "give an encoder of HyperInverter's release"
    )


def encoder_tensors(tensors: Tensors, heads: tuple[str, ...]) -> Tensors:
    """The authors' encoders hold the backbone beside its heads; ours in ``backbone``."""
    return {
        name if name.startswith(tuple(f"{head}." for head in heads)) else f"backbone.{name}": tensor
        for name, tensor in tensors.items()
    }


def predicted_kernels(
    regressors: Mapping[str, Any], kernels: list[KernelSpec], resolution: int
) -> list[KernelSpec]:
    """The kernels of a generator that the regressors of a file are for.

    Args:
        regressors: Names such as "b16_conv0_weight.w1".
        kernels: What ``generator.kernels()`` offers.
        resolution: Of that generator, for the message.

    Raises:
        Unreadable: If there is a regressor for a kernel the generator does not have.
    """
    layers = {name.split(".")[0] for name in regressors}
    by_name = {spec.name.replace(".", "_"): spec for spec in kernels}
    unknown = sorted(layers - by_name.keys())
    if unknown or not layers:
        missing = ", ".join(unknown[:3]) or "any layer"
        raise Unreadable(
            f"predicts {missing}, which the generator of {resolution} px does not have",
            "give the generator it was trained with",
        )
    return [spec for name, spec in by_name.items() if name in layers]


def regressor_sizes(regressors: Tensors, kernels: list[KernelSpec]) -> tuple[int, int, int]:
    """Hidden size D, width of the extractor, and channels C of the feature maps of a hypernetwork.

    Args:
        regressors: Tensors under ``weight_regressors``.
        kernels: Of the generator, those it is for.

    Raises:
        Unreadable: If a regressor is for a kernel of another shape.
    """
    first = f"weight_regressors.{kernels[0].name.replace('.', '_')}"
    hidden = _shape(regressors, f"{first}.w1", 2)[0]
    for spec in kernels:
        name = f"weight_regressors.{spec.name.replace('.', '_')}"
        inputs = spec.shape[1]
        needed = (hidden, inputs * hidden), (hidden, math.prod(spec.shape) // inputs)
        if (_shape(regressors, f"{name}.w1", 2), _shape(regressors, f"{name}.w2", 2)) != needed:
            raise Unreadable(
                f"predicts {spec.name} in another shape than the generator's {spec.shape}",
                "give the generator it was trained with: this one has other widths",
            )
    extractor, channels = _shape(regressors, f"{first}.feature_extractor.0.weight", 4)[:2]
    return hidden, extractor, channels


def style_of(name: str) -> int | None:
    """Style layer of a tensor of the authors' second encoder; None for backbone and pyramid."""
    match = re.fullmatch(r"styles\.(\d{1,3})\..+", name)
    return int(match[1]) if match else None
