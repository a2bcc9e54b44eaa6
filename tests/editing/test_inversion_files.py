"""One inversion in one file: complete, readable elsewhere, and refused when it is something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyperinverter.checkpoints import load_hyperinverter
from hyperinverter.contracts import Inversion, UserError
from hyperinverter.editing.files import Origin, load_inversion, load_origin, save_inversion


def make_inversion(batch: int = 1) -> Inversion:
    image = torch.rand(batch, 3, 8, 8)
    return Inversion(
        w=torch.randn(batch, 4),
        residuals={"b4.conv1.weight": torch.randn(batch, 2, 2, 3, 3)},
        w_image=image,
        image=-image,
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    given = make_inversion()
    matrix = [[1.0, 0.0, 2.0], [0.0, 1.0, 3.0], [0.0, 0.0, 1.0]]
    origin = Origin("digiface", "a" * 64, "b" * 64, "写真 1.jpg", "c" * 64, matrix, {"fine": 0.5})
    save_inversion(given, tmp_path / "x.inversion.safetensors", origin)
    found, said = load_inversion(tmp_path / "x.inversion.safetensors")
    assert said == origin == load_origin(tmp_path / "x.inversion.safetensors")
    assert torch.equal(found.w, given.w)
    assert torch.equal(found.image, given.image)
    assert torch.equal(found.w_image, given.w_image)
    assert found.residuals.keys() == given.residuals.keys()
    assert torch.equal(found.residuals["b4.conv1.weight"], given.residuals["b4.conv1.weight"])


def test_w_plus_is_kept(tmp_path: Path) -> None:
    plain = make_inversion()
    save_inversion(
        Inversion(torch.randn(1, 6, 4), {}, plain.w_image, plain.image), tmp_path / "x.safetensors"
    )
    assert load_inversion(tmp_path / "x.safetensors")[0].w.shape == (1, 6, 4)


def test_without_residuals_both_images_are_one_tensor_and_are_saved(tmp_path: Path) -> None:
    image = torch.rand(1, 3, 8, 8)
    save_inversion(Inversion(torch.randn(1, 4), {}, image, image), tmp_path / "x.safetensors")
    found, _ = load_inversion(tmp_path / "x.safetensors")
    assert torch.equal(found.image, image)
    assert torch.equal(found.w_image, image)


def test_several_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one photo's inversion, got 2"):
        save_inversion(make_inversion(2), tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.inversion.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match="not an inversion"):
        load_inversion(file)
    with pytest.raises(UserError, match="not an inversion"):
        load_origin(file)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.inversion.safetensors"
    save_inversion(make_inversion(), file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="not an inversion"):
        load_inversion(file)
    with pytest.raises(UserError, match="there is no inversion file"):
        load_inversion(tmp_path / "missing.safetensors")


def test_another_process_draws_the_same_image(tmp_path: Path) -> None:
    model = load_hyperinverter("digiface")
    inversion = model.invert(torch.rand(1, 3, 64, 64) * 2 - 1)
    save_inversion(inversion, tmp_path / "x.inversion.safetensors")
    code = (
        "import sys, torch; from hyperinverter.checkpoints import load_hyperinverter;"
        "from hyperinverter.editing.files import load_inversion;"
        "found, _ = load_inversion(sys.argv[1]); model = load_hyperinverter('digiface');"
        "image = model.render(found.w, found.residuals);"
        "print(float((image - found.image).abs().max()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.inversion.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 1e-5
