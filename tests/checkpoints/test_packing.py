"""A byte per number: exact where few numbers occur, closer than half a step where not, refused where it cannot fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyperinverter.checkpoints import load_hyperinverter, load_w_inverter
from hyperinverter.checkpoints.packing import exactly, nearly, unpack
from hyperinverter.checkpoints.reading import read_packaged, read_safetensors
from hyperinverter.checkpoints.registry import PACKAGED, packaged_path
from hyperinverter.contracts import UserError
from hyperinverter.data.digiface import accepted_indices, sample_faces
from hyperinverter.data.transforms import to_tensor


def levels(rows: int, columns: int, count: int, own: bool) -> Tensor:
    """Numbers of ``count`` levels; ``own``: every row has its own."""
    step = torch.rand(rows, 1) + 0.5 if own else torch.ones(1, 1)
    return torch.randint(-count // 2, count // 2, (rows, columns)) * step


@pytest.mark.parametrize(("own", "tables"), [(False, 1), (True, 6)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_few_numbers_come_back_exactly(own: bool, tables: int, dtype: torch.dtype) -> None:
    tensor = levels(6, 5000, 256, own).to(dtype)
    packed = exactly("a", tensor)
    assert packed is not None
    assert packed["a"].dtype == torch.uint8
    assert len(packed["a.values"]) == tables
    assert torch.equal(unpack(packed)["a"], tensor.float())


def test_many_numbers_are_left_alone() -> None:
    assert exactly("a", torch.randn(4, 2000)) is None
    assert (
        exactly("a", levels(64, 30, 30, own=True).half()) is None
    )  # tables would be as large as what they save


@pytest.mark.parametrize("shape", [(40, 30), (8, 9, 3, 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_rounding_is_off_by_half_a_step_and_finds_the_better_axis(shape: tuple[int, ...], axis: int) -> None:
    size = [1] * len(shape)
    size[axis] = shape[axis]
    tensor = torch.randn(shape) * torch.logspace(-3, 1, shape[axis]).view(size)
    packed = nearly("a", tensor)
    assert packed["a"].dtype == torch.int8
    assert list(packed["a.scale"].shape) == size
    assert ((unpack(packed)["a"] - tensor).abs() <= 0.501 * packed["a.scale"].float() + 1e-6).all()


def test_zeros_stay_zeros() -> None:
    assert torch.equal(unpack(nearly("a", torch.zeros(3, 4)))["a"], torch.zeros(3, 4))


@pytest.mark.parametrize(
    "stored",
    [
        {"a": torch.full((2, 3), 9, dtype=torch.uint8), "a.values": torch.zeros(1, 5)},
        {"a": torch.zeros(2, 3, dtype=torch.uint8), "a.values": torch.zeros(3, 5)},
        {"a": torch.zeros(2, 3, dtype=torch.uint8), "a.values": torch.zeros(5)},
        {"a": torch.zeros(2, 3, dtype=torch.int8), "a.scale": torch.ones(3, 1)},
        {"a": torch.zeros(2, 1, dtype=torch.int8), "a.scale": torch.ones(2, 7)},
        {"a": torch.zeros(0, dtype=torch.uint8), "a.values": torch.zeros(1, 5)},
    ],
)
def test_what_does_not_fit_is_one_sentence(stored: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(stored, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read as safetensors"):
        read_safetensors(tmp_path / "a.safetensors")


def test_names_that_look_packed_are_left_alone() -> None:
    plain = {"a": torch.ones(2), "a.scale": torch.ones(2), "b": torch.ones(2, dtype=torch.uint8)}
    assert unpack(plain) == plain


def test_the_packaged_phase2_has_the_packaged_phase1_inside() -> None:
    stored = load_file(packaged_path("digiface_phase2"))
    assert not [name for name in stored if name.startswith("w_inverter")]
    both = load_hyperinverter("digiface")
    alone = load_w_inverter("digiface", both.generator)
    for name, tensor in alone.encoder.state_dict().items():
        assert torch.equal(tensor, both.w_inverter.encoder.state_dict()[name]), name


def test_what_ships_is_under_45_megabytes_and_floats_once_read() -> None:
    sizes = {key: packaged_path(key).stat().st_size for key in PACKAGED}
    assert sum(sizes.values()) < 45e6
    for key in ("face_descriptor", "face_expression", "face_landmarks68"):
        assert {t.dtype for t in read_packaged(key).values()} == {torch.float32}


def test_the_better_model_ships_with_features_that_edits_move() -> None:
    model = load_hyperinverter("digiface_best")
    assert model.generator.source == "digiface"
    assert model.rule == "picture"
    photos = to_tensor(sample_faces(accepted_indices()[:8]))
    found, paper = model.invert(photos), load_hyperinverter("digiface").invert(photos)
    assert list(found.features) == ["b16.conv1.features"]
    error, other = (float((each.image - photos).square().mean()) for each in (found, paper))
    assert error < 0.005
    assert error < 0.4 * other
    assert torch.equal(found.w, paper.w)  # one phase I
