"""Fixtures every room shares: a small generator and photos for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperinverter.networks.generator import Generator


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test draws the same random numbers, in whatever order tests run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_generator(resolution: int = 16, **overrides: int) -> Generator:
    """A narrow random generator whose mean w and noise are not zero."""
    shape = {"z_dim": 12, "w_dim": 16, "mapping_layers": 2, "channel_base": 256, "channel_max": 16}
    generator = Generator(img_resolution=resolution, **{**shape, **overrides})
    with torch.no_grad():
        generator.mapping.w_avg.normal_()
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    return generator.eval()


@pytest.fixture
def generator() -> Generator:
    """16 pixels, w of 16 numbers, 6 style layers."""
    return make_generator()


@pytest.fixture
def photos() -> Tensor:
    """Three pictures for ``generator``, ``(3, 3, 16, 16)`` in [-1, 1]."""
    return torch.rand(3, 3, 16, 16) * 2 - 1


@pytest.fixture(scope="session")
def v0_file() -> Path:
    """The 64 px generator that the golden images were drawn with; never retrained."""
    name, tests = "digiface_generator_v0.safetensors", Path(__file__).resolve().parent
    places = [tests / "golden" / name, tests.parent / "src" / "hyperinverter" / "assets" / name]
    return next(place for place in places if place.is_file())
