"""One inversion in one file: complete, readable elsewhere, and refused when it is something else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hyperinverter.checkpoints import load_hyperinverter
from hyperinverter.contracts import Inversion, UserError
from hyperinverter.editing.files import Origin, lacks_shared, load_inversion, load_origin, save_inversion
from hyperinverter.ops.factored import FactoredResidual


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


def factored(hidden: int = 4) -> Inversion:
    """An inversion whose residual was multiplied from factors; w2 and b2 belong to the model."""
    draw = torch.Generator().manual_seed(3)
    w2, b2 = torch.randn(hidden, 8 * 9, generator=draw), torch.randn(8 * 9, generator=draw)
    factors = FactoredResidual(torch.randn(1, 16, hidden), w2, b2, (8, 16, 3, 3))
    plain = make_inversion()
    residuals = {"b4.conv1.weight": factors.materialise(), "b4.torgb.weight": torch.randn(1, 3, 8, 1, 1)}
    return Inversion(plain.w, residuals, plain.w_image, plain.image, {"b4.conv1.weight": factors})


@pytest.mark.parametrize("shared", [False, True])
def test_factors_are_kept_in_place_of_residuals_and_give_them_back_bit_for_bit(
    tmp_path: Path, shared: bool
) -> None:
    one, other, origin = factored(), factored(), Origin(model_sha256="a" * 64)
    for name, given in (("one", one), ("other", other)):
        file = tmp_path / f"{name}.inversion.safetensors"
        save_inversion(given, file, origin, shared=shared)
        found, _ = load_inversion(file)
        assert found.residuals.keys() == given.residuals.keys()
        assert all(torch.equal(found.residuals[name], given.residuals[name]) for name in given.residuals)
        save_inversion(found, tmp_path / "again.safetensors", origin)  # and once more
        again, _ = load_inversion(tmp_path / "again.safetensors")
        assert all(torch.equal(again.residuals[name], given.residuals[name]) for name in given.residuals)
    plain = replace(one, factors={})
    save_inversion(plain, tmp_path / "plain.safetensors", origin)
    assert file.stat().st_size < (tmp_path / "plain.safetensors").stat().st_size - (3500 if shared else 900)
    assert (tmp_path / "aaaaaaaaaaaaaaaa.factors.safetensors").is_file() == shared


@pytest.mark.parametrize("hidden", [4, 64])  # factors that are fewer numbers than the residual, and more
def test_residuals_that_are_factors_alone_are_written_too(tmp_path: Path, hidden: int) -> None:
    whole = factored(hidden)
    few = replace(whole, residuals={"b4.torgb.weight": whole.residuals["b4.torgb.weight"]})
    save_inversion(few, tmp_path / "few.safetensors", unchanged=True)
    found, _ = load_inversion(tmp_path / "few.safetensors")
    assert found.residuals.keys() == whole.residuals.keys()
    assert all(torch.equal(found.residuals[name], whole.residuals[name]) for name in whole.residuals)


def test_without_the_shared_factors_or_with_those_of_another_model_it_is_said(tmp_path: Path) -> None:
    file, common = tmp_path / "x.inversion.safetensors", tmp_path / f"{'a' * 16}.factors.safetensors"
    save_inversion(factored(), file, Origin(model_sha256="a" * 64), shared=True)
    assert not lacks_shared(file)
    kept = common.read_bytes()
    common.unlink()
    assert lacks_shared(file)
    with pytest.raises(UserError, match=r"needs a{16}\.factors\.safetensors, which was written next to it"):
        load_inversion(file)
    common.write_bytes(kept.replace(b"a" * 64, b"b" * 64))
    with pytest.raises(UserError, match="is of another model"):
        load_inversion(file)
    common.write_bytes(kept[:-4])
    with pytest.raises(UserError, match="damaged"):
        load_inversion(file)


def test_residuals_that_were_changed_are_saved_as_they_are(tmp_path: Path) -> None:
    given = factored()
    changed = replace(given, residuals={name: 2 * each for name, each in given.residuals.items()})
    save_inversion(changed, tmp_path / "x.safetensors", Origin(model_sha256="a" * 64), shared=True)
    found, _ = load_inversion(tmp_path / "x.safetensors")
    assert all(torch.equal(found.residuals[name], changed.residuals[name]) for name in changed.residuals)
    assert not list(tmp_path.glob("*.factors.safetensors"))


@pytest.mark.parametrize("shape", ["[8, 16, 3]", "[8, 0, 3, 3]", "[80000, 16, 3, 3]", '["a"]', "7"])
def test_factors_of_another_shape_are_refused(tmp_path: Path, shape: str) -> None:
    file = tmp_path / "x.inversion.safetensors"
    save_inversion(factored(), file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() | {"factors": f'{{"b4.conv1.weight": {shape}}}'}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(tensors, file, metadata)
    with pytest.raises(UserError, match="damaged"):
        load_inversion(file)
    save_file(tensors, file, {**metadata, "version": "99"})
    with pytest.raises(UserError, match="newer version"):
        load_inversion(file)


def test_files_of_version_1_load(tmp_path: Path) -> None:
    given = make_inversion()
    tensors = {"w": given.w, "w_image": given.w_image, "image": given.image}
    tensors |= {f"residuals.{name}": residual for name, residual in given.residuals.items()}
    origin = json.dumps({"model": "digiface", "strength": 1.0})
    metadata = {"kind": "hyperinverter.inversion", "version": "1", "origin": origin}
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    found, said = load_inversion(tmp_path / "x.safetensors")
    assert said == Origin("digiface")
    assert torch.equal(found.residuals["b4.conv1.weight"], given.residuals["b4.conv1.weight"])
    assert not found.factors


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


ODD: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "w that is not a number": ({"w": torch.full((1, 4), float("nan"))}, "no inversion .w."),
    "w that is infinite": ({"w": torch.full((1, 4), float("inf"))}, "no inversion .w."),
    "an image that is none": ({"image": torch.zeros(3)}, "no inversion .image."),
    "an image that is not a number": (
        {"image": torch.full((1, 3, 8, 8), float("nan"))},
        "no inversion .image.",
    ),
    "two codes": ({"w": torch.zeros(2, 4)}, "no inversion .w."),
    "no code": ({"w": torch.zeros(0, 4)}, "no inversion .w."),
    "residuals of two photos": (
        {"residuals.b4.conv1.weight": torch.zeros(2, 2, 2, 3, 3)},
        "no inversion .b4.conv1.weight.",
    ),
}


def changed(folder: Path, tensors: dict[str, torch.Tensor] | None = None, origin: str | None = None) -> Path:
    file = folder / "x.inversion.safetensors"
    save_inversion(make_inversion(), file, Origin("digiface"))
    with safe_open(file, "pt") as opened:
        held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    save_file(held | (tensors or {}), file, metadata | ({} if origin is None else {"origin": origin}))
    return file


@pytest.mark.parametrize("kind", ODD)
def test_numbers_that_are_no_inversion_are_refused(kind: str, tmp_path: Path) -> None:
    tensors, said = ODD[kind]
    with pytest.raises(UserError, match=said):
        load_inversion(changed(tmp_path, tensors))


def test_other_precisions_are_taken(tmp_path: Path) -> None:
    found, _ = load_inversion(changed(tmp_path, {"w": torch.ones(1, 4).half()}))
    assert torch.equal(found.w, torch.ones(1, 4))


@pytest.mark.parametrize(
    "origin",
    [
        "[]",
        "3",
        '{"model": ["digiface"]}',
        '{"crop": [[1, 2], [3]]}',
        '{"crop": 5}',
        '{"strength": "x"}',
        '{"strength": NaN}',
        '{"white": "q"}',
        '{"fit": null}',
    ],
)
def test_an_origin_of_another_kind_is_refused(origin: str, tmp_path: Path) -> None:
    file = changed(tmp_path, origin=origin)
    for load in (load_inversion, load_origin):
        with pytest.raises(UserError, match="damaged or not an inversion"):
            load(file)


def test_what_is_no_inversion_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected an inversion, .* got Tensor"):
        save_inversion(torch.zeros(1, 4), tmp_path / "x.safetensors")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot be written"):
        save_inversion(make_inversion(), tmp_path / "missing" / "x.safetensors")
