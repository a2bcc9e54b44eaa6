"""NVIDIA's network pickles in our names: StyleGAN2-ADA's, and StyleGAN2's of the StyleGAN3 repository.

Names and shapes follow training/networks.py, training/networks_stylegan2.py and torch_utils/persistence.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hyperinverter.checkpoints.pickles import Record, Unreadable
from hyperinverter.checkpoints.shapes import (
    ORDINARY,
    Load,
    Tensors,
    critic_config,
    generator_config,
    without_filters,
)
from hyperinverter.networks.generator import GeneratorConfig

_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_MAX_MODULES = 10_000


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
            raise Unreadable(f"has layers of {self.name} that differ in {attribute}", ORDINARY)
        return said[0]


def find_network(content: Any, name: str) -> Network:
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
            f"uses the activation {', '.join(sorted(activations - {'lrelu', 'linear'}))}", ORDINARY
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


def read_generator(network: Network, load: Load) -> tuple[GeneratorConfig, Tensors]:
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
        raise Unreadable("uses another activation than lrelu", ORDINARY)
    tensors = without_filters(load(network.stored), ".resample_filter", 1.0)
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


def read_critic(network: Network, load: Load) -> tuple[GeneratorConfig, int | None, Tensors]:
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
        raise Unreadable(f"has a D with {channels} minibatch channels in groups of {group}", ORDINARY)
    tensors = without_filters(load(network.stored), ".resample_filter", 1.0)
    # A skip has no clamp and conv1's is scaled when it is used: the argument is the same for all.
    clamps = {
        state["conv_clamp"]
        for path, state in network.modules.items()
        if "conv_clamp" in state and not path.endswith(".skip")
    }
    clamp = clamps.pop() if len(clamps) == 1 else network.options.get("conv_clamp")
    if clamps:
        raise Unreadable("has layers of D that differ in conv_clamp", ORDINARY)
    return critic_config(tensors, _number(clamp, "conv_clamp")), group, tensors


def _number(value: Any, name: str) -> float | None:
    if value is None or (isinstance(value, (int, float)) and value > 0 and math.isfinite(value)):
        return value
    raise Unreadable(f"is damaged: its {name} is no positive number")
