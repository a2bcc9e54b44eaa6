"""invert, edit, interpolate, mix and directions on the packaged model, as typed."""

from __future__ import annotations

import csv
import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import make_generator

from hyperinverter.commands import main
from hyperinverter.commands.editing import Editor, parse_sweep
from hyperinverter.commands.inputs import Source, framing_for, model_for, parse_strength, sources
from hyperinverter.commands.inverting import Inversions, ahead, batch_for, batches, side_by_side
from hyperinverter.contracts import UserError
from hyperinverter.data.digiface import accepted_indices, sample_faces
from hyperinverter.editing.catalogue import for_generator, with_catalogue
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.files import Origin, load_inversion, save_inversion
from hyperinverter.editing.foreign import save_directions
from hyperinverter.inversion.optimise import Optimiser
from hyperinverter.inversion.tuning import PivotalTuning
from hyperinverter.inverters import load_inverter
from hyperinverter.judges.catalogue import build_judge


@pytest.fixture(scope="module")
def photos(module_folder: Path) -> Path:
    """Three faces of the built-in domain; two share their name, one is broken."""
    folder = module_folder / "faces"
    (folder / "more").mkdir(parents=True)
    for place, pixels in zip(
        ("a.png", "b.png", "more/a.png"), sample_faces(accepted_indices()[:3]), strict=True
    ):
        Image.fromarray(pixels).save(folder / place)
    return folder


@pytest.fixture(scope="module")
def inverted(photos: Path, module_folder: Path) -> Path:
    out = module_folder / "inverted"
    assert main(["invert", str(photos), "--out", str(out)]) == 0
    return out


