"""Files as other people's tools write them, with tensors filled by a formula under the exact names.

Everything is written from the published names and shapes, not with this project's modules.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """What fixes the shapes of a StyleGAN2."""

    resolution: int = 32
    z_dim: int = 12
    w_dim: int = 16
    layers: int = 2
    widths: tuple[int, ...] = (8, 8, 8, 4)  # of the blocks 4, 8, ...
    clamp: float | None = None

    @property
    def blocks(self) -> list[int]:
        return [4 << i for i in range(len(self.widths))]

    @property
    def num_ws(self) -> int:
        return 2 * len(self.widths)


def filled(name: str, shape: tuple[int, ...], scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Numbers of mean ``offset`` and about unit spread times ``scale``, given by the name alone."""
    count = math.prod(shape)
    phase = crc32(name.encode()) % 9973
    numbers = torch.arange(count, dtype=torch.float64) * 0.7548776662466927 + phase * 0.5698402909980532
    spread = (numbers.frac() - 0.5) * math.sqrt(12)  # even over an interval, variance 1
    return (offset + scale * spread).float().reshape(shape)


def fir(gain: float = 1.0) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64 * gain


# NVIDIA's names ----------------------------------------------------------------------------------------------


def generator_state(shape: Shape) -> State:
    """``G_ema.state_dict()`` of StyleGAN2-ADA."""
    state: State = {}

    def put(name: str, dimensions: tuple[int, ...], scale: float = 1.0, offset: float = 0.0) -> None:
        state[name] = filled(name, dimensions, scale, offset)

    def affine(layer: str, channels: int) -> None:
        put(f"{layer}.affine.weight", (channels, shape.w_dim))
        put(f"{layer}.affine.bias", (channels,), 0.1, 1.0)

    below = 0
    for resolution, width in zip(shape.blocks, shape.widths, strict=True):
        block = f"synthesis.b{resolution}"
        state[f"{block}.resample_filter"] = fir()
        if resolution == 4:
            put(f"{block}.const", (width, 4, 4))
        for conv, inputs in (("conv0", below), ("conv1", width)):
            if inputs == 0:
                continue
            layer = f"{block}.{conv}"
            put(f"{layer}.weight", (width, inputs, 3, 3))
            put(f"{layer}.bias", (width,), 0.1)
            put(f"{layer}.noise_strength", (), 0.1)
            put(f"{layer}.noise_const", (resolution, resolution))
            state[f"{layer}.resample_filter"] = fir()
            affine(layer, inputs)
        put(f"{block}.torgb.weight", (3, width, 1, 1))
        put(f"{block}.torgb.bias", (3,), 0.1)
        affine(f"{block}.torgb", width)
        below = width
    for i in range(shape.layers):
        put(f"mapping.fc{i}.weight", (shape.w_dim, shape.z_dim if i == 0 else shape.w_dim), 100.0)
        put(f"mapping.fc{i}.bias", (shape.w_dim,), 10.0)
    put("mapping.w_avg", (shape.w_dim,), 0.3)
    return state


