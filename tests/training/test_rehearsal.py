"""What would fail at the end of a run is said before its first step."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hyperinverter.contracts import UserError
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.training.panels import ImagePanels
from hyperinverter.training.rehearsal import check_cache, checkpoint_bytes, rehearse

GOOD = {"rank_by": "test/l2", "monitor": "val/psnr"}


def test_a_rehearsal_leaves_nothing_behind(make_phase1: Callable[..., PhaseTask], tmp_path: Path) -> None:
    task = make_phase1()
    before, random = {n: t.clone() for n, t in task.state_dict().items()}, torch.get_rng_state()
    rehearse(task, tmp_path, **GOOD)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
    for name in ("test/phase1/l2", "test/seconds_per_image"):
        rehearse(task, tmp_path, rank_by=name, monitor="val/l2")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"rank_by": "test/fid", "monitor": "val/l2"}, r"phase.rank_by=test/fid is not measured; .* test/l2"),
        ({"rank_by": "test/l2", "monitor": "val/x"}, r"phase.monitor=val/x is not measured; there are: val/"),
    ],
)
def test_numbers_that_nothing_measures(
    names: dict[str, str], sentence: str, make_phase1: Callable[..., PhaseTask], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        rehearse(make_phase1(), tmp_path, **names)


def test_a_loss_or_a_measure_that_cannot_take_the_photos(
    make_phase1: Callable[..., PhaseTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(*_: object) -> None:
        raise RuntimeError("Kernel size can't be greater than actual input size")

    task = make_phase1()
    for part, what in ((task.loss, "the loss"), (task.metrics, "a measure")):
        with monkeypatch.context() as patch:
            patch.setattr(part, "forward" if part is task.loss else "update", small)
            with pytest.raises(
                UserError, match=f"{what} of this run cannot take photos of 16 px .Kernel size"
            ):
                rehearse(task, tmp_path, **GOOD)


def test_weights_that_are_not_numbers(make_phase1: Callable[..., PhaseTask], tmp_path: Path) -> None:
    task = make_phase1()
    with torch.no_grad():
        task.inverter.generator.synthesis.b8.conv1.weight.view(-1)[3] = float("nan")
    with pytest.raises(UserError, match=r"weights generator\.synthesis\.b8\.conv1\.weight .* not all finite"):
        rehearse(task, tmp_path, **GOOD)


def test_a_disk_without_room_for_the_checkpoints(
    make_phase1: Callable[..., PhaseTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_phase1()
    needed = 4 * checkpoint_bytes(task)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(
        UserError, match=r"no space is left \(.* MB needed, .* MB free\): .*paths.outputs=PATH"
    ):
        rehearse(task, tmp_path, **GOOD)


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "/proc/x"])
def test_a_cache_that_cannot_be_written_is_named_at_the_start(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"(?s)cannot write .*: choose another folder with paths\.cache=FOLDER"
    ):
        check_cache(tmp_path / place, "digiface")
    check_cache(tmp_path / "new" / "cache", "digiface")


def test_long_names_and_names_that_become_one_are_kept_apart(
    make_phase1: Callable[..., PhaseTask], tmp_path: Path
) -> None:
    names = ["a/b.png", "a__b.png", f"{'x' * 120}/{'y' * 200}.png", "写真/é.png"]
    panels = ImagePanels(tmp_path, 1, 8)
    trainer = SimpleNamespace(is_global_zero=True)
    batch = {"image": torch.zeros(4, 3, 16, 16), "name": names}
    panels.on_test_start(trainer, None)
    panels.on_test_batch_end(trainer, make_phase1(), None, batch)
    with (tmp_path / "test_photos" / "names.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["photo"] for row in rows] == names
    assert len({row["folder"] for row in rows}) == 4
    assert all((tmp_path / "test_photos" / row["folder"] / "image.png").is_file() for row in rows)