def report(out: Path) -> list[dict[str, str]]:
    with (out / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_invert_leaves_what_it_promises(inverted: Path, photos: Path) -> None:
    for name in ("a", "a-2", "b"):
        assert not (inverted / f"{name}.photo.png").exists()  # neither cut out nor resized
        for ending in ("inverted.png", "w_image.png", "inversion.safetensors"):
            assert (inverted / f"{name}.{ending}").is_file()
        inversion, origin = load_inversion(inverted / f"{name}.inversion.safetensors")
        assert len(origin.photo_sha256) == len(origin.model_sha256) == len(origin.generator_sha256) == 64
        drawn = np.asarray(Image.open(inverted / f"{name}.inverted.png"))
        assert drawn.shape == (64, 64, 3)
        expected = ((inversion.image[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(drawn, expected)
        size = (inverted / f"{name}.inversion.safetensors").stat().st_size
        assert size < 2_400_000  # as factors; the residuals take 3.5 MB
    rows = report(inverted)
    assert {row["name"] for row in rows} == {"a", "a-2", "b"}
    assert all(0 < float(row["l2"]) < 0.1 and row["status"] == "inverted" for row in rows)
    sheet = np.asarray(Image.open(inverted / "sheet.png"))[17 : 17 + 128, 2 : 2 + 128]
    assert np.array_equal(sheet[::2, ::2], np.asarray(Image.open(photos / "a.png")))


def test_what_is_done_is_skipped_and_what_changed_is_not(
    photos: Path, inverted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (inverted / "a.inverted.png").stat().st_mtime_ns
    assert main(["invert", str(photos), "--out", str(inverted)]) == 0
    assert "0 inverted, 3 done before" in capsys.readouterr().err
    assert (inverted / "a.inverted.png").stat().st_mtime_ns == before
    assert main(["invert", str(photos / "b.png"), "--out", str(inverted), "--strength", "fine=0"]) == 0
    assert "1 inverted" in capsys.readouterr().err
    assert load_inversion(inverted / "b.inversion.safetensors")[1].strength == {"fine": 0.0}


def test_inversions_of_a_folder_can_share_what_is_the_models(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["invert", str(photos / "b.png"), "--out", str(tmp_path), "--compact"]
    assert main(typed) == 0
    assert (tmp_path / "b.inversion.safetensors").stat().st_size < 400_000
    (shared,) = tmp_path.glob("*.factors.safetensors")
    shared.unlink()
    capsys.readouterr()
    assert main(typed) == 0
    assert "1 inverted" in capsys.readouterr().err
    assert shared.is_file()


def test_photos_are_made_ready_ahead_in_order_and_no_further_than_asked() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 7:
            raise UserError("seven")
        return -number

    with ThreadPoolExecutor(1) as pool:
        made = ahead(pool, work, range(10), 3)
        assert next(made) == 0
        assert max(begun) <= 3
        assert [next(made) for _ in range(6)] == [-1, -2, -3, -4, -5, -6]
        with pytest.raises(UserError, match="seven"):
            next(made)


def test_a_report_without_the_perceptual_distance(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["invert", str(photos), "--out", str(out), "--report", "l2", "--batch", "1"]) == 0
    rows = report(out)
    assert [row["name"] for row in rows] == ["a", "b", "a-2"]  # as given, whichever batch was done first
    assert all(row["st_lpips_alex"] == "" and float(row["l2"]) > 0 for row in rows)
    assert main(["invert", str(photos), "--out", str(out), "--report", "short"]) == 1


def test_batches_of_small_images_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_inverter("digiface")
    for cores, expected in ((1, (1, 1)), (2, (2, 1)), (16, (4, 4))):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert side_by_side(model) == expected
    assert side_by_side(Optimiser(make_generator(), build_judge("st_lpips_alex"))) == (1, 16)
    assert [list(batch) for batch in batches(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert [batch_for(*given) for given in ((1000, 2), (127, 2), (255, 4), (1000, 1))] == [16, 8, 8, 8]


def test_a_disk_that_refuses_is_reported(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hyperinverter.commands.inverting.save_inversion", full)
    job = Inversions("digiface", tmp_path / "out", batch=1)
    with pytest.raises(UserError, match="no space is left"):
        job.run(sources([photos])[0])


def test_a_broken_photo_does_not_stop_the_others(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"not an image")
    status = main(
        ["invert", str(photos / "b.png"), str(tmp_path / "broken.png"), "--out", str(tmp_path / "out")]
    )
    assert status == 1
    said = capsys.readouterr().err
    assert "broken.png" in said
    assert "1 inverted, 1 failed" in said
    assert {row["name"]: row["status"] for row in report(tmp_path / "out")} == {
        "b": "inverted",
        "broken": "failed",
    }


def test_ways_to_invert_without_training_are_models_as_well(photos: Path, tmp_path: Path) -> None:
    """A search, and a refinement that starts from what phase II found and comes nearer; both can be edited."""
    photo = str(photos / "b.png")
    short = "pti:pivot=3,steps=2,samples=50@digiface"
    assert main(["invert", photo, "--model", short, "--out", str(tmp_path / "pti")]) == 0
    assert main(["invert", photo, "--refine", "pti", "--steps", "3", "--out", str(tmp_path / "refined")]) == 0
    assert main(["invert", photo, "--out", str(tmp_path / "plain")]) == 0
    assert float(report(tmp_path / "refined")[0]["st_lpips_alex"]) < float(
        report(tmp_path / "plain")[0]["st_lpips_alex"]
    )
    _, origin = load_inversion(tmp_path / "refined" / "b.inversion.safetensors")
    assert origin.model == "digiface+pti:3"
    file = str(tmp_path / "pti" / "b.inversion.safetensors")
    out = ["--direction", "smile=1", "--out", str(tmp_path / "edited")]
    assert main(["edit", file, "--model", short, *out]) == 0
    assert (tmp_path / "edited" / "b.edit.png").is_file()


def test_photos_are_cut_out_as_the_domain_of_the_model_frames_them(tmp_path: Path) -> None:
    model = Optimiser(make_generator(), build_judge("st_lpips_alex"))
    assert framing_for(load_inverter("digiface")) == "digiface"
    with pytest.raises(UserError, match="add --framing ffhq for faces, or --framing centre"):
        framing_for(model)
    for name, expected in (
        ("stylegan2-church-config-f.pkl", "centre"),
        ("stylegan2-ffhq-config-f.pkl", "ffhq"),
    ):
        model.generator.source = f"somewhere/{name}"
        assert framing_for(model) == expected
    model.generator.source = ""
    for command, expected in (("domain=churches", "centre"), ("domain='faces' x=1", "ffhq")):
        header = {"recipe": json.dumps({"command": f"python train.py {command}"})}
        save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", header)
        model.source = str(tmp_path / "model.safetensors")
        assert framing_for(model) == expected
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").touch()
    (run / "run.json").write_text("{}")
    for domain, expected in (
        ("{name: churches, faces: false}", "centre"),
        ("{name: faces, faces: true}", "ffhq"),
        ("{name: cats, faces: false}", "centre"),
    ):
        (run / "config.yaml").write_text(f"domain: {domain}\n")
        for source in (run, run / "checkpoints" / "best.ckpt", f"phase1@{run}"):
            model.source = str(source)
            assert framing_for(model) == expected
        assert framing_for(PivotalTuning(model, model.distance)) == expected
    assert framing_for(model, "digiface") == "digiface"
    with pytest.raises(UserError, match="there are: ffhq, digiface, centre"):
        framing_for(model, "square")


def test_photos_that_are_not_square_or_not_white_are_taken_as_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (96, 64), "black").save(tmp_path / "wide.png")
    Image.fromarray(np.full((80, 80), 4095, np.uint16)).save(tmp_path / "grey.png")
    out, photos = tmp_path / "out", [str(tmp_path / "wide.png"), str(tmp_path / "grey.png")]
    for _ in range(2):
        assert main(["invert", *photos, "--out", str(out), "--fit", "pad", "--white", "4095"]) == 0
    assert "2 done before" in capsys.readouterr().err
    assert np.asarray(Image.open(out / "wide.photo.png"))[0].min() == 255
    assert np.asarray(Image.open(out / "grey.photo.png")).min() == 255
    assert main(["invert", *photos, "--out", str(out)]) == 0
    assert "2 inverted" in capsys.readouterr().err
    assert np.asarray(Image.open(out / "wide.photo.png")).max() == 0
    assert main(["edit", photos[0], "--direction", "smile=0", "--fit", "bend", "--out", str(out)]) == 1
    assert "--fit=bend is not known; there are: crop, pad, squeeze" in capsys.readouterr().err


def test_a_photo_without_a_face_can_be_cut_at_its_centre(tmp_path: Path) -> None:
    Image.fromarray(np.full((80, 120, 3), 90, np.uint8)).save(tmp_path / "wide.png")
    out = tmp_path / "out"
    typed = ["invert", str(tmp_path / "wide.png"), "--align", "--framing", "centre", "--out", str(out)]
    assert main(typed) == 0
    crop = load_inversion(out / "wide.inversion.safetensors")[1].crop
    assert crop is not None
    assert np.allclose(crop, [[0.8, 0, -16], [0, 0.8, 0], [0, 0, 1]])


def test_an_inversion_of_another_generator_says_which_model_to_give(
    photos: Path, v0_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the model is a search: the file knows what it was made with."""
    named = f"w_opt:steps=1,samples=50,distance=st_lpips_alex@{v0_file}"
    assert main(["invert", str(photos / "b.png"), "--model", named, "--out", str(tmp_path)]) == 0
    file = str(tmp_path / "b.inversion.safetensors")
    typed = ["edit", file, "-d", "pc0=1", "--directions", "pca", "--out", str(tmp_path)]
    assert main([*typed, "--model", "digiface"]) == 1
    assert f"add --model {named}" in capsys.readouterr().err.replace("\n", "")
    assert main(typed) == 0


def test_without_a_model_inversions_are_edited_with_the_one_that_made_them(
    inverted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = inverted / "b.inverted.png"
    found = [Source(photo, "b"), Source(inverted / "a.inversion.safetensors", "a")]
    assert model_for(found, None) == "digiface"
    assert model_for(found[:1], None) == "digiface"
    given, _ = load_inversion(found[1].path)
    other = tmp_path / "best.inversion.safetensors"
    save_inversion(given, other, Origin(model="digiface_best"))
    assert model_for([*found[:1], Source(other, "best")], None) == "digiface_best"
    assert model_for([Source(other, "best")], "digiface") == "digiface"
    with pytest.raises(UserError, match="made with digiface, digiface_best: say which with --model"):
        model_for([*found, Source(other, "best")], None)
    save_inversion(given, other, Origin(model="runs/gone"))
    typed = ["edit", str(other), "-d", "smile=1", "--out", str(tmp_path)]
    assert main(typed) == 1
    assert "made with runs/gone, which cannot be loaded here" in capsys.readouterr().err.replace("\n", " ")
    assert main([*typed, "--model", "digiface"]) == 0


def test_edit_with_power_zero_is_the_inversion(inverted: Path, tmp_path: Path) -> None:
    file = inverted / "a.inversion.safetensors"
    assert main(["edit", str(file), "-d", "smile=0", "--out", str(tmp_path)]) == 0
    same = np.asarray(Image.open(tmp_path / "a.edit.png")).astype(int)
    assert np.abs(same - np.asarray(Image.open(inverted / "a.inverted.png"))).max() == 0


def test_edit_gain_moves_the_code_on(inverted: Path, tmp_path: Path) -> None:
    def edited(power: float, *typed: str) -> np.ndarray:
        file = str(inverted / "a.inversion.safetensors")
        assert main(["edit", file, "-d", f"yaw={power}", *typed, "--out", str(tmp_path)]) == 0
        return np.asarray(Image.open(tmp_path / "a.edit.png")).astype(int)

    assert np.abs(edited(1, "--edit-gain", "1.5") - edited(1.5)).max() <= 1  # the code differs by rounding
    assert np.abs(edited(1, "--edit-gain", "1.5") - edited(1)).mean() > 1
    assert np.array_equal(edited(0, "--edit-gain", "1.5"), edited(0))


def test_edit_strength_lets_go_of_a_photo_in_large_edits_alone(inverted: Path, tmp_path: Path) -> None:
    def edited(power: float, *typed: str) -> np.ndarray:
        file = str(inverted / "a.inversion.safetensors")
        assert main(["edit", file, "-d", f"yaw={power}", *typed, "--out", str(tmp_path)]) == 0
        return np.asarray(Image.open(tmp_path / "a.edit.png")).astype(int)

    assert np.array_equal(edited(0, "--edit-strength", "0"), edited(0))
    assert np.abs(edited(0, "--rule", "picture") - edited(0)).max() == 0
    moved, drawn = edited(2, "--rule", "picture"), edited(2, "--rule", "add")
    assert np.array_equal(drawn, edited(2))  # as the paper's design does
    assert 1 < np.abs(moved - drawn).mean() < np.abs(drawn - edited(0)).mean()
    kept, let_go, plain = edited(2), edited(2, "--edit-strength", "0"), edited(2, "--strength", "0")
    assert (
        1 < np.abs(let_go - plain).mean() < 0.8 * np.abs(kept - plain).mean()
    )  # where nothing changes all is kept


def test_edit_strip_and_animation(inverted: Path, tmp_path: Path) -> None:
    file = str(inverted / "a.inversion.safetensors")
    typed = ["-d", "smile=1", "-d", "light_side=0.5", "--sweep", "-1:1:5", "--animate", "webp"]
    assert main(["edit", file, *typed, "--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / "a.sweep.png") as strip:
        assert strip.width > 5 * 96
    with Image.open(tmp_path / "a.sweep.webp") as animation:
        assert animation.n_frames > 20  # type: ignore[attr-defined]
    edited = np.asarray(Image.open(tmp_path / "a.edit.png")).astype(int)
    assert np.abs(edited - np.asarray(Image.open(inverted / "a.inverted.png"))).mean() > 1


def test_an_animation_without_a_sweep_stays_in_the_safe_range(
    inverted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(Editor, "save_strip", lambda self, titles, frames, name: seen.append(titles))
    typed = ["edit", str(inverted / "a.inversion.safetensors"), "-d", "smile=1", "--out", str(tmp_path)]
    assert main([*typed, "--animate", "gif"]) == 0
    assert (seen[0][0], seen[0][-1]) == ("smile -1.5", "smile +1.2")
    assert "safe range" not in capsys.readouterr().err
    assert main([*typed, "--sweep", "-3:1:3"]) == 0
    assert "smile=-3 is outside of its safe range -1.5 to 1.2" in capsys.readouterr().err


def test_directions_of_a_file_and_of_the_catalogue_in_one_command(
    inverted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = load_inverter("digiface").generator
    files = [str(tmp_path / name) for name in ("one.safetensors", "two.safetensors")]
    for file, names in zip(files, (("own", "smile"), ("smile",)), strict=True):
        found = {name: Direction(name, torch.ones(generator.w_dim), about=file) for name in names}
        save_directions(found, file, {"generator_sha256": generator.sha256})
    known = with_catalogue(generator, files)
    assert {"own", "yaw"} < set(known)
    assert known["smile"].about == files[1]
    assert set(for_generator(generator, files)) == {"own", "smile"}
    typed = ["edit", str(inverted / "a.inversion.safetensors"), "--out", str(tmp_path), "-d", "own=0.1"]
    typed += ["-d", "yaw=0.5", "--directions", files[0]]
    assert main([*typed, "-d", "pc3=0.5", "--directions", "pca"]) == 0
    assert main([*typed, "-d", "pc3=0.5"]) == 1
    assert "there is no direction 'pc3'; there are: background" in capsys.readouterr().err


def test_a_face_goes_back_into_its_own_photo_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.full((100, 140, 3), 90, np.uint8)
    pixels[:, 30:110] += np.arange(80, dtype=np.uint8)[None, :, None]
    own, other = tmp_path / "own.png", tmp_path / "other.png"
    Image.fromarray(pixels).save(own)
    Image.fromarray(pixels + 1).save(other)
    cut = ["--align", "--framing", "centre", "--out", str(tmp_path)]
    assert main(["invert", str(own), *cut]) == 0
    assert main(["edit", str(own), "-d", "smile=1", *cut, "--paste", str(other)]) == 1
    typed = ["edit", str(tmp_path / "own.inversion.safetensors"), "-d", "smile=1", *cut[3:]]
    assert main([*typed, "--paste", str(other)]) == 1
    assert capsys.readouterr().err.count("is not the photo that was inverted") == 2
    assert main([*typed, "--paste", str(own)]) == 0
    pasted = np.asarray(Image.open(tmp_path / "own.pasted.png"))
    assert np.array_equal(pasted[:, :20], pixels[:, :20])
    assert not np.array_equal(pasted, pixels)


@pytest.mark.parametrize(
    "command", ["invert", "edit -d smile=1", "align --framing centre"], ids=["invert", "edit", "align"]
)
def test_a_folder_fails_for_its_photos_and_not_for_its_other_files(
    command: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.open(photos / "a.png").save(folder / "a.png")
    (folder / "notes.txt").write_text("smiles")
    typed = [*command.split(), str(folder), "--out", str(tmp_path / "out")]
    if command.startswith("align"):  # the others take seconds
        assert main(typed) == 0
        assert "1 not photos (notes.txt)" in capsys.readouterr().err
    assert sources([folder])[1] == f"left out below {folder}: 1 not photos (notes.txt)"
    (folder / "empty.jpg").touch()
    (folder / "of a phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert main(typed) == 1
    said = "".join(capsys.readouterr())
    assert all(word in said for word in ("empty.jpg", "of a phone.heic", "notes.txt"))
    assert list((tmp_path / "out").glob("a*.png"))


def test_edit_of_a_photo_equals_edit_of_its_file(photos: Path, inverted: Path, tmp_path: Path) -> None:
    for given, out in (
        (photos / "a.png", tmp_path / "photo"),
        (inverted / "a.inversion.safetensors", tmp_path / "file"),
    ):
        assert main(["edit", str(given), "-d", "yaw=0.5", "--out", str(out)]) == 0
    first, second = (
        np.asarray(Image.open(tmp_path / kind / "a.edit.png")).astype(int) for kind in ("photo", "file")
    )
    assert np.abs(first - second).max() <= 1


def test_interpolation_ends_at_both_photos(
    inverted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (str(inverted / f"{name}.inversion.safetensors") for name in ("a", "b"))
    assert main(["interpolate", a, b, "--steps", "3", "--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / "a_to_b.png") as strip:
        assert strip.width > 3 * 96
    line = (tmp_path / "a_to_b.png").read_bytes()
    assert main(["interpolate", a, b, "--steps", "3", "--path", "sphere", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "a_to_b.png").read_bytes() != line
    assert main(["mix", a, b, "--layers", "fine", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "a_with_b.png").is_file()
    said = capsys.readouterr().err  # where the results are
    assert str(tmp_path / "a_to_b.png") in said
    assert str(tmp_path / "a_with_b.png") in said


def test_directions_list_show_discover(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["directions", "list"]) == 0
    assert "smile" in capsys.readouterr().out
    assert main(["directions", "show", "smile"]) == 0
    assert "safe:" in capsys.readouterr().out
    assert main(["directions", "discover", "--count", "3", "--out", str(tmp_path / "pca.safetensors")]) == 0
    with safe_open(tmp_path / "pca.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["pc0", "pc1", "pc2"]


def test_directions_discovered_in_styles_are_taken_by_edit(
    inverted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    styled, some = tmp_path / "s.safetensors", tmp_path / "some.safetensors"
    discover = ["directions", "discover", "--count", "2", "--layers", "6-9"]
    assert main([*discover, "--space", "s", "--out", str(styled)]) == 0
    with safe_open(styled, "pt") as file:
        assert {name.split("/")[0] for name in file.keys()} == {"spc0", "spc1"}  # noqa: SIM118
    edit = ["edit", str(inverted / "b.inversion.safetensors"), "--directions", str(styled)]
    assert main([*edit, "-d", "spc0=2", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "b.edit.png").read_bytes() != (inverted / "b.inverted.png").read_bytes()
    assert main([*discover, "--out", str(some)]) == 0
    with safe_open(some, "pt") as file:
        assert file.get_tensor("pc0").abs().sum(1).nonzero().flatten().tolist() == [6, 7, 8, 9]
    for wrong, said in (
        (["--space", "s", "--method", "sefa"], "--space=s is not possible"),
        (["--layers", "a-b"], "not FIRST-LAST"),
        (["--layers", "8-99"], "8-99"),
    ):
        assert main([*discover, *wrong, "--out", str(some)]) == 1
        assert said in capsys.readouterr().err


def test_directions_fit_to_labels_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, pixels in enumerate(sample_faces(accepted_indices()[:48])):
        group = "light" if pixels.mean() > 81 else "dark"
        (tmp_path / group).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / group / f"{index}.png")
    lines = [
        f"{p.relative_to(tmp_path)},{np.asarray(Image.open(p)).mean():.2f}"
        for p in sorted(tmp_path.rglob("*.png"))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["photo,label", *lines]) + "\n")
    fitted = tmp_path / "light.safetensors"
    assert (
        main(["directions", "fit", str(tmp_path / "labels.csv"), "--name", "light", "--out", str(fitted)])
        == 0
    )
    assert "rank correlation" in capsys.readouterr().out
    groups = [str(tmp_path / name) for name in ("dark", "light")]
    assert main(["directions", "fit", *groups, "--name", "light", "--keep", "yaw", "--out", str(fitted)]) == 0
    assert "balanced accuracy" in capsys.readouterr().out
    assert main(["directions", "list", str(fitted)]) == 0


def test_edits_in_stylespace(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A channel by its place, StyleCLIP's files, and the direction that comes out of them."""
    draw = np.random.default_rng(0)
    np.save(tmp_path / "fs3.npy", draw.normal(size=(128, 32)).astype(np.float32))  # of the first convolution
    np.save(tmp_path / "text.npy", draw.normal(size=32))
    files = [str(tmp_path / name) for name in ("fs3.npy", "text.npy")]
    file = str(tmp_path / "beard.safetensors")
    typed = ["directions", "fit", *files, "--name", "beard", "--threshold", "1.5", "--out", file]
    assert main(typed) == 0
    assert "channels of styles: b4.conv1" in capsys.readouterr().out
    assert main(["directions", "show", file, "beard"]) == 0
    assert "StyleCLIP's alpha" in capsys.readouterr().out
    typed = ["edit", str(photos / "a.png"), "-d", "beard=3", "-d", "s5_2=-4", "--directions", file]
    assert main([*typed, "--sweep", "-5:5:9", "--out", str(tmp_path)]) == 0
    edited, strip = (np.asarray(Image.open(tmp_path / f"a.{kind}.png")) for kind in ("edit", "sweep"))
    assert edited.shape == (64, 64, 3)
    assert strip.shape[1] > 9 * 64
    assert main(["directions", "show", "s5_2"]) == 0
    assert "channel 2 of b16.conv0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["edit", "PHOTO", "-d", "s99_0=1"], "no style layer '99'"),
        (["directions", "fit", "fs3.npy"], "fit needs StyleCLIP's fs3.npy and a text.npy"),
        (["directions", "fit", "fs3.npy", "text.npy"], "there is no file fs3.npy"),
        (["invert", "missing.png"], "there is no photo or folder missing.png"),
        (["invert", "PHOTO", "--strength", "much"], "neither a number nor GROUP=NUMBER"),
        (["invert", "PHOTO", "--model", "nothing"], "nothing"),
        (["edit", "PHOTO", "-d", "smlie=1"], "there is no direction 'smlie'"),
        (["edit", "PHOTO", "-d", "smile=x"], "NAME=POWER"),
        (["edit", "PHOTO", "-d", "smile=1", "--sweep", "1:2"], "FROM:TO:STEPS"),
        (["edit", "PHOTO", "-d", "smile=1", "--directions", "nowhere.pt"], "there is no file nowhere.pt"),
        (["directions", "fit"], "fit needs a CSV"),
        (["directions", "paint"], "no action 'paint'"),
        (["invert", ""], "the path is empty"),
        (["invert", "PHOTO", "--out", ""], "the path is empty"),
        (["invert", "~nobody-of-this-name/a.png"], "cannot be written out"),
        (["invert", "PHOTO", "--strength", "nan"], "strength as a finite number, got nan"),
        (["invert", "PHOTO", "--strength", "x=1"], "no group of layers is called 'x'"),
        (["invert", "PHOTO", "--strength", "fine=1,fine=0"], "names a group twice"),
        (["invert", "PHOTO", "--model", "w_opt:preset=x"], "preset=x in 'w_opt:preset=x' is none of"),
        (["invert", "PHOTO", "--model", "w_opt:samples=9999999999"], "samples 2 to 1000000"),
        (["invert", "PHOTO", "--model", "w_opt:steps=1,steps=2"], "gives steps twice"),
        (["edit", "PHOTO", "-d", "smile=1", "--sweep", "-1e308:1e308:3"], "needs finite ends"),
        (["mix", "PHOTO", "PHOTO", "--layers", ""], "names no group"),
        (["directions", "fit", "PHOTO"], "is no table: give a CSV"),
        (["directions", "fit", "."], ". is one folder: give two, photos without what is meant"),
        (["directions", "discover", "--out", "/proc/x/d.safetensors"], "cannot write /proc/x"),
        (["edit", "PHOTO", "-d", "smile=1", "--paste", "--paste-mode", "face"], "--paste needs the photo"),
        (["bench", "synthesis:1", "--out", "/proc/x"], "cannot write /proc/x"),
        (["doctor", "own", "generator.path=~nobody-of-this-name/x"], "cannot be written out"),
        (["weights", "list", "lpips"], "'lpips' is no label; there are: lpips_alex"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    typed: list[str],
    sentence: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(photos / "a.png") if word == "PHOTO" else word for word in typed]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") <= 2


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("edit PHOTO -d smile=1 --animate avi", "'--animate': 'avi' is not one of 'gif', 'webp', 'mp4'"),
        ("edit PHOTO -d smile=1 --paste-mode all", "'all' is not one of 'face', 'difference'"),
        ("interpolate PHOTO PHOTO --what z", "'--what': 'z' is not one of 'w', 'residuals', 'both'"),
        ("interpolate PHOTO PHOTO --path z", "'--path': 'z' is not one of 'line', 'sphere'"),
    ],
)
def test_a_value_that_an_option_does_not_have_is_answered_with_those_it_has(
    typed: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed.split()) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") <= 2


def test_an_inversion_is_no_photo_to_invert(inverted: Path) -> None:
    with pytest.raises(UserError, match="is an inversion, not a photo"):
        sources([inverted / "b.inversion.safetensors"])


def test_a_sweep_goes_through_zero_exactly() -> None:
    assert parse_sweep("-1:1:7")[3] == 0.0  # type: ignore[index]
    assert parse_sweep("-3:3:7") == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]


def test_names_are_told_apart_and_fit_the_file_system(tmp_path: Path) -> None:
    for place in ("x/photo.png", "y/photo.jpg", "y/PHOTO.png", f"z/{'長' * 80}.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / place)
    found, line = sources([tmp_path])
    names = [source.name for source in found]
    assert len({name.casefold() for name in names}) == 4
    assert max(len(name.encode()) for name in names) <= 110
    assert "2 photos share their names" in line
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no photos were found"):
        sources([tmp_path / "empty"])
    assert parse_strength("coarse=1, fine=0.5") == {"coarse": 1.0, "fine": 0.5}


def test_strength_zero_is_the_image_of_phase_one(photos: Path, tmp_path: Path) -> None:
    assert main(["invert", str(photos / "a.png"), "--strength", "0", "--out", str(tmp_path)]) == 0
    first, second = (
        np.asarray(Image.open(tmp_path / f"a.{kind}.png")).astype(int) for kind in ("inverted", "w_image")
    )
    assert np.abs(first - second).max() <= 1
    assert json.dumps(load_inversion(tmp_path / "a.inversion.safetensors")[1].strength) == "0.0"
    assert torch.is_tensor(load_inversion(tmp_path / "a.inversion.safetensors")[0].w)


def test_a_code_too_far_to_be_drawn_is_said(
    inverted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(inverted / "a.inversion.safetensors")
    assert main(["edit", file, "-d", "smile=1e300", "--out", str(tmp_path)]) == 1
    assert "it cannot be drawn: the codes w hold numbers that are not finite" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def test_an_inversion_of_another_model_is_said(
    inverted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, origin = load_inversion(inverted / "a.inversion.safetensors")
    for name, w in (("narrow", torch.zeros(1, 7)), ("layers", torch.zeros(1, 3, 128))):
        save_inversion(replace(found, w=w), tmp_path / f"{name}.inversion.safetensors", origin)
    for name, said in (("narrow", "got (1, 7)"), ("layers", "expected 10 codes per sample, got 3")):
        odd = str(tmp_path / f"{name}.inversion.safetensors")
        assert main(["edit", odd, "-d", "smile=1", "--out", str(tmp_path)]) == 1
        assert said in capsys.readouterr().err
        assert (
            main(["interpolate", str(inverted / "a.inversion.safetensors"), odd, "--out", str(tmp_path)]) == 1
        )
        assert capsys.readouterr().err.startswith("error: ")


def test_odd_names_are_kept_and_shown_without_steering_anything(photos: Path, tmp_path: Path) -> None:
    odd = ["=1+1.png", "-d.png", "\x1b[31mred.png", "o'hara [x]=é,写真.png", os.fsdecode(b"\xff.png")]
    for name in odd:
        (tmp_path / name).write_bytes((photos / "a.png").read_bytes())
    out = tmp_path / "out"
    for _ in range(2):
        assert (
            main(["invert", *(str(tmp_path / name) for name in odd), "--report", "l2", "--out", str(out)])
            == 0
        )
        with (out / "report.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        names = ["'=1+1", "'-d", "\\x1b[31mred", "o'hara [x]=é,写真", "\ufffd"]
        assert [row["name"] for row in rows] == names  # once each, whatever is written again
