"""What cannot be compared is one sentence with the way out, before anything is measured."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from blurring import QUICK, Blurring
from PIL import Image
from tiny import make_generator

from hyperinverter.commands import main
from hyperinverter.commands.evaluating import named
from hyperinverter.contracts import UserError
from hyperinverter.evaluation.measure import refuse_different
from hyperinverter.evaluation.protocol import Protocol

QUICKLY = [f"--without={name}" for name in ("st_lpips_alex", "id_descriptor", "frechet_effnet_lite0")]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--data", "EMPTY"], "no photos were found"),
        (["--data", "gone"], "there is no photo or folder gone"),
        (["--n", "2000"], "the built-in faces have 1,000 for test"),
        (["--data", "FACES", "--n", "4"], "holds 3 photos; choose at most as many"),
        (
            ["--protocol", "papper"],
            "there is no protocol 'papper'; there are: digiface, paper, paper_churches",
        ),
        (["--protocol", "paper", "--data", "FACES"], "is mostly bias, it needs at least 1,000"),
        (["--protocol", "paper", "--data", "FACES", "--without", "fid"], "leave it out with --without kid"),
        (
            ["--protocol", "paper", "--data", "FACES", "--without", "fid", "--without", "kid"],
            "weights fetch lpips_alex",
        ),
        (["--without", "fid"], "the protocol digiface has no 'fid'; it has: l2,"),
        (["--weights", "st_lpips_alex"], "give LABEL=FILE"),
        (["--weights", "fid=FACES/a.png"], "uses no network 'fid'"),
        (["--weights", "st_lpips_alex=FACES/a.png"], "is not the file that the protocol digiface names"),
        (["--device", "cuda:7"], "this machine has"),
        (["--device", "moon"], "none of auto, cpu, cuda"),
        (["digiface"], "two models would be called 'digiface'"),
        (["photo=digiface"], "the photos are called 'photo'"),
        (["nothing"], "nothing"),
    ],
)
def test_one_sentence(
    typed: list[str],
    sentence: str,
    faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYPERINVERTER_CACHE", str(tmp_path / "cache"))
    words = [word.replace("EMPTY", str(tmp_path / "empty")).replace("FACES", str(faces)) for word in typed]
    data = [] if "--data" in typed or "--n" in typed else ["--data", str(faces)]
    assert main(["evaluate", "digiface", *words, *data, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_walls_have_no_faces(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from facenet_pytorch import InceptionResnetV1

    for name in ("a", "b"):
        Image.new("RGB", (64, 64), "grey").save(tmp_path / f"{name}.png")
    torch.save(InceptionResnetV1(pretrained=None).state_dict(), tmp_path / "facenet.pt")
    text = [f"{key}: {value}" for key, value in QUICK.items() if key not in ("photo", "sets")]
    text += ["photo: {l2: {side: null}, id_facenet_mtcnn: {side: null}}", "sets: {}"]
    (tmp_path / "own.yaml").write_text("\n".join(text))
    typed = [
        "--data",
        str(tmp_path),
        "--protocol",
        str(tmp_path / "own.yaml"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert (
        main(["evaluate", "digiface", *typed, f"--weights=id_facenet_mtcnn={tmp_path / 'facenet.pt'}"]) == 1
    )
    assert "finds no face in any of the first 2 photos" in capsys.readouterr().err


def test_protocols_and_photos_do_not_mix(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["evaluate", "digiface", "--data", str(faces), *QUICKLY, "--out", str(tmp_path / "out")]
    assert main([*typed, "--without=kernel_effnet_lite0"]) == 0
    assert main([*typed, "--without=kernel_effnet_lite0", "--without=ssim"]) == 1
    assert "another protocol (photo.ssim is in one of them only)" in capsys.readouterr().err
    (tmp_path / "others").mkdir()
    for name in "abc":  # the same names, other photos
        Image.open(faces / f"{name}.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            tmp_path / "others" / f"{name}.png"
        )
    other = [word.replace(str(faces), str(tmp_path / "others")) for word in typed]
    assert main([*other, "--without=kernel_effnet_lite0"]) == 1
    assert "scores of another photo a" in capsys.readouterr().err
    (tmp_path / "others" / "a.png").rename(tmp_path / "others" / "z.png")
    assert main([*other, "--without=kernel_effnet_lite0"]) == 1
    assert "choose another folder with --out" in capsys.readouterr().err


def test_models_of_other_generators_and_sides_are_refused() -> None:
    one, other, larger = make_generator(16), make_generator(16), make_generator(32)
    refuse_different({"a": Blurring(one), "b": Blurring(one)})
    refuse_different({"a": Blurring(one), "b": Blurring(copy.deepcopy(one))})
    with pytest.raises(UserError, match="a and b draw with different generators.*evaluate them apart"):
        refuse_different({"a": Blurring(one), "b": Blurring(other)})
    with pytest.raises(UserError, match="a draws images of 16 px and b of 32 px"):
        refuse_different({"a": Blurring(one), "b": Blurring(larger)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rounding": "none"}, "asks for rounding=none; only 8 bits is built"),
        ({"range": [0, 1]}, "asks for range"),
        ({"colour": "grey"}, "knows no 'colour'"),
        (
            {"sets": {"fid": {"distance": "far", "network": "x", "too_few": "refuse"}}},
            "needs distance: frechet",
        ),
        ({"sets": {"fid": {"distance": "frechet", "too_few": "refuse"}}}, "fid lacks network"),
        ({"published": "cats"}, "there are: faces, churches"),
    ],
)
def test_protocols_that_are_none(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Protocol.of({**QUICK, **change}, "own.yaml")
    left = {key: value for key, value in QUICK.items() if key != "photo"}
    with pytest.raises(UserError, match="lacks photo"):
        Protocol.of(left, "own.yaml")


def test_names_of_models_are_safe(tmp_path: Path) -> None:
    (tmp_path / "2026-01-01").mkdir()
    (tmp_path / "2026-01-01" / "12-30-00").mkdir()
    assert named("digiface") == ("digiface", "digiface")
    assert named("pti:30@digiface") == ("pti_30@digiface", "pti:30@digiface")
    assert named("ours=digiface") == ("ours", "digiface")
    assert named(str(tmp_path / "2026-01-01" / "12-30-00"))[0] == "2026-01-01_12-30-00"
    (tmp_path / "a=b.safetensors").touch()
    label, model = named(str(tmp_path / "a=b.safetensors"))
    assert (label, model) == ("a_b", str(tmp_path / "a=b.safetensors"))
    assert named("../../etc")[0] == "etc"
