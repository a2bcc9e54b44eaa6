"""What a model is, as plain values, and the one builder of every model.

Whoever needs a model makes a ``ModelSpec``: from a configuration, from a file of this project, from the authors'
files, or by hand. ``describe`` reads it off a model; ``ModelSpec.plain`` and ``ModelSpec.from_plain`` carry it
through a file. Only names from the tables of this package are ever resolved: a file cannot name other code.

A new option of a network is an argument that the network keeps as an attribute of the same name, a field here, and a
line in ``conf/``. Fields have the default that files from before the option stand for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from torch import nn

from hyperinverter.contracts import KernelSpec
from hyperinverter.inversion.carrying import Rule
from hyperinverter.inversion.hyperstyle import HyperStyle
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter, PhaseII
from hyperinverter.inversion.restyle import ReStyle
from hyperinverter.networks.backbones import BACKBONES
from hyperinverter.networks.encoders import FeatureEncoder, Heads, Initial, WEncoder
from hyperinverter.networks.features import FeatureResiduals
from hyperinverter.networks.fusion import FUSIONS
from hyperinverter.networks.generator import Generator, GeneratorConfig
from hyperinverter.networks.hypernets import Activation, HyperNetwork, Init
from hyperinverter.networks.hyperstyle import HyperStyleNetwork
from hyperinverter.networks.wplus import METHODS, WPlusEncoder

Kind = Literal["w_encoder", "hyperinverter"]  # what kind of model: decides which parts there are
_PHASES: dict[Any, Kind] = {1: "w_encoder", 2: "hyperinverter"}  # how files from before ``kind`` say it
_MOST_VALUES, _LONGEST_NAME = (
    10_000,
    200,
)  # of a description; 1024 px with every layer takes some hundred values

MOST_GAIN = 4  # of an edit: far above any use

S = TypeVar("S")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """A network by the name of its class and the arguments that are its own."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module) -> Part:
        """Describe a network whose ``arguments()`` says what it was made with."""
        arguments: Callable[[], Mapping[str, Any]] = network.arguments  # type: ignore[assignment]
        return cls(type(network).__name__, arguments())

    def build(self, table: Mapping[str, type[M]], *given: Any) -> M:
        """Make the network, with random weights.

        Raises:
            ValueError: If the table has no such name, or the class refuses the arguments.
        """
        if self.name not in table:
            raise ValueError(f"this version does not know {self.name!r}; it has: {', '.join(table)}")
        try:
            return table[self.name](*given, **self.arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name} cannot be built: {error}") from error


@dataclass(frozen=True)
class WEncoderSpec:
    """Phase I's encoder; fields are arguments of ``WEncoder``, or for the methods psp and e4e of ``WPlusEncoder``."""

    backbone: Part
    head: Literal["pool", "flatten"] = "pool"
    from_mean: bool = True
    method: str = "w"
    channels: int | None = None  # of the pyramid of an encoder to W+
    iterations: int | None = None  # of ReStyle


@dataclass(frozen=True)
class FeaturesSpec:
    """Phase II's encoder; fields are arguments of ``FeatureEncoder``."""

    backbone: Part
    channels: int = 512  # of the feature maps, which the hypernetwork reads
    heads: Heads = "layer"
    initial: Initial = "full"


@dataclass(frozen=True)
class HypernetSpec:
    """The hypernetwork; fields but ``kernels`` are arguments of every ``KernelRegressor``."""

    kernels: tuple[str, ...]  # names of ``generator.kernels()``
    hidden_dim: int = 128
    fusion: Part = Part("ConcatFusion")
    extractor_channels: int = 64
    activation: Activation = "relu"
    residual_scale: float = 1.0


@dataclass(frozen=True)
class FeatureResidualsSpec:
    """Feature residuals; fields are arguments of ``FeatureResiduals``."""

    places: tuple[str, ...]  # of the generator's ``feature_maps()`` and ``own_maps()``
    width: int = 64
    scale: float = 0.1
    rule: Rule = "add"  # what an edit does with them; of the model, not of ``FeatureResiduals``


