"""Tasks around tiny networks, and a trainer that does nothing but train."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer
from watching import adam

from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.losses.reconstruction import PixelLoss
from hyperinverter.losses.weighted import WeightedLoss
from hyperinverter.metrics import MetricSuite
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.coverage import select
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hypernets import HyperNetwork
from hyperinverter.tasks.common import PhaseTask, Schedule
from hyperinverter.tasks.phase1 import PhaseIEncoder
from hyperinverter.tasks.phase2 import PhaseIIHyper


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    for message in (
        ".*LeafSpec.*",  # Lightning and the newest torch; as in training
        ".*in eval mode at the start of training.*",  # phase I is finished; as in training
        ".*have no `val_dataloader`.*",
    ):
        warnings.filterwarnings("ignore", message=message)

    def make(*callbacks: Callback, epochs: int = 1) -> Trainer:
        return Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            logger=False,
            log_every_n_steps=1,
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )

    return make


def _common() -> dict[str, Any]:
    return {
        "loss": WeightedLoss({"l2": (1.0, PixelLoss())}),
        "metrics": MetricSuite(16),
        "optimizer": adam,
        "schedule": Schedule(images=1000),
    }


@pytest.fixture
def make_phase1(generator: Generator) -> Callable[..., PhaseTask]:
    def make(**changes: Any) -> PhaseTask:
        encoder = WEncoder(TinyBackbone(), generator.w_dim, head="flatten")
        return PhaseIEncoder(WInverter(generator, encoder), **{**_common(), **changes})

    return make


@pytest.fixture
def make_phase2(generator: Generator) -> Callable[..., PhaseIIHyper]:
    def make(**changes: Any) -> PhaseIIHyper:
        first = WInverter(generator, WEncoder(TinyBackbone(), generator.w_dim))
        kernels = select(generator.kernels(), ["b16.*", "b4.torgb"])
        hypernet = HyperNetwork(kernels, channels=8, hidden_dim=4, extractor_channels=8, init="fan_in")
        features = FeatureEncoder(TinyBackbone(), generator.num_ws, 8, used=hypernet.used_styles)
        return PhaseIIHyper(HyperInverter(first, features, hypernet), **{**_common(), **changes})

    return make
