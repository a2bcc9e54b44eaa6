"""The recipe of all GPU measurements goes through to its end, and says what it measured and what it did not."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from hyperinverter_recipes import gpu
from hyperinverter_recipes.budget import Limit, Part, Share, share_out


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


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that parts share; theirs take no other."""
    found = Clock()
    monkeypatch.setattr(gpu, "share_out", partial(share_out, clock=found))
    return found


def replace_parts(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float, *failing: str) -> None:
    """In place of every measurement, time that passes; some fail."""

    def play(self: gpu.Bench, *given: Any) -> None:
        clock.now += seconds
        if type(given[0]).__name__ == "Case" and given[0].name in failing:
            raise RuntimeError("no kernel image is available\nfor this card")

    for name in ("_measure", "_choices", "_profile"):
        monkeypatch.setattr(gpu.Bench, name, play)


def test_when_the_time_is_up_no_further_part_begins(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_parts(monkeypatch, clock, seconds=100)
    assert gpu.main(["--rehearse", "--minutes", "9", "--out", str(tmp_path / "new")]) == 0
    assert 9 * 60 * gpu.TO_SHARE <= clock.now < 9 * 60 * gpu.TO_SHARE + 100
    note = (tmp_path / "new" / "README.md").read_text()
    assert note.count("| done |") == 5  # the last of them begins before the time is up
    assert note.count("| not begun: no time was left |") == len(gpu.PLAN) + 4 - 5
    assert note.count("| not measured |") == len(gpu.WANTED)


def test_a_part_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_parts(monkeypatch, clock, 1, "edit:1")
    assert gpu.main(["--rehearse", "--out", str(tmp_path / "new")]) == 1
    said = "failed: RuntimeError: no kernel image is available"
    assert f"edit:1 full1024 bf16 {said}\n" in capsys.readouterr().err
    note = (tmp_path / "new" / "README.md").read_text()
    assert f"| {said} |" in note
    assert note.count("| done |") == len(gpu.PLAN) + 4 - 1


def test_parts_stop_at_their_share_and_what_is_left_goes_to_the_others() -> None:
    clock, shares = Clock(), []

    def slow(share: Share) -> None:
        shares.append(share.seconds)
        while not share.over("the rest"):
            clock.now += 7

    def quick(share: Share) -> None:
        shares.append(share.seconds)

    parts = [Part("one", 2, slow), Part("two", 1, quick), Part("three", 1, slow)]
    found = share_out(parts, 100, clock)
    assert shares == [50, 22, 44]  # what one took too much, and what two did not need
    assert [outcome.said for outcome in found] == ["left out: the rest", "done", "left out: the rest"]
    assert [outcome.seconds for outcome in found] == [56, 0, 49]


def test_a_call_that_does_not_return_is_cut_off(tmp_path: Path) -> None:
    bench = gpu.Bench(tmp_path, "cpu", 0.01, tiny=True, rounds=1)
    ended, codes = Event(), []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    with Limit(bench.seconds, bench._cut_off, end):
        assert ended.wait(30)
    assert codes == [1]
    assert (tmp_path / "README.md").read_text().count("| cut off: the time was up |") == len(gpu.PLAN) + 4


def test_a_measurement_stops_at_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "machine_peak", lambda place: 1.0)
    monkeypatch.setattr(gpu.Place, "prepare", lambda self: None)
    bench = gpu.Bench(tmp_path, "cpu", 60, tiny=True, rounds=5)
    clock = Clock()
    share = Share(1, clock)
    calls: list[str] = []

    def run(side: str) -> None:
        calls.append(side)
        clock.now += 0.6

    works = {side: partial(run, side) for side in gpu.SIDES}
    monkeypatch.setattr(gpu.Bench, "_works", lambda self, case, place: works)
    row = bench._row(gpu.PLAN[0], share)
    assert calls == ["ours", "reference"] * 2  # to warm up, and one round
    assert (row["rounds"], row["gflop"]) == (1, "")
    assert share.left_out == [
        *("a call of each before the rounds", "rounds from 2 on", "the host's time", "its arithmetic")
    ]
    calls.clear()
    share.seconds = share.taken + 0.1
    assert bench._row(gpu.PLAN[0], share)["reference_seconds"] == ""
    assert calls == ["ours"] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_or_an_empty_folder_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--out", str(tmp_path / "new")]) == 1
    assert "PyTorch sees no CUDA GPU" in capsys.readouterr().err
    (tmp_path / "other").write_text("")
    assert gpu.main(["--rehearse", "--out", str(tmp_path)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert gpu.main(["--rehearse", "--minutes", "0", "--out", str(tmp_path / "new")]) == 1
    assert "--minutes must be above 0, got 0" in capsys.readouterr().err