@dataclass(frozen=True)
class HyperStyleSpec:
    """HyperStyle; fields are arguments of ``HyperStyleNetwork``, ``iterations`` of ``HyperStyle``."""

    kernels: tuple[str, ...]  # names of ``generator.kernels()``
    backbone: Part
    hidden_dim: int = 512
    scale: float = 1.0
    iterations: int = 5


@dataclass(frozen=True)
class ModelSpec:
    """A model without its weights."""

    kind: Kind
    generator: GeneratorConfig  # the one it is for
    w_encoder: WEncoderSpec
    features: FeaturesSpec | None = None  # of a "hyperinverter"
    hypernet: HypernetSpec | None = None  # of a "hyperinverter" with residuals of weights
    feature_residuals: FeatureResidualsSpec | None = None  # of a "hyperinverter" with feature residuals
    hyperstyle: HyperStyleSpec | None = (
        None  # of a "hyperinverter" that is a rival instead; then without the three above
    )
    edit_strength: float | None = None  # of a "hyperinverter", see ``Drawing``; None: 1
    edit_gain: float | None = None  # likewise

    def plain(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries, for a checkpoint or a header."""
        return _plain(self)

    @classmethod
    def from_plain(cls, said: Mapping[str, Any]) -> ModelSpec:
        """Read what ``plain`` wrote, in this version or an earlier one.

        Raises:
            ValueError: If something is missing, named that this version does not have, or larger than any model.
        """
        _check_size(said)
        said = dict(said)
        if "kind" not in said and said.get("phase") in _PHASES:
            said["kind"] = _PHASES[said["phase"]]
        said.pop("phase", None)
        spec = _from_plain(cls, said)
        if spec.kind not in get_args(Kind):
            raise ValueError(f"this version does not know models of the kind {spec.kind!r}")
        return spec


def describe(model: nn.Module) -> ModelSpec:
    """Return what ``build`` makes such a model from.

    Raises:
        TypeError: If ``model`` is neither a ``WInverter`` nor a ``PhaseII``.
    """
    if isinstance(model, HyperStyle):
        names = tuple(spec.name for spec in model.network.kernels)
        rival = _read_off(HyperStyleSpec, model.network, kernels=names, iterations=model.iterations)
        return replace(_phase2(model), hyperstyle=rival)
    if isinstance(model, HyperInverter):
        return replace(
            _phase2(model),
            features=_read_off(FeaturesSpec, model.feature_encoder),
            hypernet=None if model.hypernet is None else _hypernet_spec(model.hypernet),
            feature_residuals=None
            if model.feature_residuals is None
            else _read_off(FeatureResidualsSpec, model.feature_residuals, rule=model.rule),
        )
    if isinstance(model, WInverter):
        iterations = model.iterations if isinstance(model, ReStyle) else None
        encoder = _read_off(WEncoderSpec, model.encoder, iterations=iterations)
        return ModelSpec("w_encoder", model.generator.config, encoder)
    raise TypeError(f"expected a WInverter, a HyperInverter or a HyperStyle, got {type(model).__name__}")


def _phase2(model: PhaseII) -> ModelSpec:
    """What every phase II is, without its networks."""
    strength, gain = (None if value == 1 else value for value in (model.edit_strength, model.edit_gain))
    first = describe(model.w_inverter)
    return replace(first, kind="hyperinverter", edit_strength=strength, edit_gain=gain)


def _hypernet_spec(hypernet: HyperNetwork) -> HypernetSpec:
    regressor = next(iter(hypernet.weight_regressors.values()))
    return _read_off(HypernetSpec, regressor, kernels=tuple(spec.name for spec in hypernet.kernels))


def build(spec: ModelSpec, generator: Generator, init: Init = "paper") -> WInverter | PhaseII:
    """Build a model with random weights around a generator.

    Args:
        spec: The model.
        generator: Of the shape ``spec.generator``.
        init: How the hypernetwork begins, see ``HyperNetwork``.

    Raises:
        ValueError: If the specification is for another generator, or names something this version does not have.
    """
    if not spec.generator.same_network(generator.config):
        raise ValueError(
            f"made for a generator of the shape {_plain(spec.generator)}, this one is {generator.metadata()}"
        )
    first = build_w_inverter(spec.w_encoder, generator)
    return first if spec.kind == "w_encoder" else build_on(first, spec, init)


def build_w_inverter(spec: WEncoderSpec, generator: Generator) -> WInverter:
    """Build phase I around a generator, with random weights.

    Raises:
        ValueError: If the specification names something this version does not have.
    """
    encoder = build_w_encoder(spec, generator.w_dim, generator.num_ws)
    if spec.method == "restyle":
        return ReStyle(generator, encoder, spec.iterations or 1)
    return WInverter(generator, encoder)


def build_w_encoder(spec: WEncoderSpec, w_dim: int, num_ws: int) -> WEncoder | WPlusEncoder:
    """Build phase I's encoder alone, with random weights.

    Args:
        spec: The encoder.
        w_dim: Width of w.
        num_ws: Number of style layers.

    Raises:
        ValueError: If the specification names something this version does not have.
    """
    backbone = spec.backbone.build(BACKBONES)
    if spec.method == "w":
        return WEncoder(backbone, w_dim, **_options(spec, "backbone", "method", "channels", "iterations"))
    if spec.method not in METHODS or not spec.channels:
        raise ValueError(
            f"this version does not know the method {spec.method!r} with {spec.channels} channels"
        )
    return WPlusEncoder(backbone, w_dim, num_ws, **_options(spec, "backbone", "iterations"))


def build_on(first: WInverter, spec: ModelSpec, init: Init = "paper") -> PhaseII:
    """Build phase II with random weights on a given phase I, whatever ``spec.w_encoder`` says.

    Raises:
        ValueError: If the specification has no phase II, or names something this version or the generator does not
            have.
    """
    model = _hyperstyle(spec.hyperstyle, first) if spec.hyperstyle else _hyperinverter(first, spec, init)
    if spec.edit_strength is not None:
        if not 0 <= spec.edit_strength <= 1:
            raise ValueError(f"edit_strength must be between 0 and 1, got {spec.edit_strength}")
        model.edit_strength = float(spec.edit_strength)
    if spec.edit_gain is not None:
        if not 0 < spec.edit_gain <= MOST_GAIN:
            raise ValueError(f"edit_gain must be above 0 and at most {MOST_GAIN}, got {spec.edit_gain}")
        model.edit_gain = float(spec.edit_gain)
    return model


def _hyperinverter(first: WInverter, spec: ModelSpec, init: Init) -> HyperInverter:
    features, generator = spec.features, first.generator
    if features is None or (spec.hypernet is None and spec.feature_residuals is None):
        raise ValueError("the description lacks features or hypernet")
    hypernet = None if spec.hypernet is None else _hypernet(spec.hypernet, features.channels, generator, init)
    # In this order: new parts draw their random weights last, so that what was before them begins as before.
    encoder = FeatureEncoder(
        features.backbone.build(BACKBONES),
        generator.num_ws,
        used=() if hypernet is None else hypernet.used_styles,
        sides=_sides(spec.feature_residuals, generator),
        **_options(features, "backbone"),
    )
    added = None
    if spec.feature_residuals is not None:
        maps, options = _maps(generator), _options(spec.feature_residuals, "rule")
        added = FeatureResiduals(maps, channels=features.channels, **options)
    return HyperInverter(
        first, encoder, hypernet, added, spec.feature_residuals.rule if spec.feature_residuals else "add"
    )


def _sides(spec: FeatureResidualsSpec | None, generator: Generator) -> list[int]:
    """Sides of the maps that receive feature residuals; a place that does not exist is refused where they are built."""
    maps = _maps(generator)
    return [] if spec is None else sorted({maps[place][1] for place in spec.places if place in maps})


def _maps(generator: Generator) -> dict[str, tuple[int, int, int]]:
    """All that may receive a residual with a place."""
    return generator.synthesis.feature_maps() | generator.synthesis.own_maps()


def _hyperstyle(rival: HyperStyleSpec, first: WInverter) -> HyperStyle:
    network = HyperStyleNetwork(
        _kernels(rival.kernels, first.generator),
        rival.backbone.build(BACKBONES),
        **_options(rival, "kernels", "backbone", "iterations"),
    )
    return HyperStyle(first, network, rival.iterations)


def _kernels(names: tuple[str, ...], generator: Generator) -> list[KernelSpec]:
    by_name = {kernel.name: kernel for kernel in generator.kernels()}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"this generator does not know {unknown[0]!r}")
    if len(set(names)) < len(names):
        raise ValueError("the description names a kernel twice")
    return [by_name[name] for name in names]


def _hypernet(hyper: HypernetSpec, channels: int, generator: Generator, init: Init) -> HyperNetwork:
    return HyperNetwork(
        _kernels(hyper.kernels, generator),
        channels,
        fusion=functools.partial(hyper.fusion.build, FUSIONS),
        init=init,
        **_options(hyper, "kernels", "fusion"),
    )


# Plain values ------------------------------------------------------------------------------------------------


def _options(spec: Any, *but: str) -> dict[str, Any]:
    """Fields that are handed to a network as they are."""
    return {option.name: getattr(spec, option.name) for option in fields(spec) if option.name not in but}


def _read_off(kind: type[S], network: nn.Module, **known: Any) -> S:
    """Fill a specification with the attributes of the same names; a network among them becomes a ``Part``."""
    values = {f.name: getattr(network, f.name) for f in fields(kind) if f.name not in known}  # type: ignore[arg-type]
    return kind(**known, **{n: Part.of(v) if isinstance(v, nn.Module) else v for n, v in values.items()})


def _plain(spec: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in fields(spec):
        name, value = option.name, getattr(spec, option.name)
        if isinstance(value, Part):
            values |= {name: value.name, f"{name}_args": dict(value.arguments)}
        elif is_dataclass(value):
            values[name] = _plain(value)
        elif (value is not None or option.default is not None) and not (name == "method" and value == "w"):
            values[name] = list(value) if isinstance(value, tuple) else value
    return values


def _check_size(said: Mapping[str, Any]) -> None:
    """Refuse a description that names layers by the thousand, before any of them is made.

    Raises:
        ValueError: If it holds more values than any model needs, or a text longer than any name.
    """
    waiting: list[Any] = [said]
    for _ in range(_MOST_VALUES):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, str) and len(value) > _LONGEST_NAME:
            break
    raise ValueError("the description is larger than that of any model")


def _from_plain(kind: type[S], said: Any) -> S:
    """The reverse of ``_plain``; options that are not said have their default."""
    if not isinstance(said, Mapping):
        raise ValueError(f"the description has {str(said)[:60]!r} where a {kind.__name__} belongs")
    hints, values, known = get_type_hints(kind), {}, set()
    for option in fields(kind):  # type: ignore[arg-type]
        name, inner = option.name, _dataclass_of(hints[option.name])
        known |= {name, f"{name}_args"} if inner is Part else {name}
        if name not in said:
            if option.default is MISSING and option.default_factory is MISSING:
                raise ValueError(f"the description lacks {name}")
            continue
        value = said[name]
        if inner is Part:  # files from before arguments were noted have the default ones
            value = Part(value, said.get(f"{name}_args", {}))
        elif inner is not None and value is not None:
            value = _from_plain(inner, value)
        values[name] = tuple(value) if isinstance(value, list) else value
    if unknown := sorted(str(name)[:60] for name in said if name not in known):
        raise ValueError(f"this version does not know the option {unknown[0]!r}")
    return kind(**values)


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass in a type such as ``HypernetSpec | None``; None for plain types."""
    return next(
        (kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None
    )
