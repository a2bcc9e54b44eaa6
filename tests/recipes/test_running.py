"""Recipes answer what was typed wrong in one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hyperinverter_recipes
from hyperinverter.contracts import UserError
from hyperinverter_recipes.running import said

TYPED = {
    "over_seeds": (["nowhere"], "there is no nowhere/per_photo.csv; check what was typed"),
    "shrink": (["edits", "nowhere", "out"], "No such file or directory: nowhere; check what was typed"),
    "judge_generator": (["nowhere", "--out", "out"], "there is no generator file nowhere"),
}


@pytest.mark.parametrize("recipe", TYPED)
def test_a_file_that_is_not_there_gets_a_sentence(recipe: str, tmp_path: Path) -> None:
    typed, sentence = TYPED[recipe]
    command = [sys.executable, "-m", f"hyperinverter_recipes.{recipe}", *typed]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_other_errors_keep_their_traceback() -> None:
    def wrong() -> None:
        raise ValueError("a fault of ours")

    with pytest.raises(ValueError, match="of ours"):
        said(wrong)


def test_a_sentence_ends_with_status_one(capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> None:
        raise UserError("no such model")

    with pytest.raises(SystemExit) as ended:
        said(refused)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "no such model" in printed.out + printed.err


def test_no_recipe_ends_otherwise() -> None:
    folder = Path(hyperinverter_recipes.__file__).parent
    texts = {path.stem: path.read_text() for path in folder.glob("*.py")}
    ends = {name: text.rpartition("__main__")[2] for name, text in texts.items() if "__main__" in text}
    assert len(ends) > 10
    bare = [name for name, end in ends.items() if re.search(r"^\s+main\(\)$", end, re.MULTILINE)]
    assert bare == []
