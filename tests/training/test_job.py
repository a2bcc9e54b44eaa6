"""One job from configuration to run folder, and every way it can end."""

import csv
import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperinverter import config
from hyperinverter.contracts import UserError
from hyperinverter.system.files import hold
from hyperinverter.training import failures
from hyperinverter.training import job as jobs
from hyperinverter.training.panels import ImagePanels
from hyperinverter.training.stopping import Interrupted, StopAfter

pytestmark = pytest.mark.usefixtures("toy")


# the toy's loader starts its epoch again after a resume, and Lightning says so
resumes_roughly = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")


def job(folder: Path, *overrides: str) -> float:
    return jobs.train(config.compose(["phase=2", *overrides]), folder)


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_it_promises(tmp_path: Path, short: list[str]) -> None:
    score = job(tmp_path, *short)
    told = card(tmp_path)
    assert told["status"] == "finished"
    assert told["complete"] is True
    assert told["images_seen"] == 64
    assert told["metrics"]["test/l2"] == score
    assert told["parameters"] == {"trained": 3, "frozen": 0}
    assert told["loaded"]["generator"]["sha256"] == "0" * 64
    assert told["seconds"] > 0
    assert told["peak_memory_mb"] > 0
    assert "torch" in told["versions"]
    assert config.load(tmp_path / "config.yaml").phase.kimg == 0.064
    assert [row["images"] for row in rows(tmp_path) if row["val/l2"]] == ["32", "64"]
    assert rows(tmp_path)[-1]["test/l2"] != ""
    assert sorted(path.name for path in (tmp_path / "panels").iterdir()) == ["000000032.png", "000000064.png"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    saved = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert int(saved["state_dict"]["images_seen"]) == 64
    assert len(list((tmp_path / "test_photos").glob("*/image.png"))) == 8
    assert not list(tmp_path.glob("**/.*.part"))


def test_same_seed_same_numbers_and_other_seed_other_numbers(tmp_path: Path, short: list[str]) -> None:
    first, again = job(tmp_path / "a", *short), job(tmp_path / "b", *short)
    other = job(tmp_path / "c", *short, "seed=1")
    assert first == again
    assert first != other


def test_best_is_the_best_and_is_what_gets_tested(tmp_path: Path, short: list[str]) -> None:
    # a step size this large overshoots: the first validation is the better one
    job(tmp_path, *short, "phase.optimizer.lr=0.13")
    curve = {int(row["images"]): float(row["val/l2"]) for row in rows(tmp_path) if row["val/l2"]}
    best = min(curve, key=curve.__getitem__)
    assert best != max(curve)
    assert card(tmp_path)["best"]["images"] == best
    assert card(tmp_path)["best"]["score"] == pytest.approx(curve[best])
    assert card(tmp_path)["images_seen"] == 64


@resumes_roughly
def test_interrupted_run_goes_on_and_lands_where_the_whole_one_lands(
    tmp_path: Path, short: list[str]
) -> None:
    whole = job(tmp_path / "whole", *short)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 44)
        with pytest.raises(Interrupted):
            job(tmp_path / "cut", *short)
    assert (card(tmp_path / "cut")["status"], card(tmp_path / "cut")["images_seen"]) == ("interrupted", 44)
    saved = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)
    assert int(saved["state_dict"]["images_seen"]) == 44
    resumed = job(tmp_path / "cut", *short, f"resume={tmp_path / 'cut'}")
    told = card(tmp_path / "cut")
    assert (told["status"], told["sessions"], told["images_seen"]) == ("finished", 2, 64)
    seen = [int(row["images"]) for row in rows(tmp_path / "cut")]
    assert seen == sorted(seen)
    assert [row["images"] for row in rows(tmp_path / "cut") if row["val/l2"]] == ["32", "64"]
    assert resumed == pytest.approx(whole, rel=0.2)


def stop_at(monkeypatch: pytest.MonkeyPatch, images: int, number: int = signal.SIGINT) -> None:
    real = StopAfter.on_train_batch_end

    def tap(self: Any, trainer: Any, task: Any, *rest: Any) -> None:
        real(self, trainer, task, *rest)
        if int(task.images_seen) == images:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(StopAfter, "on_train_batch_end", tap)


