"""Weights of judges and starts are found in whatever they are wrapped in."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from wrapped import State, as_arrays, as_modules, renamed

from hyperinverter.checkpoints.reading import read_foreign_weights
from hyperinverter.contracts import UserError


def written(content: Any, path: Path) -> None:
    torch.save(content, path)


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def pickled(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=4))


Wrapping = tuple[Callable[[State], Any], Callable[[Any, Path], None]]
WRAPPINGS: dict[str, Wrapping] = {
    "bare": (lambda s: s, written),
    "ordered": (OrderedDict, written),
    "an old torch file": (lambda s: s, legacy),
    "state_dict": (lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}}}, written),
    "model": (lambda s: {"model": s}, written),
    "containers in containers": (lambda s: {"model": {"state_dict": s}}, written),
    "another network first": (lambda s: {"ema": {"scale.bias": torch.zeros(1)}, "weights": s}, written),
    "DataParallel": (lambda s: {"state_dict": renamed(s, "module.")}, written),
    "compiled": (lambda s: renamed(s, "_orig_mod."), written),
    "Lightning": (lambda s: {"state_dict": renamed(s, "net.")}, written),
    "half": (lambda s: {name: tensor.half() for name, tensor in s.items()}, written),
    "double": (lambda s: {name: tensor.double() for name, tensor in s.items()}, written),
    "arrays": (as_arrays, written),
    "arrays in a pickle": (as_arrays, pickled),
    "module": (as_modules, written),
    "safetensors": (lambda s: s, save_file),
    "safetensors of DataParallel": (lambda s: renamed(s, "module."), save_file),
}


@pytest.fixture
def state() -> State:
    """Numbers that halves can hold."""
    return {
        "conv1.weight": torch.arange(6.0).reshape(2, 3),
        "layer1.0.bn1.bias": torch.ones(2),
        "layer1.0.bn1.num_batches_tracked": torch.tensor(7),
    }


def same(found: State, state: State) -> bool:
    return found.keys() == state.keys() and all(
        torch.equal(tensor, state[name].to(tensor.dtype))
        and (tensor.is_floating_point() or name[-7:] == "tracked")
        for name, tensor in found.items()
    )


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_in_every_wrapping(wrapping: str, state: State, tmp_path: Path) -> None:
    wrap, write = WRAPPINGS[wrapping]
    if wrapping in ("half", "double"):
        state.pop("layer1.0.bn1.num_batches_tracked")
    write(wrap(state), tmp_path / "file.pth")
    found = read_foreign_weights(tmp_path / "file.pth", "start_resnet34", "conv1.weight")
    assert same(found, state)
    assert {t.dtype for t in found.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("prefix", ["module.encoder_q.", "encoder_q.", "module.", ""])
def test_the_encoder_of_moco_is_taken_out_of_its_training(prefix: str, state: State, tmp_path: Path) -> None:
    content = renamed(state, prefix)
    if "encoder_q" in prefix:
        content |= {name.replace("_q.", "_k."): t + 1 for name, t in content.items()}
        content["module.queue"] = torch.zeros(2, 2)
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": content}, tmp_path / "moco.pth.tar")
    found = read_foreign_weights(tmp_path / "moco.pth.tar", "id_moco", "conv1.weight", ("encoder_q",))
    assert same(found, state)


def test_a_file_that_is_something_else_is_named_with_the_way_out(tmp_path: Path) -> None:
    for content, sentence in (
        (b"", "is empty"),
        (b"<html>quota exceeded</html>", "is a web page"),
        (b"PK\x03\x04 cut short", "is cut short or damaged"),
        (b"\x1f\x8b rest", "is compressed with gzip"),
    ):
        (tmp_path / "file.pth").write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read_foreign_weights(tmp_path / "file.pth", "lpips_alex", "features.0.weight")
    torch.save({"epoch": 3}, tmp_path / "file.pth")
    with pytest.raises(
        UserError, match=r"holds no tensors by name; lpips_alex needs alexnet.* from https://"
    ):
        read_foreign_weights(tmp_path / "file.pth", "lpips_alex", "features.0.weight")
