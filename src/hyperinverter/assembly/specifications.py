"""Configuration -> specifications: what encoder, fusion, coverage, hypernet and features ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from hyperinverter import config
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.inversion.specification import (
    FeatureResidualsSpec,
    FeaturesSpec,
    HypernetSpec,
    HyperStyleSpec,
    ModelSpec,
    Part,
    WEncoderSpec,
)
from hyperinverter.networks.backbones import BACKBONES
from hyperinverter.networks.coverage import select
from hyperinverter.networks.fusion import FUSIONS
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.wplus import METHODS


def w_encoder_spec(cfg: Config) -> WEncoderSpec:
    """Phase I's encoder as the configuration describes it."""
    spec = WEncoderSpec(_part(cfg.encoder.backbone, BACKBONES), cfg.encoder.head)
    if cfg.phase.number == 1 and method_of(cfg) in METHODS:
        looks = cfg.method.get("iterations")
        return replace(spec, method=method_of(cfg), channels=cfg.method.channels, iterations=looks)
    return spec


def method_of(cfg: Config) -> str:
    """Which method is trained; older runs have no such choice."""
    chosen = cfg.get("method")
    return "hyperinverter" if chosen is None else str(chosen.name)


def model_spec(cfg: Config, generator: Generator) -> ModelSpec:
    """Both phases as the configuration describes them, for a generator.

    Raises:
        UserError: If ``coverage`` selects nothing of this generator, or nothing would receive a residual.
    """
    covered = list(cfg.coverage.include)
    kernels = tuple(kernel.name for kernel in select(generator.kernels(), covered)) if covered else ()
    backbone = _part(cfg.encoder.features_backbone or cfg.encoder.backbone, BACKBONES)
    spec = ModelSpec("hyperinverter", generator.config, w_encoder_spec(cfg))
    spec = replace(spec, edit_strength=_of_edits(cfg, "edit_strength"), edit_gain=_of_edits(cfg, "edit_gain"))
    if method_of(cfg) == "hyperstyle":
        if not kernels:
            raise UserError("method=hyperstyle changes kernels: choose a coverage, such as coverage=convs")
        chosen = {name: cfg.method[name] for name in ("hidden_dim", "scale", "iterations")}
        return replace(spec, hyperstyle=HyperStyleSpec(kernels, backbone, **chosen))
    added = _feature_residuals(cfg)
    if not kernels and added is None:
        raise UserError("coverage=none leaves nothing to learn: choose a coverage, or features=8")
    options = config.to_dict(cfg.hypernet)
    features = FeaturesSpec(backbone, options.pop("channels"), cfg.encoder.heads, cfg.encoder.initial)
    del options["init"]  # of training, not of the model
    hypernet = HypernetSpec(kernels, fusion=_part(cfg.fusion, FUSIONS), **options) if kernels else None
    return replace(spec, features=features, hypernet=hypernet, feature_residuals=added)


def _of_edits(cfg: Config, name: str) -> float | None:
    """None for 1, as in files from before there was a choice."""
    chosen = cfg.get("method")  # older runs have none
    value = 1.0 if chosen is None else float(chosen.get(name, 1.0))
    return None if value == 1 else value


def _feature_residuals(cfg: Config) -> FeatureResidualsSpec | None:
    chosen = cfg.get("features")  # older runs have none
    if not chosen or not chosen.places:
        return None
    options = config.to_dict(chosen)
    return FeatureResidualsSpec(tuple(options.pop("places")), **options)


def _part(node: Config, table: Mapping[str, type[nn.Module]]) -> Part:
    """A leaf of the configuration whose ``_target_`` is one of the classes in ``table``."""
    arguments = config.to_dict(node)
    target = str(arguments.pop("_target_"))
    name = target.rpartition(".")[2]
    if name not in table or f"{table[name].__module__}.{name}" != target:
        known = ", ".join(f"{kind.__module__}.{name}" for name, kind in table.items())
        raise UserError(f"_target_={target} is not a network that models are built from; choose from {known}")
    return Part(name, arguments)
