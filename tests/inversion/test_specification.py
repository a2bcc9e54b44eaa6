"""A model's description is complete, survives a file, and builds the same model again, whoever wrote it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from tiny import make_generator
from torch import Tensor

from hyperinverter import assembly, config
from hyperinverter.contracts import UserError
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.specification import (
    FeatureResidualsSpec,
    FeaturesSpec,
    HypernetSpec,
    ModelSpec,
    Part,
    WEncoderSpec,
    build,
    build_on,
    describe,
)
from hyperinverter.networks.generator import Generator

TINY = Part("TinyBackbone", {"widths": [8, 8, 16], "units": [1, 2, 1]})


@pytest.fixture
def spec(generator: Generator) -> ModelSpec:
    """No option has its default."""
    return ModelSpec(
        "hyperinverter",
        generator.config,
        WEncoderSpec(TINY, head="flatten", from_mean=False, method="restyle", channels=8, iterations=2),
        FeaturesSpec(Part("TinyBackbone", {"widths": [16, 8, 8], "units": [1, 1, 1]}), 8, "level", "half"),
        HypernetSpec(
            ("b16.conv1.weight", "b4.torgb.weight"),
            hidden_dim=4,
            fusion=Part("AttentionFusion", {"key_channels": 5}),
            extractor_channels=8,
            activation="leaky_relu",
            residual_scale=0.25,
        ),
        FeatureResidualsSpec(("b8.conv1",), width=4, scale=0.5, rule="warp"),
        edit_strength=0.5,
    )


def test_no_option_is_lost_between_specification_model_and_file(
    spec: ModelSpec, generator: Generator
) -> None:
    defaults = HypernetSpec(()), FeaturesSpec(TINY), WEncoderSpec(TINY), FeatureResidualsSpec(())
    parts = spec.hypernet, spec.features, spec.w_encoder, spec.feature_residuals
    for part, default in zip(parts, defaults, strict=True):
        same = [f.name for f in fields(part) if getattr(part, f.name) == getattr(default, f.name)]
        assert same in ([], ["backbone"]), "give the new option another value than its default here"
    assert describe(build(spec, generator)) == spec
    assert ModelSpec.from_plain(json.loads(json.dumps(spec.plain()))) == spec
    first = build(replace(spec, kind="w_encoder"), generator)
    assert isinstance(first, WInverter)
    assert describe(first) == replace(
        spec, kind="w_encoder", features=None, hypernet=None, feature_residuals=None, edit_strength=None
    )


def test_a_model_is_the_same_from_every_door(spec: ModelSpec, photos: Tensor, generator: Generator) -> None:
    model = build(spec, generator, init="fan_in")
    again = build(ModelSpec.from_plain(describe(model).plain()), generator)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.invert(photos).image, model.invert(photos).image)
    on_top = build_on(model.w_inverter, spec)
    assert isinstance(on_top, HyperInverter)
    assert on_top.w_inverter is model.w_inverter


def test_options_of_a_model_may_have_been_unknown_when_its_file_was_written(spec: ModelSpec) -> None:
    plain: dict[str, Any] = spec.plain()
    del plain["kind"]
    plain["phase"] = 2
    for part in (plain["hypernet"], plain["features"], plain["w_encoder"]):
        for name in [n for n in part if n.endswith("_args") or n in ("activation", "residual_scale")]:
            del part[name]
    read = ModelSpec.from_plain(plain)
    assert read.kind == "hyperinverter"
    assert (read.hypernet.activation, read.hypernet.residual_scale) == ("relu", 1.0)
    assert read.hypernet.fusion == Part("AttentionFusion")
    assert ModelSpec.from_plain({"phase": 1, **{k: plain[k] for k in ("generator", "w_encoder")}}).kind == (
        "w_encoder"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: p.update(kind="pix2pix"), "models of the kind 'pix2pix'"),
        (lambda p: p.pop("kind"), "lacks kind"),
        (lambda p: p.pop("generator"), "lacks generator"),
        (lambda p: p["hypernet"].update(colour=3), "does not know the option 'colour'"),
        (lambda p: p["hypernet"].pop("kernels"), "lacks kernels"),
        (lambda p: p.update(hypernet=[]), "where a HypernetSpec belongs"),
        (lambda p: p["features"].update(backbone="os.system"), "does not know 'os.system'"),
        (lambda p: p["features"].update(heads="two"), "heads must be one of"),
        (lambda p: p["hypernet"].update(kernels=["b99.conv0.weight"]), "does not know 'b99.conv0.weight'"),
        (lambda p: p.pop("features"), "lacks features or hypernet"),
        (lambda p: p["generator"].update(img_resolution=32), "made for a generator of the shape"),
    ],
)
def test_what_this_version_does_not_have_is_named(
    change: Any, told: str, spec: ModelSpec, generator: Generator
) -> None:
    plain = spec.plain()
    change(plain)
    with pytest.raises(ValueError, match=told):
        build(ModelSpec.from_plain(plain), generator)


def test_the_configuration_says_the_same_as_the_model_it_builds() -> None:
    generator = make_generator(32)
    cfg = config.compose(["phase=2", "encoder=tiny", "experiment=lite", "hypernet.hidden_dim=4"])
    spec = assembly.model_spec(cfg, generator)
    model = build(spec, generator, cfg.hypernet.init)
    told = describe(model)
    assert (told.features, told.hypernet) == (spec.features, spec.hypernet)
    assert told.w_encoder.head == spec.w_encoder.head == "flatten"
    assert spec.hypernet.fusion == Part("DifferenceFusion")
    assert spec.features.heads == "level"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("fusion._target_=os.system", "_target_=os.system is not a network .* hyperinverter.networks.fusion"),
        ("fusion._target_=elsewhere.AddFusion", "_target_=elsewhere.AddFusion is not"),
        ("encoder.backbone._target_=torch.nn.Linear", "_target_=torch.nn.Linear is not"),
        ("+fusion.depth=3", "ConcatFusion cannot be built: .*depth"),
        ("hypernet.activation=gelu", "activation must be relu or leaky_relu"),
    ],
)
def test_a_configuration_that_describes_no_model_gets_a_sentence(
    override: str, told: str, generator: Generator
) -> None:
    cfg = config.compose(["phase=2", override])
    with pytest.raises(UserError, match=told) as sentence:
        assembly.on_phase1(cfg, assembly.w_inverter(cfg, generator))
    assert ";" in str(sentence.value)
