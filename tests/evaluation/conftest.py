"""Networks and photos for evaluations that take a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from blurring import QUICK
from PIL import Image
from tiny import make_generator

from hyperinverter.data.digiface import accepted_indices, sample_faces
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.networks.generator import Generator


@pytest.fixture(scope="session")
def small_generator() -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_generator(32)


@pytest.fixture
def protocol() -> Protocol:
    return Protocol.of(QUICK, "quick.yaml")


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three faces of the built-in domain, as files."""
    folder = tmp_path_factory.mktemp("faces")
    for name, pixels in zip("abc", sample_faces(accepted_indices()[:3]), strict=True):
        Image.fromarray(np.asarray(pixels)).save(folder / f"{name}.png")
    return folder
