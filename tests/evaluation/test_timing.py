"""Models are timed in turn, so that their seconds can be divided by each other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from hyperinverter.evaluation import timing


class Clocked:
    """A way to invert that takes a known time, and notes when it is called."""

    def __init__(self, name: str, seconds: float, clock: list[float], log: list[str]) -> None:
        self.name, self.taken, self.clock, self.log = name, seconds, clock, log

    def invert(self, photos: Tensor) -> SimpleNamespace:
        self.log.append(self.name)
        self.clock[0] += self.taken * len(photos)
        return SimpleNamespace(w=torch.zeros(len(photos), 3))

    def edit(self, inversion: SimpleNamespace, step: object, power: float) -> None:
        self.clock[0] += self.taken / 10

    def prepare(self, inversion: SimpleNamespace) -> object:
        return lambda w: None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: time[0])
    return time


def test_fast_models_take_turns_and_slow_ones_are_called_in_between(clock: list[float]) -> None:
    log: list[str] = []
    names = {"one": 0.01, "two": 0.02, "slow": 30.0, "endless": 1000.0}
    models = {name: Clocked(name, seconds, clock, log) for name, seconds in names.items()}
    rounds: list[int] = []
    rows = timing.time_models(models, torch.zeros(1, 3, 4, 4), 20.0, rounds.append)  # type: ignore[arg-type]
    assert sum(rounds) == timing.ROUNDS
    found = {(label, row.part, row.batch): row for label, some in rows.items() for row in some}
    assert found["one", "inversion", 1].median == pytest.approx(0.01)
    assert found["two", "inversion", 8].median == pytest.approx(0.16)
    assert found["two", "edit", 1].median == pytest.approx(0.002)
    assert found["slow", "inversion", 1].calls == timing.SLOW_CALLS
    assert found["endless", "inversion", 1].calls == 1
    assert ("slow", "inversion", 8) not in found  # minutes for nothing
    one_photo = log[: log.index("slow", log.index("slow") + 1)]  # until the slow one comes again
    assert one_photo[-10:] == ["one", "two"] * 5
    assert Counter(log)["endless"] == 1


def test_times_of_other_turns_are_no_longer_those_of_one_table(tmp_path: Path) -> None:
    row = timing.Timing("inversion", 1, 0.1, 0.1, 0.1, 50, 1.0, "cpu", 1)
    for name, moment in (("a", "first"), ("b", "first"), ("c", "second")):
        (tmp_path / name).mkdir()
        timing.keep_timings(tmp_path / name, [row], moment)
    assert timing.read_timings(tmp_path / "a") == [row]
    assert timing.timed_together([tmp_path / "a", tmp_path / "b"], "cpu")
    assert not timing.timed_together([tmp_path / "a", tmp_path / "b"], "gpu")
    assert not timing.timed_together([tmp_path / "a", tmp_path / "c"], "cpu")
    assert not timing.timed_together([tmp_path / "a", tmp_path / "none"], "cpu")
