"""The recipe of all GPU measurements goes through to its end, and says what it measured and what it did not."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from hyperinverter_recipes import gpu


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_rehearsal_writes_the_complete_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PLAN", [gpu.PLAN[0], gpu.STEP, gpu.PLAN[2]])
    monkeypatch.setattr(gpu, "CHOICES", [{}, {"per_sample": "loop"}])
    assert gpu.main(["--rehearse", "--rounds", "1", "--out", str(tmp_path / "new")]) == 0
    found = rows(tmp_path / "new" / "table.csv")
    assert [(row["case"], row["batch"]) for row in found] == [
        ("phase2_replayed", "1"),
        ("step", "2"),
        ("phase2", "2"),
    ]
    assert all(float(row["ratio"]) > 0 and row["torch"] == torch.__version__ for row in found)
    assert [row["choice"] for row in rows(tmp_path / "new" / "policies.csv")] == [
        "as it is",
        "per_sample=loop",
    ] * 3
    assert "convolution" in (tmp_path / "new" / "profile.txt").read_text()
    note = (tmp_path / "new" / "README.md").read_text()
    assert "A rehearsal on a processor" in note
    assert note.count("| not measured |") == 2  # memory of a GPU, and the edit, which was left out


def test_when_the_time_is_up_no_further_case_begins(tmp_path: Path) -> None:
    assert gpu.main(["--rehearse", "--minutes", "0", "--out", str(tmp_path / "new")]) == 0
    assert not (tmp_path / "new" / "table.csv").exists()
    assert (tmp_path / "new" / "README.md").read_text().count("| not measured |") == len(gpu.WANTED)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_or_an_empty_folder_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--out", str(tmp_path / "new")]) == 1
    assert "PyTorch sees no CUDA GPU" in capsys.readouterr().err
    (tmp_path / "other").write_text("")
    assert gpu.main(["--rehearse", "--out", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err
