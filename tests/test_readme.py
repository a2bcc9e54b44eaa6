"""Every command of the README is one the project knows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hyperinverter import config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
LINES = [shlex.split(line, comments=True) for line in SHELL.splitlines()]
TRAIN = [line[2:] for line in LINES if line[:2] == ["python", "train.py"]]
MAKE = [line[1] for line in LINES if line[:1] == ["make"]]


@pytest.mark.parametrize("overrides", TRAIN, ids=" ".join)
def test_train_commands_compose(overrides: list[str]) -> None:
    typed = [item for item in overrides if not re.match(r"(fusion|coverage)=.*,", item)]
    cfg = config.compose(typed)
    assert cfg.phase.number in (1, 2)


def test_readme_shows_the_three_main_commands() -> None:
    assert [] in TRAIN
    assert ["phase=2"] in TRAIN
    assert ["phase=2", "+sweep"] in TRAIN


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert MAKE
    assert set(MAKE) <= set(targets)


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []


def test_python_example_runs(tmp_path: Path) -> None:
    from PIL import Image

    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert code is not None
    photo = tmp_path / "me.jpg"
    Image.linear_gradient("L").convert("RGB").resize((80, 80)).save(photo)
    names: dict[str, object] = {}
    exec(code[1].replace('"me.jpg"', repr(str(photo))), names)  # our own text, read from this repository
    assert tuple(names["again"].shape) == (1, 3, 64, 64)  # type: ignore[attr-defined]
