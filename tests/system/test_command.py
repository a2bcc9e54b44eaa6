"""A process knows what started it: what to tell people to type, and what its jobs are started with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hyperinverter.system import command

SHOW = "from hyperinverter.system.command import again, train_command\nprint(train_command(), again())\n"


def test_a_script_starts_again_by_its_path(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SHOW)
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"python train.py {[sys.executable, str(script)]}\n"


def test_a_module_starts_again_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SHOW)
    done = subprocess.run([sys.executable, "-m", "shown"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"python train.py {[sys.executable, '-m', 'shown']}\n"  # tests run in a checkout


def test_without_a_checkout_the_console_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        command, "__file__", str(tmp_path / "lib" / "hyperinverter" / "system" / "command.py")
    )
    assert command.train_command() == "hyperinverter train"
