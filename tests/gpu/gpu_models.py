"""Models and tasks of the GPU tests: every part there is, as narrow as it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from tiny import make_generator
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperinverter.inversion.hyperstyle import HyperStyle
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter, PhaseII
from hyperinverter.losses.reconstruction import PixelLoss
from hyperinverter.losses.weighted import WeightedLoss
from hyperinverter.metrics import MetricSuite
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.coverage import select
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.features import FeatureResiduals
from hyperinverter.networks.fusion import ConcatFusion, Fusion
from hyperinverter.networks.hypernets import HyperNetwork
from hyperinverter.networks.hyperstyle import HyperStyleNetwork
from hyperinverter.networks.wplus import WPlusEncoder
from hyperinverter.tasks.common import PhaseTask, Schedule
from hyperinverter.tasks.phase1 import NearW, PhaseIEncoder
from hyperinverter.tasks.phase2 import PhaseIIHyper

SIDE = 32
PLACES = ("b8.conv1", "b16.conv0")
OWN_MAPS = ("b4.const", "b8.conv0.noise", "b8.conv1.noise")  # the generator's own maps


class Noting(Optimizer):
    """Notes the gradients of every step and changes nothing, so that both sides make the same steps."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 1.0})
        self.noted: list[Tensor] = []

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        result = None if closure is None else closure()
        for group in self.param_groups:
            self.noted += [p.grad.detach().clone() for p in group["params"] if p.grad is not None]
        return result


def backbone() -> TinyBackbone:
    return TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))


def make_phase1(method: str = "w") -> WInverter:
    generator = make_generator(SIDE)
    if method == "w":
        return WInverter(generator, WEncoder(backbone(), generator.w_dim, head="flatten"))
    encoder = WPlusEncoder(backbone(), generator.w_dim, generator.num_ws, method, "flatten", 8)  # type: ignore[arg-type]
    return WInverter(generator, encoder)


def make_model(
    fusion: type[Fusion] = ConcatFusion, coverage: str = "convs_torgb", places: tuple[str, ...] = ()
) -> HyperInverter:
    """Residuals are large enough to be seen: a tenth of the kernels."""
    first = make_phase1()
    generator = first.generator
    kernels = select(generator.kernels(), [coverage])
    hypernet = HyperNetwork(
        kernels,
        8,
        4,
        fusion,
        extractor_channels=8,
        init="fan_in",
        activation="leaky_relu",
        residual_scale=0.1,
    )
    maps = generator.synthesis.feature_maps() | generator.synthesis.own_maps()
    sides = sorted({maps[place][1] for place in places})
    encoder = FeatureEncoder(backbone(), generator.num_ws, 8, used=hypernet.used_styles, sides=sides)
    added = FeatureResiduals(maps, places, channels=8, width=4) if places else None
    return HyperInverter(first, encoder, hypernet, added).eval()


def make_hyperstyle() -> HyperStyle:
    """Changes of a few per cent of the kernels, in two looks."""
    first = make_phase1()
    kernels = select(first.generator.kernels(), ["convs"])
    return HyperStyle(first, HyperStyleNetwork(kernels, backbone(), hidden_dim=4), iterations=2).eval()


def make_discriminator() -> Discriminator:
    return Discriminator(make_generator(SIDE).config)


def photos(count: int = 4) -> Tensor:
    """Smooth pictures, ``(count, 3, SIDE, SIDE)`` in [-1, 1]."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 3, 4, 4, generator=draw) * 2 - 1
    return nn.functional.interpolate(corners, size=(SIDE, SIDE), mode="bicubic").clamp(-1, 1)


def common(optimizer: Callable[..., Optimizer]) -> dict[str, Any]:
    return {
        "loss": WeightedLoss({"l2": (1.0, PixelLoss())}),
        "metrics": MetricSuite(SIDE),
        "optimizer": optimizer,
        "schedule": Schedule(images=1000),
    }


def phase1_task(method: str = "w", optimizer: Callable[..., Optimizer] = Noting) -> PhaseTask:
    near_w = NearW(first=0, deltas=1, r1_every=1) if method == "e4e" else None
    return PhaseIEncoder(make_phase1(method), **common(optimizer), near_w=near_w)


def phase2_task(
    model: PhaseII | None = None, optimizer: Callable[..., Optimizer] = Noting, **options: Any
) -> PhaseIIHyper:
    return PhaseIIHyper(model or make_model(), **common(optimizer), **options)
