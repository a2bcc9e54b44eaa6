"""The wheel works alone: installed into an environment of its own, far from any checkout, every command does its work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("phase.epoch_kimg=0.05", "data.num_train=64", "data.num_val=8", "data.num_test=8", "logger=csv")
LIMIT_MB = 45

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(module_folder: Path) -> Path:
    """The wheel of this checkout."""
    folder = module_folder / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, module_folder: Path) -> Path:
    """A fresh environment with the wheel, which borrows the libraries of this one; its folder of commands."""
    place = module_folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    libraries = _libraries(place)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(place)}))
    (site / "borrowed.pth").write_text("".join(f"{library}\n" for library in libraries), encoding="utf-8")
    python = place / "bin" / "python"
    install = [python, "-m", "pip", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    found = subprocess.run(
        [python, "-c", "import hyperinverter; print(hyperinverter.__file__)"],
        capture_output=True,
        text=True,
        cwd=place,
    )
    assert Path(found.stdout.strip()).is_relative_to(site), found.stdout + found.stderr
    return place / "bin"


def _libraries(place: Path) -> list[Path]:
    """Folders of libraries of this environment, without what leads to the checkout."""
    named = [
        Path(path) for path in sys.path if path and Path(path).name in ("site-packages", "dist-packages")
    ]
    kept = []
    for number, folder in enumerate(named):
        copy = (
            place / f"libraries{number}"
        )  # links, so that no .pth file is read and no package of ours is there
        copy.mkdir()
        for entry in folder.iterdir():
            if entry.suffix != ".pth" and "hyperinverter" not in entry.name:
                (copy / entry.name).symlink_to(entry)
        kept.append(copy)
    return kept


@pytest.fixture
def run(installed: Path, tmp_path: Path):
    """Type a command in an empty folder; return what it said."""

    def type_(*typed: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HYPERINVERTER"))}
        environment["HYPERINVERTER_CACHE"] = str(tmp_path / "cache")
        command = [str(installed / typed[0]), *typed[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    return type_


def test_the_wheel_is_small_and_holds_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert wheel.stat().st_size < LIMIT_MB * 1e6
    assert "hyperinverter/conf/config.yaml" in names
    assert "hyperinverter/conf/hydra/launcher/fresh.yaml" in names
    assert "hyperinverter/assets/NOTICE.md" in names
    assert "hyperinverter/conf/protocol/digiface.yaml" in names
    page = "hyperinverter/commands/serve/page"
    assert {f"{page}/index.html", f"{page}/editor.js", f"{page}/gallery.js", f"{page}/editor.css"} <= set(
        names
    )
    others = ("hyperinverter_recipes", "tests", "hyperinverter/conf/local")
    assert not [name for name in names if name.startswith(others)]


def test_commands_that_look(run) -> None:
    said = run("hyperinverter", "doctor", "digiface")
    assert "everything ships with the package" in said
    assert "next: hyperinverter train" in said
    assert "lpips_alex" in run("hyperinverter", "weights", "list")
    assert "synthesis:1" in run(
        "hyperinverter", "bench", "synthesis:1", "--rounds", "1", "--clock", "processor"
    )


def test_a_run_goes_into_the_working_folder_and_is_resumed(run, tmp_path: Path) -> None:
    said = run("hyperinverter", "train", "phase=2", "phase.kimg=0.1", *SHORT)
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    card = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert card["status"] == "finished", said
    assert card["command"].startswith("hyperinverter train phase='2'")
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    run("python", "-m", "hyperinverter", "train", f"resume={folder}", "phase.kimg=0.15")
    card = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert card["images_seen"] > 130


def test_a_sweep_starts_its_jobs_again(run, tmp_path: Path) -> None:
    said = run(
        "hyperinverter", "train", "phase=2", "+sweep=fusion", "fusion=concat,add", "phase.kimg=0.1", *SHORT
    )
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert (folder / "table.md").is_file(), said
    for number in range(2):
        card = json.loads((folder / str(number) / "run.json").read_text(encoding="utf-8"))
        assert card["status"] == "finished"


def test_processes_of_a_distributed_run_start_again(run, tmp_path: Path) -> None:
    run("hyperinverter", "train", "trainer=ddp_cpu", "trainer.devices=2", "phase.kimg=0.1", *SHORT)
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["world_size"] == 2


def test_the_source_archive_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=unpacked, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as two:
        assert sorted(one.namelist()) == sorted(two.namelist())
