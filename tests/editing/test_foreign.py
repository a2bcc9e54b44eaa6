"""Files of directions that people have, built with the layouts of the projects they come from; and hostile ones."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hyperinverter.contracts import UserError
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.foreign import read_directions, save_directions

D, L = 16, 6
SIZES = {"w_dim": D, "num_ws": L}


class Runs:
    """What an attacker would put into a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.mark)!r}, 'w').close()",))


def unit(*shape: int) -> torch.Tensor:
    vector = torch.randn(*shape)
    return vector / vector.norm()


@pytest.mark.parametrize("shape", [(1, D), (D,)])
def test_interfacegan_boundary(tmp_path: Path, shape: tuple[int, ...]) -> None:
    vector = unit(*shape)
    np.save(tmp_path / "stylegan_ffhq_smile_w_boundary.npy", vector.numpy().astype(np.float64))
    found = read_directions(tmp_path / "stylegan_ffhq_smile_w_boundary.npy", **SIZES)
    assert list(found) == ["stylegan_ffhq_smile_w_boundary"]
    assert_close(found["stylegan_ffhq_smile_w_boundary"].shift, vector.flatten())


@pytest.mark.parametrize("old", [False, True])
def test_tensor_of_e4e_and_hyperinverter(tmp_path: Path, old: bool) -> None:
    vector = unit(1, D)
    torch.save(vector, tmp_path / "age.pt", _use_new_zipfile_serialization=not old)
    assert_close(read_directions(tmp_path / "age.pt", **SIZES)["age"].shift, vector[0])


def test_equal_rows_are_one_direction(tmp_path: Path) -> None:
    vector = unit(1, 1, D).expand(1, L, D).contiguous()
    torch.save(vector, tmp_path / "pose.pt")
    assert read_directions(tmp_path / "pose.pt", **SIZES)["pose"].shift.shape == (D,)


def test_flattened_boundary_of_w_plus(tmp_path: Path) -> None:
    vector = unit(1, L * D)
    np.save(tmp_path / "Smiling_boundary.npy", vector.numpy())
    shift = read_directions(tmp_path / "Smiling_boundary.npy", **SIZES)["Smiling_boundary"].shift
    assert_close(shift, vector.view(L, D))


@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_ganspace_components(tmp_path: Path, kind: str) -> None:
    axes = torch.linalg.qr(torch.randn(D, D)).Q[:5]
    std = torch.tensor([2.8, 2.5, 2.6, 1.0, 0.5])  # not sorted in the published file either
    if kind == "pt":
        content = {"mean": torch.randn(1, D), "comp": axes[:, None], "std": std}
        torch.save(content, tmp_path / "ffhq_pca.pt")
    else:
        arrays = {
            "lat_mean": np.zeros((1, D), np.float32),
            "lat_comp": axes[:, None].numpy(),
            "lat_stdev": std.numpy(),
        }
        np.savez(tmp_path / "ffhq_pca.npz", act_comp=np.zeros(3), **arrays)
    found = read_directions(tmp_path / f"ffhq_pca.{kind}", **SIZES)
    assert list(found) == [f"pc{i}" for i in range(5)]
    assert_close(found["pc2"].shift, std[2] * axes[2])
    some = read_directions(f"{tmp_path / f'ffhq_pca.{kind}'}:2-3", **SIZES)["pc2"]
    assert_close(some.shift[2:4], (std[2] * axes[2]).expand(2, D))
    assert float(some.shift[[0, 1, 4, 5]].abs().sum()) == 0


def test_closed_form_factors(tmp_path: Path) -> None:
    vectors = torch.linalg.qr(torch.randn(D, D)).Q
    torch.save({"ckpt": "550000.pt", "eigvec": vectors}, tmp_path / "factor.pt")
    found = read_directions(tmp_path / "factor.pt", **SIZES)
    assert_close(found["sefa3"].shift, vectors[:, 3])


def test_ours_come_back_with_everything_they_say(tmp_path: Path) -> None:
    given = Direction(
        "smile", torch.randn(D), (-2.0, 3.0), "one sd", "smiles", {"identity": 0.9, "ends": [1, 2]}
    )
    save_directions({"smile": given}, tmp_path / "d.safetensors", {"generator": "x"})
    found = read_directions(tmp_path / "d.safetensors", **SIZES)["smile"]
    assert torch.equal(found.shift, given.shift)
    assert (found.safe, found.unit, found.about, dict(found.facts)) == (
        given.safe,
        given.unit,
        given.about,
        given.facts,
    )


def hostile(folder: Path) -> dict[str, Path]:
    mark = folder / "executed"
    np.save(folder / "objects.npy", np.array([Runs(mark)], dtype=object), allow_pickle=True)
    np.savez(
        folder / "objects.npz",
        lat_mean=np.array([Runs(mark)], dtype=object),
        lat_comp=np.zeros(1),
        lat_stdev=np.zeros(1),
    )
    torch.save({"mean": Runs(mark)}, folder / "module.pt")
    (folder / "direction.pkl").write_bytes(pickle.dumps(Runs(mark)))
    (folder / "pickle.pt").write_bytes(pickle.dumps(Runs(mark)))
    (folder / "text.pt").write_text("not a tensor")
    (folder / "cut.npy").write_bytes((folder / "objects.npy").read_bytes()[:60])
    (folder / "zip.npz").write_bytes(b"PK\x03\x04" + bytes(40))
    (folder / "header.safetensors").write_bytes(b"\xff" * 64)
    (folder / "notes.txt").write_text("smile")
    return {path.name: path for path in folder.iterdir()}


def test_hostile_and_damaged_files_are_refused_and_execute_nothing(tmp_path: Path) -> None:
    for path in hostile(tmp_path).values():
        with pytest.raises(UserError):
            read_directions(path, **SIZES)
    assert not (tmp_path / "executed").exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    torch.save(torch.randn(1, 512), tmp_path / "age.pt")
    with pytest.raises(UserError, match="width 512, the generator has w of width 16"):
        read_directions(tmp_path / "age.pt", **SIZES)
    torch.save({"mean": torch.zeros(D), "comp": torch.ones(3, D), "std": torch.ones(3)}, tmp_path / "pca.pt")
    with pytest.raises(UserError, match="not orthonormal"):
        read_directions(tmp_path / "pca.pt", **SIZES)
    torch.save({"state_dict": {}, "opts": {}}, tmp_path / "mapper.pt")
    with pytest.raises(UserError, match="StyleCLIP mapper"):
        read_directions(tmp_path / "mapper.pt", **SIZES)
    with pytest.raises(UserError, match="there is no file"):
        read_directions(tmp_path / "missing.pt", **SIZES)