def discriminator_state(shape: Shape) -> State:
    """``D.state_dict()`` of StyleGAN2-ADA."""
    state: State = {}
    widths = dict(zip(shape.blocks, shape.widths, strict=True))

    def conv(layer: str, dimensions: tuple[int, ...], bias: bool = True) -> None:
        state[f"{layer}.weight"] = filled(f"{layer}.weight", dimensions)
        if bias:
            state[f"{layer}.bias"] = filled(f"{layer}.bias", dimensions[:1], 0.1)
        state[f"{layer}.resample_filter"] = fir()

    for resolution in shape.blocks[:0:-1]:
        block, here, below = f"b{resolution}", widths[resolution], widths[resolution // 2]
        state[f"{block}.resample_filter"] = fir()
        if resolution == shape.resolution:
            conv(f"{block}.fromrgb", (here, 3, 1, 1))
        conv(f"{block}.conv0", (here, here, 3, 3))
        conv(f"{block}.conv1", (below, here, 3, 3))
        conv(f"{block}.skip", (below, here, 1, 1), bias=False)
    last = widths[4]
    conv("b4.conv", (last, last + 1, 3, 3))
    for layer, dimensions in (("fc", (last, last * 16)), ("out", (1, last))):
        state[f"b4.{layer}.weight"] = filled(f"b4.{layer}.weight", dimensions)
        state[f"b4.{layer}.bias"] = filled(f"b4.{layer}.bias", dimensions[:1], 0.1)
    return state


# NVIDIA's network pickle -------------------------------------------------------------------------------------


class _Persistent:
    """Pickles as ``torch_utils.persistence`` does: one call with a dictionary that carries source code and state."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('the source code inside a pickle was run')",
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)  # type: ignore[attr-defined]


def module_tree(
    state: State, class_name: str, more: dict[str, dict[str, Any]], path: str = ""
) -> _Persistent:
    """Nest a flat state dict into persistent objects, with ``more`` attributes by module path."""
    children: OrderedDict[str, Any] = OrderedDict()
    parameters: OrderedDict[str, Any] = OrderedDict()
    buffers: OrderedDict[str, Any] = OrderedDict()
    for name, tensor in state.items():
        first, dot, rest = name.partition(".")
        if dot:
            children.setdefault(first, {})[rest] = tensor
        elif first in ("resample_filter", "noise_const", "w_avg"):
            buffers[first] = tensor
        else:
            parameters[first] = torch.nn.Parameter(tensor)
    modules: OrderedDict[str, Any] = OrderedDict(
        (name, module_tree(inner, "Layer", more, f"{path}.{name}" if path else name))
        for name, inner in children.items()
    )
    if "skip" in modules:
        parameters["bias"] = None  # a parameter may be registered without a tensor
    own = {
        "training": False,
        "_parameters": parameters,
        "_buffers": buffers,
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": modules,
        "_init_args": (),
        "_init_kwargs": {},
    }
    return _Persistent(class_name, own | more.get(path, {}))


def nvidia_options(shape: Shape) -> dict[str, Any]:
    """Constructor arguments of an ADA generator. Widths come from the tensors, as not all follow a base."""
    return {
        "z_dim": shape.z_dim,
        "c_dim": 0,
        "w_dim": shape.w_dim,
        "img_resolution": shape.resolution,
        "img_channels": 3,
        "mapping_kwargs": {"num_layers": shape.layers},
        "synthesis_kwargs": {"num_fp16_res": 4, "conv_clamp": shape.clamp},
    }


def write_nvidia(
    path: Path,
    shape: Shape,
    *,
    options: dict[str, Any] | None = None,
    state: State | None = None,
    more: dict[str, dict[str, Any]] | None = None,
    discriminator_more: dict[str, dict[str, Any]] | None = None,
    protocol: int = 3,
    write: Callable[[dict[str, Any], Path], None] | None = None,
) -> Path:
    """A network pickle with G, D and G_ema, as training_loop.py of stylegan2-ada-pytorch dumps it."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
        raise AssertionError("the reader called what the pickle names")

    class EasyDict(dict):
        pass

    for function, module in ((_reconstruct_persistent_obj, persistence), (EasyDict, util)):
        function.__module__, function.__qualname__ = module.__name__, function.__name__
        setattr(module, function.__name__, function)
    wanted = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": util,
    }
    options = nvidia_options(shape) if options is None else options
    live = {name: tensor + 1 for name, tensor in generator_state(shape).items()}  # G is not G_ema
    discriminator_options = {
        "c_dim": 0,
        "img_resolution": shape.resolution,
        "img_channels": 3,
        "conv_clamp": shape.clamp,
    }
    try:
        sys.modules.update(wanted)
        content = {
            "G": module_tree(live, "Generator", {"": {"_init_kwargs": EasyDict(options)}}),
            "D": module_tree(
                discriminator_state(shape),
                "Discriminator",
                {"": {"_init_kwargs": EasyDict(discriminator_options)}} | (discriminator_more or {}),
            ),
            "G_ema": module_tree(
                generator_state(shape) if state is None else state,
                "Generator",
                {"": {"_init_kwargs": EasyDict(options)}} | (more or {}),
            ),
            "training_set_kwargs": EasyDict(
                class_name="training.dataset.ImageFolderDataset", path="data.zip"
            ),
            "augment_pipe": None,
        }
        if write is not None:  # as somebody may save what they loaded
            write(content, path)
        else:
            path.write_bytes(pickle.dumps(content, protocol=protocol))
    finally:
        for name in wanted:
            sys.modules.pop(name, None)
    return path


