"""The doctor says what is there, what is missing, and what to type next; its status tells scripts the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import make_generator

from hyperinverter import commands
from hyperinverter.checkpoints import save_generator
from hyperinverter.checkpoints.registry import fetched_path

Served = Callable[[str], bytes]


def test_this_machine_and_every_domain(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__.split('+')[0]}" in said
    assert "GB of memory free" in said
    assert [line.split()[1].rstrip(":") for line in said.splitlines() if line.startswith("domain ")] == [
        "churches",
        "digiface",
        "faces",
        "own",
    ]
    assert "domain digiface: everything ships with the package" in said
    for name in (
        "stylegan2-ffhq-config-f.pkl",
        "stylegan2-church-config-f.pkl",
        "model_ir_se50.pth",
        "moco_v2",
    ):
        assert name in said
    assert "next: python -m hyperinverter weights fetch id_arcface, or download https://" in said
    assert not cache.exists()  # looking changes nothing


def test_states_and_next_steps_of_one_domain(
    cache: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    good = fetched_path("id_moco", cache)
    good.parent.mkdir(parents=True)
    good.write_bytes(served("id_moco"))
    served("lpips_alex")
    fetched_path("lpips_alex", cache).write_bytes(b"<html>quota exceeded</html>")
    generator = cache / "generators" / "stylegan2-church-config-f.pkl"
    generator.parent.mkdir()
    generator.write_bytes(b"<html>quota exceeded</html>")
    assert commands.main(["doctor", "churches"]) == 1
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("  ")]
    files = [line for line in lines if not line.startswith("  next:")]
    state = {line.split(": ")[1].split("/")[-1].split(",")[0]: line.split("  ")[1] for line in files}
    assert state == {
        "stylegan2-church-config-f.pkl": "unusable",
        "alexnet-owt-7be5be79.pth": "wrong hash",
        "moco_v2_800ep_pretrain.pt": "found",
        "resnet34-333f7ec4.pth": "missing",
    }
    steps = [line for line in lines if line.startswith("  next:")]
    assert len(steps) == 3  # nothing to do for what is found
    assert str(generator) in steps[0]
    assert "https://drive.google.com" in steps[0]


def test_all_there_names_the_command_that_trains(
    cache: Path, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("lpips_alex", "id_arcface"):
        path = fetched_path(label, cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(served(label))
    start = tmp_path / "start.pth"
    start.write_bytes(served("start_ir_se50"))
    save_generator(make_generator(32), tmp_path / "g.safetensors", {})
    asked = ["faces", f"generator.path={tmp_path / 'g.safetensors'}", f"encoder.start_path={start}"]
    assert commands.main(["doctor", *asked]) == 0
    assert "next: python train.py domain=faces data.root=FOLDER" in capsys.readouterr().out


def test_own_domain_wants_a_generator(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["doctor", "own"]) == 1
    assert "next: give your generator with generator=FILE" in capsys.readouterr().out


def test_unknown_domain_is_one_sentence(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["doctor", "facs"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: domain has no option 'facs', did you mean 'faces'?")
    assert said.count("\n") == 1
