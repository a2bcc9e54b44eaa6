"""NVIDIA's network pickles in our names: StyleGAN2-ADA's, and StyleGAN2's of the StyleGAN3 repository.

Names and shapes follow training/networks.py, training/networks_stylegan2.py and torch_utils/persistence.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hyperinverter.checkpoints.pickles import Unreadable, dictionary
from hyperinverter.checkpoints.shapes import (
    ORDINARY,
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
from hyperinverter.checkpoints.unwrapping import Unwrapped, has
from hyperinverter.contracts import shown
from hyperinverter.networks.generator import GeneratorConfig

_PLAIN = (str, int, float, type(None))


@dataclass(frozen=True)
class Network:
    """One network: what its objects say of themselves, and where its tensors are."""

    name: str  # what it is called, "G_ema" or "D"
    options: dict[str, Any]  # constructor arguments, with those of synthesis
    mapping: dict[str, Any]  # constructor arguments of the mapping network
    stored: dict[str, Any]  # tensor name -> StoredTensor
    modules: dict[str, dict[str, Any]]  # module path -> its attributes

    def agreed(self, attribute: str, default: Any, but: Collection[str] = ()) -> Any:
        """What all layers that have this attribute say; the constructor's argument if none has it.

        Args:
            attribute: Its name.
            default: Used where the constructor was given none either.
            but: Paths of layers that are not asked.

        Raises:
            Unreadable: If layers differ, or say something else than a number or a text.
        """
        said = [
            state[attribute] for path, state in self.modules.items() if attribute in state and path not in but
        ]
        if not said:
            return self.options.get(attribute, default)
        if not all(isinstance(value, _PLAIN) for value in said):  # comparing containers may take for ever
            raise Unreadable(
                f"has layers of {self.name} whose {attribute} is neither number nor text", ORDINARY
            )
        if any(value != said[0] for value in said):
            raise Unreadable(f"has layers of {self.name} that differ in {attribute}", ORDINARY)
        return said[0]


def is_generator(names: Mapping[str, Any]) -> bool:
    """Whether names are a generator's, of StyleGAN2 or StyleGAN3."""
    return has(names, "synthesis.b4.", "synthesis.input.") or "mapping.fc0.weight" in names


def is_discriminator(names: Mapping[str, Any]) -> bool:
    """Whether names are a discriminator's."""
    return has(names, "b4.conv.", "b4.out.", "b4.fc.")


def network_of(found: Unwrapped, name: str) -> Network:
    """A network of a network pickle, or its tensors alone.

    Raises:
        Unreadable: If it is none of the unconditional StyleGAN2 family.
    """
    modules, stored = found.modules, found.stored
    root = modules.get("", {})
    arguments = dictionary(root.get("_init_kwargs", {}))
    options = {key: value for key, value in arguments.items() if not key.endswith("_kwargs")}
    for group in ("synthesis_kwargs", "block_kwargs", "epilogue_kwargs"):
        options |= dictionary(arguments.get(group, {}))
    network = Network(name, options, dictionary(arguments.get("mapping_kwargs", {})), stored, modules)
    if has(stored, "synthesis.input.") or any(".L0_" in f".{path}" for path in (*modules, *stored)):
        raise Unreadable(
            "is a StyleGAN3 network, whose layers are others",
            "give a StyleGAN2 network; the stylegan3 repository trains one with --cfg=stylegan2",
        )
    label_size = root.get("c_dim", options.get("c_dim", 0))
    if label_size or any(tensor_name.startswith("mapping.embed.") for tensor_name in stored):
        raise Unreadable(
            f"is a conditional network (its images depend on a label of {shown(label_size or 'some')} numbers)",
            "give one trained without --cond",
        )
    activations = {state["activation"] for state in modules.values() if _is_text(state, "activation")}
    if not activations <= {"lrelu", "linear"}:
        raise Unreadable(f"uses the activation {shown(min(activations - {'lrelu', 'linear'}))}", ORDINARY)
    return network


def _is_text(state: dict[str, Any], attribute: str) -> bool:
    return isinstance(state.get(attribute), str)


