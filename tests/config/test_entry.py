"""The command line answers at once, in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def at_the_door(*typed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *typed]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def without_torch(*typed: str) -> subprocess.CompletedProcess[str]:
    """train.py in a process that fails if it has loaded what takes seconds."""
    command = f"import runpy, sys; sys.argv = {['train.py', *typed]}\n"
    command += "try: runpy.run_path('train.py', run_name='__main__')\nexcept SystemExit: pass\n"
    command += (
        "slow = {'torch', 'pandas', 'PIL', 'wandb', 'optuna'} & set(sys.modules)\nassert not slow, slow"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("typed", ["typo=1", "phase=2 +sweep=fuson", "phase.kmig=1"])
def test_a_typo_is_answered_before_torch_loads(typed: str) -> None:
    assert without_torch(*typed.split()).stderr.startswith("error: ")


def test_the_front_door_answers_a_typo_in_one_line() -> None:
    done = at_the_door("phase=2", "fusion=conct")
    assert done.returncode == 1
    assert done.stderr.startswith("error: fusion has no option 'conct', did you mean 'concat'?")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_debug_shows_the_traceback() -> None:
    done = at_the_door("fusion=conct", "debug=true")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "error: fusion has no option" in done.stderr


def test_help_lists_groups_and_keys_without_loading_torch() -> None:
    done = without_torch("--help")
    assert "fusion: add, attention, concat" in done.stdout
    assert "python train.py phase=2 +sweep" in done.stdout
    assert "kimg:" in done.stdout


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["phase=2", "hydra.run.dir=/proc/x"], "hydra.run.dir=PATH"),
        (["-m", "phase=2", "fusion=glob(*)", "--cfg", "job"], "leave -m out"),
        (["-m", "phase=2", "fusion=glob(zz*)"], "fusion has no option 'glob(zz*)'"),
        (["hydra.job.chdir=true"], "leave it out"),
        (["--info", "nothing"], ""),
        (["phase=2", "hydra/launcher=nothing"], ""),
        (["paths.outputs=${x}"], ""),
        (["--config-dir", "/nowhere"], ""),
    ],
)
def test_what_hydra_raises_around_our_code_is_a_sentence(
    typed: list[str], sentence: str, tmp_path: Path
) -> None:
    outputs = [] if any("outputs" in item for item in typed) else [f"paths.outputs={tmp_path}"]
    done = at_the_door(*typed, *outputs)
    assert "Traceback" not in done.stderr + done.stdout
    if done.returncode != 2:  # 2: argparse, which has its own sentence
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert sentence in done.stderr


def test_nobody_has_to_read_what_is_printed(tmp_path: Path) -> None:
    command = f"{sys.executable} {ROOT / 'train.py'} --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    full = subprocess.run(
        ["bash", "-c", f"{sys.executable} {ROOT / 'train.py'} typo=1 2>/dev/full"], timeout=120, cwd=tmp_path
    )
    assert full.returncode == 1


def test_a_rank_that_was_left_in_the_shell_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    done = at_the_door("phase=1")
    assert done.returncode == 1
    assert "LOCAL_RANK=1 is set in this shell, but nothing started several processes" in done.stderr