# rosinality's files ------------------------------------------------------------------------------------------


def rosinality_state(shape: Shape) -> State:
    """The same generator under rosinality's names and shapes."""
    nvidia = generator_state(shape)
    state: State = {}

    def layer(theirs: str, ours: str) -> None:
        source = f"synthesis.{ours}"
        state[f"{theirs}.conv.weight"] = nvidia[f"{source}.weight"][None]
        state[f"{theirs}.conv.modulation.weight"] = nvidia[f"{source}.affine.weight"]
        state[f"{theirs}.conv.modulation.bias"] = nvidia[f"{source}.affine.bias"]
        if ours.endswith("torgb"):
            state[f"{theirs}.bias"] = nvidia[f"{source}.bias"].reshape(1, 3, 1, 1)
        else:
            state[f"{theirs}.noise.weight"] = nvidia[f"{source}.noise_strength"].reshape(1)
            state[f"{theirs}.activate.bias"] = nvidia[f"{source}.bias"]

    for i in range(shape.layers):
        state[f"style.{i + 1}.weight"] = nvidia[f"mapping.fc{i}.weight"]
        state[f"style.{i + 1}.bias"] = nvidia[f"mapping.fc{i}.bias"]
    state["input.input"] = nvidia["synthesis.b4.const"][None]
    layer("conv1", "b4.conv1")
    layer("to_rgb1", "b4.torgb")
    noises = ["b4.conv1"]
    for j, resolution in enumerate(shape.blocks[1:]):
        layer(f"convs.{2 * j}", f"b{resolution}.conv0")
        state[f"convs.{2 * j}.conv.blur.kernel"] = fir(4.0)
        layer(f"convs.{2 * j + 1}", f"b{resolution}.conv1")
        layer(f"to_rgbs.{j}", f"b{resolution}.torgb")
        state[f"to_rgbs.{j}.upsample.kernel"] = fir(4.0)
        noises += [f"b{resolution}.conv0", f"b{resolution}.conv1"]
    for i, name in enumerate(noises):
        state[f"noises.noise_{i}"] = nvidia[f"synthesis.{name}.noise_const"][None, None]
    return state


def rosinality_discriminator_state(shape: Shape) -> State:
    """The same discriminator under rosinality's names."""
    nvidia = discriminator_state(shape)
    top = f"b{shape.resolution}"
    state = {
        "convs.0.0.weight": nvidia[f"{top}.fromrgb.weight"],
        "convs.0.1.bias": nvidia[f"{top}.fromrgb.bias"],
    }
    for i, resolution in enumerate(shape.blocks[:0:-1], 1):
        block = f"b{resolution}"
        state |= {
            f"convs.{i}.conv1.0.weight": nvidia[f"{block}.conv0.weight"],
            f"convs.{i}.conv1.1.bias": nvidia[f"{block}.conv0.bias"],
            f"convs.{i}.conv2.0.kernel": fir(),
            f"convs.{i}.conv2.1.weight": nvidia[f"{block}.conv1.weight"],
            f"convs.{i}.conv2.2.bias": nvidia[f"{block}.conv1.bias"],
            f"convs.{i}.skip.0.kernel": fir(),
            f"convs.{i}.skip.1.weight": nvidia[f"{block}.skip.weight"],
        }
    for theirs, ours in (("final_conv.0.weight", "conv.weight"), ("final_conv.1.bias", "conv.bias")):
        state[theirs] = nvidia[f"b4.{ours}"]
    for i, layer in enumerate(("fc", "out")):
        for kind in ("weight", "bias"):
            state[f"final_linear.{i}.{kind}"] = nvidia[f"b4.{layer}.{kind}"]
    return state


