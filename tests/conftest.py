"""Fixtures every room shares: a small generator and photos for it."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import stub_train
import torch
from PIL import Image
from tiny import make_generator
from torch import Tensor

from hyperinverter.checkpoints import load_generator, save_model
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.encoders import WEncoder
from hyperinverter.networks.generator import Generator


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What processes leave behind that a test ends, or that torch never removes, goes when the session ends."""
    kernels = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    place = str(tmp_path_factory.mktemp("tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", place)
        patch.setattr(tempfile, "tempdir", place)
        # what was compiled is kept for the next session
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(kernels)))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test draws the same random numbers, in whatever order tests run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


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
    return Path(__file__).resolve().parent / "golden" / "digiface_generator_v0.safetensors"


@pytest.fixture(scope="session")
def phase1_file(v0_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untaught phase I for that generator, with the encoder ``encoder=tiny`` describes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = WEncoder(TinyBackbone(), load_generator(v0_file).w_dim, head="flatten")
    path = tmp_path_factory.mktemp("phase1") / "phase1.safetensors"
    save_model(WInverter(load_generator(v0_file), encoder), path, {})
    return path


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for files that the tests of one file share, such as weights; removed after the last of them.

    What ``tmp_path_factory`` makes stays until the end of the session: 1.4 GB of weights in each process.
    """
    folder = tmp_path_factory.mktemp("module")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 64 pixels, smooth as photos are: 12 to train on, 3 to validate, 3 to test."""
    root, draw = tmp_path_factory.mktemp("photos"), torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("val", 3), ("test", 3)):
        (root / split).mkdir()
        for i in range(count):
            corners = torch.randint(0, 256, (4, 4, 3), generator=draw, dtype=torch.uint8).numpy()
            picture = Image.fromarray(corners).resize((64, 64), Image.Resampling.BICUBIC)
            picture.save(root / split / f"{i:02d}.png")
    return root


@pytest.fixture
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home folder, default outputs, and a W&B that finds no key."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "HYPERINVERTER_OUTPUTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def short() -> list[str]:
    """Overrides of a run that is over in a moment."""
    return list(stub_train.SHORT)