def test_sigterm_saves_too_and_exit_status_says_interrupted(
    tmp_path: Path, short: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, if the tests themselves run in the background
    stop_at(monkeypatch, 20, signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        jobs.run(config.compose(["phase=2", *short]), tmp_path)
    assert ended.value.code == 130
    assert f"python train.py resume={tmp_path}" in capsys.readouterr().err
    assert card(tmp_path)["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("validation", [1, 2])
def test_stop_during_validation_leaves_it_and_the_resumed_run_repeats_it(
    tmp_path: Path, short: list[str], validation: int
) -> None:
    real, begun = ImagePanels.on_validation_start, []

    def tap(self: Any, trainer: Any, task: Any) -> None:
        real(self, trainer, task)
        begun.append(0)
        if len(begun) == validation:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImagePanels, "on_validation_start", tap)
        with pytest.raises(Interrupted):
            job(tmp_path, *short)
    assert len([row for row in rows(tmp_path) if row.get("val/l2")]) == validation - 1
    assert (
        int(
            torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["images_seen"]
        )
        == 32 * validation
    )
    job(tmp_path, *short, f"resume={tmp_path}")
    assert card(tmp_path)["images_seen"] == 64
    assert [row["images"] for row in rows(tmp_path) if row["val/l2"]] == ["32", "64"]


def test_loss_that_is_not_a_number_stops_with_a_sentence(tmp_path: Path, short: list[str]) -> None:
    with pytest.raises(UserError, match=r"train/loss became nan after 4 photos.*lower phase.optimizer.lr"):
        job(tmp_path, *short, "fusion=multiply")
    assert card(tmp_path)["status"] == "failed"
    assert "became nan" in card(tmp_path)["error"]
    assert "Traceback" in (tmp_path / "error.log").read_text()
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_user_error_is_one_sentence_and_a_fault_of_ours_names_the_log(
    tmp_path: Path, short: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        jobs.run(config.compose(["phase=2", "fusion=film", *short]), tmp_path / "film")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: film is not on the menu: choose another fusion\n"
    with pytest.raises(SystemExit):
        jobs.run(config.compose(["phase=2", "fusion=gated", *short]), tmp_path / "gated")
    said = capsys.readouterr().err
    assert said.startswith("error: RuntimeError: a fault of ours (traceback in ")
    assert said.count("\n") == 1
    assert "a second line" in (tmp_path / "gated" / "error.log").read_text()


def test_full_disk_is_told_and_leaves_the_last_good_checkpoint(
    tmp_path: Path, short: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_lightning import Trainer

    real, calls = Trainer.save_checkpoint, []

    def full(self: Trainer, path: Path, *rest: Any) -> None:
        calls.append(path)
        if len(calls) > 1:
            Path(path).write_bytes(b"half of")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, path, *rest)

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with pytest.raises(UserError, match=r"cannot write .*last.ckpt: no space is left.*paths.outputs"):
        job(tmp_path, *short)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert int(saved["state_dict"]["images_seen"]) == 16
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_unmeasured_monitor_lists_what_is_measured(tmp_path: Path, short: list[str]) -> None:
    with pytest.raises(UserError, match=r"phase.monitor=val/l3 is not measured; there are: val/l2, val/psnr"):
        job(tmp_path, *short, "phase.monitor=val/l3")


def test_a_resumed_run_stays_in_its_folder_also_where_it_cannot_write(tmp_path: Path) -> None:
    cfg = config.compose([])
    (tmp_path / "run").write_text("a file in the place of the folder")
    for run, way_out in ((None, "paths.outputs=PATH"), (str(tmp_path / "run"), "resume the copy")):
        cfg.resume = run
        with pytest.raises(UserError, match=f"cannot write .*: .*{way_out}"):
            jobs.train(cfg, tmp_path / "run")


def test_resume_from_damaged_or_absent_checkpoint(tmp_path: Path, short: list[str]) -> None:
    with pytest.raises(UserError, match="is not a run: .*run.json is missing"):
        job(tmp_path, *short, f"resume={tmp_path}")
    (tmp_path / "run.json").write_text('{"overrides": []}')
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="ended before its first save"):
        job(tmp_path, *short, f"resume={tmp_path}")
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"PK not really")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        job(tmp_path, *short, f"resume={tmp_path}")


@resumes_roughly
def test_a_damaged_last_checkpoint_is_told_and_the_one_before_taken(
    tmp_path: Path, short: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 44)
        with pytest.raises(Interrupted):
            job(tmp_path, *short)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    job(tmp_path, *short, "resume=auto")
    said = capsys.readouterr().err
    assert "last.ckpt cannot be read as a checkpoint" in said
    assert "it is damaged, so the run goes on from previous.ckpt" in said
    assert "previous.ckpt, 0.032 kimg" in said
    assert card(tmp_path)["images_seen"] == 64
    assert not (tmp_path / "checkpoints" / "previous.ckpt").exists()  # nothing is left to go on with


def test_the_same_command_again_has_nothing_to_do_once_it_finished(
    tmp_path: Path, short: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    score = job(tmp_path, *short, "resume=auto")
    before = card(tmp_path)
    assert job(tmp_path, *short, "resume=auto") == score
    assert "has finished before: nothing is left to do" in capsys.readouterr().err
    assert card(tmp_path) == before


def test_two_processes_do_not_share_a_folder(tmp_path: Path, short: list[str]) -> None:
    claim = hold(tmp_path)
    assert claim is not None
    with pytest.raises(UserError, match="another process is working in"):
        job(tmp_path, *short)
    claim.close()
    assert not (tmp_path / "run.json").exists()
    job(tmp_path, *short)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            ["trainer=ddp_cpu", "trainer.devices=3"],
            "a batch of 4 photos cannot be shared evenly by 3 processes",
        ),
        (["trainer.devices=2"], "2 devices need a strategy: use trainer=ddp"),
        (
            ["trainer=ddp_cpu", "trainer.num_nodes=2"],
            "needs a process on every node: start it with srun or torchrun",
        ),
        (["trainer.devices=none"], "must be a number of devices or auto, got 'none'"),
    ],
)
def test_devices_that_cannot_be(tmp_path: Path, short: list[str], typed: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        job(tmp_path, *short, *typed)


def test_processes_from_outside_that_would_each_train_alone(
    tmp_path: Path, short: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started from outside, but this trainer has 1"):
        job(tmp_path, *short)


def test_a_few_steps_have_the_time_left_of_a_few_steps(tmp_path: Path, short: list[str]) -> None:
    job(tmp_path, *short, "trainer.limit_train_batches=2", "trainer.max_epochs=1")
    told = json.loads((tmp_path / "progress.json").read_text())
    assert (told["images"], told["total"], told["seconds_left"]) == (8, 8, 0)


def test_gpu_without_a_gpu(tmp_path: Path, short: list[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="wants a CUDA GPU"):
        job(tmp_path, *short, "trainer=gpu")


def test_a_stray_rank_says_so_itself(
    tmp_path: Path, short: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(SystemExit):
        job(tmp_path, *short)
    assert "this is not the first process, but this trainer has one: unset" in capsys.readouterr().err


def test_numbers_of_a_run_that_died_before_its_first_save_do_not_stay(
    tmp_path: Path, short: list[str]
) -> None:
    job(tmp_path / "whole", *short)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "metrics.csv").write_text("images,epoch,seconds,train/old\n2,0,0.1,7.0\n")
    job(tmp_path / "again", *short, "resume=auto")
    whole, again = rows(tmp_path / "whole"), rows(tmp_path / "again")
    assert [row["images"] for row in again] == [row["images"] for row in whole]
    assert "train/old" not in again[0]


def test_a_finished_run_is_not_replaced_unasked(tmp_path: Path, short: list[str]) -> None:
    score = job(tmp_path, *short)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"holds a finished run, .* with resume="):
        job(tmp_path, *short, "seed=3")
    assert (tmp_path / "run.json").read_bytes() == before
    assert job(tmp_path, *short, "resume=auto") == score


@pytest.mark.parametrize("value", [1e11, float("nan"), float("inf")])
def test_results_that_cannot_be_right_are_a_run_that_failed(
    value: float, tmp_path: Path, short: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = failures.check_learned
    monkeypatch.setattr(
        failures, "check_learned", lambda numbers, by: real({**numbers, "test/l2": value}, by)
    )
    with pytest.raises(UserError, match=r"the run failed to learn: test/l2 is .* lower phase.optimizer.lr"):
        job(tmp_path, *short)
    assert card(tmp_path)["status"] == "failed"
    assert "failed to learn" in card(tmp_path)["error"]


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("/nowhere/of/that/name", "no folder at /nowhere/of/that/name; give the folder of your photos"),
        ("", "data.root= names no folder"),
        ("null", "data.root=null names no folder"),
        ("[a,b]", r"data.root must be a path, got \['a', 'b'\]"),
        ("~nobody-of-this-name/x", "data.root=~nobody-of-this-name/x: .* cannot be written out"),
        (__file__, "is a file; give the folder that holds the photos"),
    ],
)
def test_photos_that_are_not_there_are_said_before_a_network_is_built(
    root: str, said: str, tmp_path: Path, short: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.Job, "assemble", lambda self: pytest.fail("networks were built"))
    with pytest.raises(UserError, match=said):
        job(tmp_path, *short, "data=folder", f"data.root={root}")
