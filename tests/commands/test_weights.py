"""Weight files are fetched when somebody asks, whole and checked, and never otherwise."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperinverter import assembly, commands, config
from hyperinverter.checkpoints.registry import FETCHED, fetched_path
from hyperinverter.contracts import UserError

Served = Callable[[str], bytes]


def test_a_domain_brings_all_its_files_and_names_what_is_left_by_hand(
    cache: Path, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {label: served(label) for label in ("lpips_alex", "id_moco", "start_resnet34")}
    assert commands.main(["weights", "fetch", "churches"]) == 0
    for label, expected in content.items():
        assert fetched_path(label, cache).read_bytes() == expected
    said = capsys.readouterr()
    assert "by hand: download https://drive.google.com" in said.out
    assert "stylegan2-church-config-f.pkl" in said.out
    assert said.err.count("from http://127.0.0.1") == 3


def test_a_label_and_another_folder(served: Served, tmp_path: Path) -> None:
    content = served("lpips_vgg")
    assert commands.main(["weights", "fetch", "lpips_vgg", f"paths.cache={tmp_path / 'elsewhere'}"]) == 0
    assert fetched_path("lpips_vgg", tmp_path / "elsewhere").read_bytes() == content


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ([], "name a domain (churches, digiface, faces, own) or a label"),
        (["faecs"], "'faecs' is neither a domain"),
    ],
)
def test_nothing_or_nonsense_lists_the_names(
    asked: list[str], sentence: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["weights", "fetch", *asked]) == 1
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


def test_list_shows_every_file_once_per_use(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["weights", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FETCHED)


@pytest.mark.parametrize("label", ["lpips_alex", "id_facenet", "id_arcface", "id_moco"])
def test_training_never_downloads(label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a download"))
    cfg = config.compose([f"paths.cache={tmp_path}"])
    with pytest.raises(UserError, match=rf"python -m hyperinverter weights fetch {label}"):
        assembly.judge(label, cfg)


def test_a_reader_may_leave_early() -> None:
    command = [sys.executable, "-m", "hyperinverter", "weights", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is written
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_list_is_of_the_labels_and_the_place_that_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["weights", "list", "lpips_vgg", f"paths.cache={tmp_path}"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert str(fetched_path("lpips_vgg", tmp_path)) in line