def write_rosinality(path: Path, shape: Shape, *, zipped: bool = True, **more: Any) -> Path:
    content = {
        "g_ema": OrderedDict(rosinality_state(shape)),
        "d": OrderedDict(rosinality_discriminator_state(shape)),
        "latent_avg": generator_state(shape)["mapping.w_avg"],
    } | more
    torch.save(
        {k: v for k, v in content.items() if v is not None}, path, _use_new_zipfile_serialization=zipped
    )
    return path


# HyperInverter's files ---------------------------------------------------------------------------------------


def backbone_state(kind: str, prefix: str) -> State:
    """``kind`` is "ir_se50" or "resnet34"."""
    state: State = {}

    def conv(name: str, outputs: int, inputs: int, side: int) -> None:
        state[f"{name}.weight"] = filled(
            prefix + name, (outputs, inputs, side, side), 1 / math.sqrt(inputs * side**2)
        )

    def norm(name: str, channels: int, size: float = 1.0) -> None:
        state[f"{name}.weight"] = filled(f"{prefix}{name}.weight", (channels,), 0.1 * size, size)
        state[f"{name}.bias"] = filled(f"{prefix}{name}.bias", (channels,), 0.1)
        state[f"{name}.running_mean"] = filled(f"{prefix}{name}.mean", (channels,), 0.1)
        state[f"{name}.running_var"] = filled(f"{prefix}{name}.var", (channels,), 0.1, 1.0)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def slope(name: str, channels: int) -> None:
        state[f"{name}.weight"] = filled(f"{prefix}{name}.slope", (channels,), 0.05, 0.25)

    width, unit = 64, 0
    if kind == "ir_se50":
        conv("input_layer.0", 64, 3, 3)
        norm("input_layer.1", 64)
        slope("input_layer.2", 64)
        for channels, count in ((64, 3), (128, 4), (256, 14), (512, 3)):
            for _ in range(count):
                name = f"body.{unit}"
                if width != channels:
                    conv(f"{name}.shortcut_layer.0", channels, width, 1)
                    norm(f"{name}.shortcut_layer.1", channels)
                norm(f"{name}.res_layer.0", width)
                conv(f"{name}.res_layer.1", channels, width, 3)
                slope(f"{name}.res_layer.2", channels)
                conv(f"{name}.res_layer.3", channels, channels, 3)
                norm(f"{name}.res_layer.4", channels, 0.5)
                conv(f"{name}.res_layer.5.fc1", channels // 16, channels, 1)
                conv(f"{name}.res_layer.5.fc2", channels, channels // 16, 1)
                width, unit = channels, unit + 1
        return state
    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    slope("relu", 64)
    for channels, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for index in range(count):
            name = f"body.{unit}"
            conv(f"{name}.conv1", channels, width, 3)
            norm(f"{name}.bn1", channels)
            conv(f"{name}.conv2", channels, channels, 3)
            norm(f"{name}.bn2", channels, 0.3)
            if index == 0 and width != channels:
                conv(f"{name}.downsample.0", channels, width, 1)
                norm(f"{name}.downsample.1", channels, 0.5)
            width, unit = channels, unit + 1
    return state


def w_encoder_state(kind: str, w_dim: int) -> State:
    state = backbone_state(kind, "E1.")
    state["linear.weight"] = filled("E1.linear.weight", (w_dim, 512), 3.0)
    state["linear.bias"] = filled("E1.linear.bias", (w_dim,), 0.1)
    return state


def write_w_encoder(path: Path, kind: str, w_dim: int, **more: Any) -> Path:
    state = {f"encoder.{name}": tensor for name, tensor in w_encoder_state(kind, w_dim).items()}
    state["decoder.input.input"] = torch.zeros(1, 4, 4, 4)  # a generator may be in the file too
    content = {
        "state_dict": OrderedDict(state),
        "latent_avg": torch.full((w_dim,), 9.0),
        "opts": {"lr": 1e-4},
    }
    torch.save(content | more, path)
    return path


def feature_encoder_state(kind: str, num_styles: int) -> State:
    state = backbone_state(kind, "E2.")
    for name, inputs in (("latlayer1", 256), ("latlayer2", 128)):
        state[f"{name}.weight"] = filled(f"E2.{name}", (512, inputs, 1, 1), 1 / math.sqrt(inputs))
        state[f"{name}.bias"] = filled(f"E2.{name}.bias", (512,), 0.1)
    # 512 x 512 x 9 numbers for each of up to three convolutions: one set, rolled, is enough to tell styles apart
    kernel = filled("E2.styles", (512, 512, 3, 3), 1 / math.sqrt(512 * 9))
    for index in range(num_styles):
        for i in range(1 if index < 3 else 2 if index < 7 else 3):
            name = f"styles.{index}.convs.{2 * i}"
            state[f"{name}.weight"] = kernel.roll((3 * index + i, index), (0, 1))
            state[f"{name}.bias"] = filled(f"E2.{name}.bias", (512,), 0.1)
    return state


def wplus_encoder_state(w_dim: int, num_styles: int) -> State:
    """The encoder of pSp or e4e on IR-SE-50: style blocks down to one position, and a linear layer each."""
    state = backbone_state("ir_se50", "E+.")
    for name, inputs in (("latlayer1", 256), ("latlayer2", 128)):
        state[f"{name}.weight"] = filled(f"E+.{name}", (512, inputs, 1, 1), 1 / math.sqrt(inputs))
        state[f"{name}.bias"] = filled(f"E+.{name}.bias", (512,), 0.1)
    kernel = filled("E+.styles", (512, 512, 3, 3), 1 / math.sqrt(512 * 9))  # one for all: its file is small
    for index in range(num_styles):
        for i in range(4 if index < 3 else 5 if index < 7 else 6):
            name = f"styles.{index}.convs.{2 * i}"
            state[f"{name}.weight"] = kernel
            state[f"{name}.bias"] = filled(f"E+.{name}.bias", (512,), 0.3)
        state[f"styles.{index}.linear.weight"] = filled(f"E+.linear.{index}", (w_dim, 512), 3.0)
        state[f"styles.{index}.linear.bias"] = filled(f"E+.linear.{index}.bias", (w_dim,), 0.1)
    return state


def write_wplus_encoder(path: Path, shape: Shape, encoder_type: str | None) -> Path:
    """A file as pSp and e4e save it, with the generator it was trained with."""
    count = 2 * shape.resolution.bit_length() - 4
    # halves, each with memory of its own: a file that names numbers twice is not read
    encoder = wplus_encoder_state(shape.w_dim, count).items()
    state = {f"encoder.{name}": t.half().clone() if t.is_floating_point() else t for name, t in encoder}
    state |= {f"decoder.{name}": t for name, t in rosinality_state(shape).items()}
    options = {"start_from_latent_avg": True} | (
        {} if encoder_type is None else {"encoder_type": encoder_type}
    )
    content = {
        "state_dict": OrderedDict(state),
        "latent_avg": torch.full((shape.w_dim,), 0.5),
        "opts": options,
    }
    torch.save(content, path)
    return path


def layer_shapes(shape: Shape, target: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes that ``target_shape_name`` stands for."""
    ending = "weight"
    state = generator_state(shape)
    shapes = {
        name.removeprefix("synthesis."): tuple(tensor.shape)
        for name, tensor in state.items()
        if name.startswith("synthesis.") and name.split(".")[-2:] == [name.split(".")[2], ending]
    }
    if target == "conv_without_bias_without_torgb":
        return {name: s for name, s in shapes.items() if "torgb" not in name}
    if target == "all_without_bias":
        shapes |= {
            name.removeprefix("synthesis."): tuple(tensor.shape)
            for name, tensor in state.items()
            if name.endswith("affine.weight")
        }
    return shapes


def hypernet_state(shape: Shape, hidden: int, target: str) -> State:
    state: State = {}
    fusion = filled("H.fusion", (512, 1024, 1, 1), 1 / 32)
    first = filled("H.first", (64, 512, 3, 3), math.sqrt(2 / (512 * 9)))
    for number, (layer, dimensions) in enumerate(layer_shapes(shape, target).items()):
        name = f"weight_regressors.{layer.replace('.', '_')}"
        outputs, inputs = math.prod(dimensions) // dimensions[1], dimensions[1]
        state[f"{name}.fusion.0.weight"] = fusion.roll(number, 0)
        state[f"{name}.fusion.0.bias"] = filled(f"{name}.fusion.bias", (512,), 0.1)
        state[f"{name}.feature_extractor.0.weight"] = first.roll(number, 1)
        state[f"{name}.feature_extractor.0.bias"] = filled(f"{name}.0.bias", (64,), 0.1)
        for i, channels in ((2, 64), (4, 64), (6, hidden)):
            full = f"{name}.feature_extractor.{i}"
            state[f"{full}.weight"] = filled(full, (channels, 64, 4, 4), math.sqrt(2 / 1024))
            state[f"{full}.bias"] = filled(f"{full}.bias", (channels,), 0.1)
        state[f"{name}.w1"] = filled(f"{name}.w1", (hidden, inputs * hidden), 1 / math.sqrt(hidden))
        state[f"{name}.b1"] = filled(f"{name}.b1", (inputs * hidden,), 0.1)
        state[f"{name}.w2"] = filled(f"{name}.w2", (hidden, outputs), 0.3 / math.sqrt(hidden))
        state[f"{name}.b2"] = filled(f"{name}.b2", (outputs,), 0.03)
    return state


def write_hyper(
    path: Path,
    shape: Shape,
    kind: str,
    *,
    hidden: int = 8,
    target: str = "conv_without_bias",
    w_encoder: State | None = None,
    half: bool = False,
    **more: Any,
) -> Path:
    """A file as HyperInverter saves it, over 300 MB; with ``half`` a third less: phase II in half precision."""
    parts = {
        "hypernet": hypernet_state(shape, hidden, target),
        "w_encoder": w_encoder_state(kind, shape.w_dim) if w_encoder is None else w_encoder,
        "discriminator": discriminator_state(shape),
        "w_bar_encoder": feature_encoder_state(kind, shape.num_ws),
    }
    if half:
        for part in ("hypernet", "w_bar_encoder"):
            parts[part] = {n: t.half() if t.is_floating_point() else t for n, t in parts[part].items()}
    state = OrderedDict((f"{part}.{name}", t) for part, inner in parts.items() for name, t in inner.items())
    options = {
        "output_size": shape.resolution,
        "n_styles": shape.num_ws,
        "device": "cuda:0",
        "hidden_dim": hidden,
    }
    torch.save({"state_dict": state, "opts": options, "loss_dict": {"global_step": 3}} | more, path)
    return path


def pickled(value: Any, protocol: int = 4) -> bytes:
    buffer = io.BytesIO()
    pickle.dump(value, buffer, protocol=protocol)
    return buffer.getvalue()
