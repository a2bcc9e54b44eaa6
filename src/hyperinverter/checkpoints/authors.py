"""Encoders and hypernetworks of HyperInverter's released checkpoints, in our names.

Names and shapes follow models/hyper_inverter.py and models/encoders/fpn_encoders.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.checkpoints.shapes import Load, Tensors, shape_of, under
from hyperinverter.checkpoints.unwrapping import Unwrapped, has
from hyperinverter.contracts import KernelSpec, shown
from hyperinverter.inversion.specification import FeaturesSpec, HypernetSpec, Part, WEncoderSpec
from hyperinverter.networks.backbones import IRSE50, ResNet34
from hyperinverter.networks.generator import Generator

_IRSE, _RESNET = "input_layer.0.weight", "conv1.weight"  # tensors that tell backbones apart
# Names of the parts of a checkpoint.
PARTS = ("encoder", "w_encoder", "w_bar_encoder", "hypernet", "discriminator", "decoder")


def is_model(names: Mapping[str, Any]) -> bool:
    """Whether names are those of a W encoder, alone or in a checkpoint, or of a HyperInverter."""
    parts = has(names, "encoder.", "w_encoder.", "w_bar_encoder.", "hypernet.")
    return parts or (_has_backbone(names) and ("linear.weight" in names or has(names, "styles.")))


def read_w_encoder(found: Unwrapped, load: Load) -> tuple[WEncoderSpec, int, Tensors]:
    """E1 of a W encoder file (``encoder.``, or bare), or the copy in a HyperInverter file (``w_encoder.``).

    Returns:
        What it is, the width of w, and its tensors.

    Raises:
        Unreadable: If there is none, or it is of another kind.
    """
    own = under(found.stored, "encoder") or (found.stored if _has_backbone(found.stored) else {})
    names = own or under(found.stored, "w_encoder")
    if not names:
        raise Unreadable("holds no W encoder")
    if any(name.startswith(("styles.", "latlayer")) for name in names):
        raise Unreadable(
            "is an encoder for W+, one code per style layer",
            "give an encoder for W, one code per photo; load_inverter reads this one",
        )
    spec = WEncoderSpec(backbone_of(names), from_mean=not own or _from_mean(found))
    tensors = _ours(load(names), "linear")
    if tensors.get("linear.weight", torch.empty(0)).ndim != 2:
        raise Unreadable("is not a complete W encoder: it has no linear.weight of two dimensions")
    return spec, tensors["linear.weight"].shape[0], tensors


def is_wplus_encoder(found: Unwrapped) -> bool:
    """Whether this is an encoder of pSp or e4e: style blocks that end in linear layers, and no hypernetwork."""
    own = under(found.stored, "encoder") or found.stored
    return "styles.0.linear.weight" in own and not has(found.stored, "hypernet.")


def read_wplus_encoder(found: Unwrapped, load: Load) -> tuple[WEncoderSpec, int, int, Tensors]:
    """The encoder of a file of pSp or e4e, which share names and shapes (``GradualStyleEncoder``, ``Encoder4Editing``).

    Which of the two it is stands in its options (``encoder_type``); without any it is taken for pSp's.

    Returns:
        What it is, the width of w, the number of style layers, and its tensors.

    Raises:
        Unreadable: If it is not complete.
    """
    names = under(found.stored, "encoder") or found.stored
    count = len({style_of(name) for name in names} - {None})
    method = "e4e" if found.option("encoder_type") == "Encoder4Editing" else "psp"
    spec = WEncoderSpec(backbone_of(names), from_mean=_from_mean(found), method=method, channels=512)
    tensors, read = load(names), {}
    for name, tensor in tensors.items():
        read[_wplus_name(name)] = tensor
    width = shape_of(tensors, "styles.0.linear.weight", 2)[0]
    return spec, width, count, read | {"stage": torch.tensor(count - 1)}


def _wplus_name(name: str) -> str:
    """Name in ``WPlusEncoder``: the last three convolutions of a style block, from 8x8 to 1x1, belong to its head."""
    if (style := style_of(name)) is None:
        top = name.startswith(("latlayer1.", "latlayer2."))
        return f"features.{name}" if top else f"features.backbone.{name}"
    first = 1 if style < 3 else 2 if style < 7 else 3  # convolutions down to 8x8, from 16, 32 and 64 px
    if match := re.fullmatch(r"styles\.\d+\.convs\.(\d{1,2})\.(weight|bias)", name):
        place = int(match[1]) // 2
        return f"features.{name}" if place < first else f"heads.{style}.{2 * (place - first)}.{match[2]}"
    if match := re.fullmatch(r"styles\.\d+\.linear\.(weight|bias)", name):
        return f"heads.{style}.7.{match[1]}"
    return f"features.{name}"  # not known: named when it is loaded


def _from_mean(found: Unwrapped) -> bool:
    """What a W encoder's file says of ``start_from_latent_avg``; True, the release's way, where it says nothing.

    Raises:
        Unreadable: If it is neither true nor false.
    """
    said = found.option("start_from_latent_avg")
    if said is None or said in (True, False):
        return said is None or bool(said)
    raise Unreadable(f"has the option start_from_latent_avg={shown(said)}, which is neither true nor false")


def w_encoder_copy(found: Unwrapped, load: Load) -> Tensors:
    """The copy of the W encoder in a HyperInverter file; empty if it has none."""
    return _ours(load(under(found.stored, "w_encoder")), "linear")


def read_hyper(
    stored: Mapping[str, Any], generator: Generator, load: Load
) -> tuple[FeaturesSpec, HypernetSpec, Tensors]:
    """Feature encoder and hypernetwork of a HyperInverter file.

    Args:
        stored: Its state dict.
        generator: Which it should be for.
        load: Reads tensors of it.

    Returns:
        What both are, and their tensors by the names in ``HyperInverter.state_dict()``.

    Raises:
        Unreadable: If a part is missing, of another kind, or for another generator.
    """
    _check_size(stored, generator)
    regressors = load(under(stored, "hypernet"))
    kernels = predicted_kernels(
        under(regressors, "weight_regressors"), generator.kernels(), generator.img_resolution
    )
    hidden, extractor, channels = regressor_sizes(regressors, kernels)
    used = {kernel.style_index for kernel in kernels}
    encoder = {
        name: tensor
        for name, tensor in under(stored, "w_bar_encoder").items()
        if style_of(name) in (None, *used)  # the others are never read
    }
    features = FeaturesSpec(backbone_of(encoder), channels)
    hypernet = HypernetSpec(tuple(kernel.name for kernel in kernels), hidden, extractor_channels=extractor)
    tensors = {f"hypernet.{name}": tensor for name, tensor in regressors.items()}
    heads = ("styles", "latlayer1", "latlayer2")
    read = _ours(load(encoder), *heads)
    return features, hypernet, tensors | {f"feature_encoder.{name}": t for name, t in read.items()}


def _check_size(stored: Mapping[str, Any], generator: Generator) -> None:
    """Refuse a generator of another resolution than the model was trained for."""
    numbers = {style_of(name) for name in under(stored, "w_bar_encoder")} - {None}
    if numbers != set(range(generator.num_ws)):
        raise Unreadable(
            f"was trained for {len(numbers)} style layers ({2 ** (len(numbers) // 2 + 1)} px), the generator has "
            f"{generator.num_ws} ({generator.img_resolution} px)",
            "give the generator it was trained with",
        )


def backbone_of(names: Mapping[str, Any]) -> Part:
    """Tell the paper's two backbones apart by the tensors of an encoder.

    Raises:
        Unreadable: If it has neither.
    """
    if _IRSE in names:
        return Part(IRSE50.__name__)
    if _RESNET in names:
        return Part(ResNet34.__name__)
    raise Unreadable(
        "is an encoder with neither IR-SE-50 nor ResNet-34", "give an encoder of HyperInverter's release"
    )


def _has_backbone(names: Mapping[str, Any]) -> bool:
    return _IRSE in names or _RESNET in names


def _ours(tensors: Tensors, *heads: str) -> Tensors:
    """Their encoders hold the backbone next to its heads; ours in ``backbone``."""
    own = tuple(f"{head}." for head in heads)
    return {name if name.startswith(own) else f"backbone.{name}": tensor for name, tensor in tensors.items()}


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
    hidden = shape_of(regressors, f"{first}.w1", 2)[0]
    for spec in kernels:
        name = f"weight_regressors.{spec.name.replace('.', '_')}"
        inputs = spec.shape[1]
        needed = (hidden, inputs * hidden), (hidden, math.prod(spec.shape) // inputs)
        if (shape_of(regressors, f"{name}.w1", 2), shape_of(regressors, f"{name}.w2", 2)) != needed:
            raise Unreadable(
                f"predicts {spec.name} in another shape than the generator's {spec.shape}",
                "give the generator it was trained with: this one has other widths",
            )
    extractor, channels = shape_of(regressors, f"{first}.feature_extractor.0.weight", 4)[:2]
    return hidden, extractor, channels


def style_of(name: str) -> int | None:
    """Style layer of a tensor of the authors' second encoder; None for backbone and pyramid."""
    match = re.fullmatch(r"styles\.(\d{1,3})\..+", name)
    return int(match[1]) if match else None
