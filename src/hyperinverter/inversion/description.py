"""A model's architecture as plain values: what a checkpoint carries so that it can be built again.

Only names from the tables of this package are ever resolved; a file cannot name other code.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.backbones import BACKBONES, Backbone
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.fusion import FUSIONS, Fusion
from hyperinverter.networks.generator import Generator, GeneratorConfig
from hyperinverter.networks.hypernets import HyperNetwork, KernelRegressor

Description = dict[str, Any]


def describe(model: nn.Module) -> Description:
    """Return what ``build`` needs, as numbers, strings and lists.

    Raises:
        TypeError: If ``model`` is neither a ``WInverter`` nor a ``HyperInverter``.
    """
    if isinstance(model, HyperInverter):
        features, hypernet = model.feature_encoder, model.hypernet
        regressor = next(iter(hypernet.weight_regressors.values()))
        assert isinstance(regressor, KernelRegressor)
        return describe(model.w_inverter) | {
            "phase": 2,
            "features": _describe_backbone(features.backbone)
            | {"channels": features.channels, "heads": features.heads, "initial": features.initial},
            "hypernet": {
                "kernels": [spec.name for spec in hypernet.kernels],
                "hidden_dim": regressor.hidden_dim,
                "extractor_channels": regressor.extractor_channels,
                "activation": regressor.activation,
                "residual_scale": regressor.residual_scale,
                "fusion": type(regressor.fusion).__name__,
                "fusion_args": _fusion_arguments(regressor.fusion),
            },
        }
    if isinstance(model, WInverter):
        encoder = model.encoder
        return {
            "phase": 1,
            "generator": model.generator.metadata(),
            "w_encoder": _describe_backbone(encoder.backbone) | {"head": encoder.head},
        }
    raise TypeError(f"expected a WInverter or a HyperInverter, got {type(model).__name__}")


def build(description: Mapping[str, Any], generator: Generator) -> WInverter | HyperInverter:
    """Build a model with random weights around a generator.

    Raises:
        ValueError: If the description is of another generator, or names something this version does not have.
    """
    try:
        if not GeneratorConfig(**description["generator"]).same_network(generator.config):
            raise ValueError(
                f"made for a generator of the shape {description['generator']}, this one is {generator.metadata()}"
            )
        w_inverter = WInverter(generator, build_w_encoder(description, generator.w_dim))
        if description["phase"] == 1:
            return w_inverter
        part = description["hypernet"]
        by_name = {spec.name: spec for spec in generator.kernels()}
        kernels = [by_name[name] for name in part["kernels"]]
        read = description["features"]
        channels = read["channels"]
        fusion = functools.partial(FUSIONS[part["fusion"]], **part.get("fusion_args", {}))
        hypernet = HyperNetwork(
            kernels,
            channels,
            part["hidden_dim"],
            fusion,
            part["extractor_channels"],
            activation=part.get("activation", "relu"),  # files from before these were noted have the paper's
            residual_scale=part.get("residual_scale", 1.0),
        )
        features = FeatureEncoder(
            _build_backbone(read),
            generator.num_ws,
            channels,
            used=hypernet.used_styles,
            heads=read.get("heads", "layer"),  # files from before these were noted have the paper's
            initial=read.get("initial", "full"),
        )
        return HyperInverter(w_inverter, features, hypernet)
    except KeyError as error:
        raise ValueError(f"the description lacks or does not know {error}") from error


def build_w_encoder(description: Mapping[str, Any], w_dim: int) -> WEncoder:
    """Build phase I's encoder alone, with random weights.

    Raises:
        ValueError: If the description lacks something or names something this version does not have.
    """
    try:
        part = description["w_encoder"]
        return WEncoder(_build_backbone(part), w_dim, head=part["head"])
    except KeyError as error:
        raise ValueError(f"the description lacks or does not know {error}") from error


def _describe_backbone(backbone: Backbone) -> Description:
    return {"backbone": type(backbone).__name__, "backbone_args": backbone.arguments()}


def _build_backbone(part: Mapping[str, Any]) -> Backbone:
    # Files from before arguments were noted have the default ones.
    return BACKBONES[part["backbone"]](**part.get("backbone_args", {}))


def _fusion_arguments(fusion: nn.Module) -> Description:
    assert isinstance(fusion, Fusion)
    return fusion.arguments()
