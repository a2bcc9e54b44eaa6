"""The constraints of ``make test-floors`` name every library that pyproject.toml asks for, at its lowest version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_declared_library_is_held_at_its_floor() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "floors.py"], capture_output=True, text=True, check=True
    )
    held = dict(line.split("==") for line in done.stdout.split())
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = re.search(r"^dependencies = \[\n(.*?)^\]", pyproject, re.DOTALL | re.MULTILINE)
    assert asked is not None
    names = re.findall(r'^    "([\w-]+)', asked[1], re.MULTILINE)
    assert len(names) > 10
    assert set(names) <= set(held)
    assert {"submitit", "optuna", "pytest", "hatchling"} <= set(held)
    assert held["facenet-pytorch"] == "2.5.3"
    assert "hyperinverter" not in held