def read_generator(found: Unwrapped, load: Load) -> Foreign:
    """The generator ``G_ema``, as an object or its tensors alone.

    Shapes are read from the tensors; the constructor's arguments only say what tensors cannot: gains and clamps.

    Raises:
        Unreadable: If it is a variant that draws other images than ours would.
    """
    network = network_of(found, "G_ema")
    if network.agreed("architecture", "skip") != "skip":
        raise Unreadable(
            "is a generator without skip connections", "give one with architecture=skip, the default"
        )
    if (
        network.mapping.get("activation", "lrelu") != "lrelu"
        or network.options.get("activation", "lrelu") != "lrelu"
    ):
        raise Unreadable("uses another activation than lrelu", ORDINARY)
    tensors = without_filters(load(network.stored), ".resample_filter", 1.0)
    stated = bool(network.modules)  # an object says with what it was made
    knows_noise = stated or any(name.endswith(".noise_const") for name in tensors)
    knows_mean = stated or "mapping.w_avg" in tensors
    if not knows_mean:
        width = shape_of(tensors, "mapping.fc0.bias", 1)[0]
        tensors["mapping.w_avg"] = torch.zeros(width)
    if not network.agreed("use_noise", True):  # then the file has no noise: none is what strength zero draws
        for layer, side in _convolutions(tensors):
            tensors[f"{layer}.noise_strength"] = torch.zeros(())
            tensors[f"{layer}.noise_const"] = noise_of(side, 0).zero_()
    elif not knows_noise:
        for number, (layer, side) in enumerate(_convolutions(tensors)):
            tensors[f"{layer}.noise_const"] = noise_of(side, number)
    config = generator_config(
        tensors,
        clamp=positive(network.agreed("conv_clamp", None), "conv_clamp"),
        lr_multiplier=positive(_multiplier(network), "lr_multiplier") or USUAL_MULTIPLIER,
        hint=(network.options.get("channel_base"), network.options.get("channel_max", 512)),
    )
    return Foreign(config, tensors, knows_mean, knows_noise, knows_multiplier=stated, knows_clamp=stated)


def _convolutions(tensors: Tensors) -> list[tuple[str, int]]:
    """Layers that add noise, and the sides of their maps."""
    names = [name for name in tensors if re.fullmatch(r"synthesis\.b\d+\.conv[01]\.weight", name)]
    return [(name.removesuffix(".weight"), int(name.split(".")[1][1:])) for name in names]


def _multiplier(network: Network) -> Any:
    """The factor of the mapping network's learning rate, from its layers, or from its constructor's arguments."""
    first = network.modules.get("mapping.fc0", {})
    return first.get("bias_gain") or network.mapping.get("lr_multiplier", USUAL_MULTIPLIER)


def read_discriminator(found: Unwrapped, load: Load) -> tuple[GeneratorConfig, int | None, Tensors]:
    """Configuration, group size of the minibatch statistic and tensors of ``D``.

    Raises:
        Unreadable: If it is a variant that ours cannot be.
    """
    network = network_of(found, "D")
    if network.agreed("architecture", "resnet") != "resnet":
        raise Unreadable("has a D without residual blocks", "give one with architecture=resnet, the default")
    spread = network.modules.get("b4.mbstd", {})
    channels = spread.get("num_channels", network.options.get("mbstd_num_channels", 1))
    group = spread.get("group_size", network.options.get("mbstd_group_size", 4))
    if channels != 1 or not (group is None or (type(group) is int and group > 0)):
        raise Unreadable(
            f"has a D with {shown(channels)} minibatch channels in groups of {shown(group)}", ORDINARY
        )
    tensors = without_filters(load(network.stored), ".resample_filter", 1.0)
    # A skip has no clamp and conv1's is scaled when it is used: the argument is the same for all.
    clamp = network.agreed(
        "conv_clamp", None, but={path for path in network.modules if path.endswith(".skip")}
    )
    return discriminator_config(tensors, positive(clamp, "conv_clamp")), group, tensors
