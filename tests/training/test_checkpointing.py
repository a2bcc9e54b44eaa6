"""Checkpoints on disk: whole or told, and the random state that comes back."""

# ruff: noqa: NPY002  # the generator under test is the one libraries draw from

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.contracts import UserError
from hyperinverter.system.files import is_full
from hyperinverter.training.checkpointing import Streamed, newest_readable
from hyperinverter.training.randomness import random_state, restore_random_state


def write(path: Path, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"weight": torch.full((4096,), value)}}, path)
    return path


def damage(path: Path) -> None:
    """Flip one bit in the middle of the numbers; the file's structure stays readable."""
    content = bytearray(path.read_bytes())
    place = content.find(np.full(64, 2.0, np.float32).tobytes())
    assert place > 0
    content[place + 100] ^= 1
    path.write_bytes(bytes(content))


def test_a_checkpoint_is_not_put_together_in_memory(tmp_path: Path) -> None:
    state = {str(i): torch.full((1 << 20,), float(i)) for i in range(16)}  # 64 MiB
    tracemalloc.start()
    try:
        Streamed().save_checkpoint({"state_dict": state}, tmp_path / "last.ckpt")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 16 << 20
    found = read_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("numbers", [10, 1 << 22])
def test_a_full_disk_is_known_for_what_it_is(numbers: int) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Streamed().save_checkpoint({"weight": torch.zeros(numbers)}, "/dev/full")
    assert is_full(caught.value)


def test_a_flipped_bit_is_found_where_torch_would_load_a_wrong_weight(tmp_path: Path) -> None:
    path = write(tmp_path / "last.ckpt", 2.0)
    damage(path)
    loaded = torch.load(path, weights_only=True)["state_dict"]["weight"]
    assert not bool((loaded == 2.0).all())  # torch says nothing
    with pytest.raises(UserError, match="cannot be read as a checkpoint .*damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"PK half of a", b"not a zip file at all"])
def test_half_a_file_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="cut short or of another kind"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_the_one_before_is_taken_if_the_last_is_damaged_and_the_trouble_is_told(tmp_path: Path) -> None:
    assert newest_readable(tmp_path) is None
    write(tmp_path / "previous.ckpt", 1.0)
    damage(write(tmp_path / "last.ckpt", 2.0))
    found = newest_readable(tmp_path)
    assert found is not None
    path, content, trouble = found
    assert (path.name, float(content["state_dict"]["weight"][0])) == ("previous.ckpt", 1.0)
    assert trouble is not None
    assert "last.ckpt cannot be read" in trouble
    (tmp_path / "previous.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="last.ckpt cannot be read"):
        newest_readable(tmp_path)


def test_random_numbers_go_on_where_they_were_through_a_file(tmp_path: Path) -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    random.gauss(0, 1), np.random.standard_normal()  # each keeps half of a pair for the next call
    torch.save({"state_dict": {}, "random": random_state()}, tmp_path / "state")

    def draws() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.standard_normal(), float(torch.rand(()))]

    expected = draws()
    random.seed(6), np.random.seed(6), torch.manual_seed(6)
    restore_random_state(read_checkpoint(tmp_path / "state")["random"])
    assert draws() == expected
