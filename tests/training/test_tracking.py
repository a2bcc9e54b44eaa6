"""metrics.csv over photos seen, and a W&B that never stands in the way."""

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hyperinverter.runs import read_metrics
from hyperinverter.training.metrics_file import MetricsFile
from hyperinverter.training.tracking import WandbTracker, has_key, register_sweep

SETTINGS = {"project": "p", "entity": None, "mode": None, "timeout": 1}
RUN = {"name": "fusion=add", "group": "study", "job_type": "phase2", "config": {"loss": {"l2": 1.0}}}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_carry_photos_seen_and_new_names_add_columns(tmp_path: Path) -> None:
    seen = [8]
    log = MetricsFile(tmp_path / "metrics.csv", lambda: seen[0])
    log.log_metrics({"train/loss": 0.5, "epoch": 0}, 0)
    seen[0] = 16
    log.log_metrics({"train/loss": 0.4, "val/l2": 0.1}, 1)
    found = read(tmp_path / "metrics.csv")
    assert [(row["images"], row["train/loss"], row["val/l2"]) for row in found] == [
        ("8", "0.5", ""),
        ("16", "0.4", "0.1"),
    ]


def test_a_resumed_run_goes_on_in_the_same_file_without_the_rows_it_repeats(tmp_path: Path) -> None:
    seen = [8]
    for images in (8, 16, 24):
        seen[0] = images
        MetricsFile(tmp_path / "metrics.csv", lambda: seen[0]).log_metrics({"train/loss": 1.0})
    log = MetricsFile(tmp_path / "metrics.csv", lambda: 24)
    log.forget_after(16)
    log.log_metrics({"train/loss": 2.0, "val/l2": 3.0})
    found = read(tmp_path / "metrics.csv")
    assert [(row["images"], row["train/loss"]) for row in found] == [
        ("8", "1.0"),
        ("16", "1.0"),
        ("24", "2.0"),
    ]
    assert found[-1]["val/l2"] == "3.0"


def test_a_resumed_run_renames_the_columns_of_version_0_1(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("images,epoch,seconds,train/critic,train/critical\n8,0,1.5,0.5,3\n16,0,2.5,0.4,3\n")
    assert read_metrics(tmp_path)[1]["train/discriminator"] == "0.4"
    log = MetricsFile(path, lambda: 16)
    log.keep(1)
    log.log_metrics({"train/discriminator": 0.3})
    assert list(read(path)[0]) == ["images", "epoch", "seconds", "train/discriminator", "train/critical"]
    assert [row["train/discriminator"] for row in read(path)] == ["0.5", "0.3"]


def test_a_key_is_found_in_the_environment_or_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_key()


class FakeRun:
    """The part of a W&B run that is used."""

    def __init__(self, mode: str) -> None:
        self.id, self.offline, self.url = "abc", mode == "offline", "https://example.org/run"
        self.settings = type("Settings", (), {"sync_dir": "/somewhere/offline-run"})()
        self.summary: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []
        self.steps: list[int] = []
        self.ended: int | None = None

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def log(self, row: dict[str, Any], step: int) -> None:
        self.logged.append(row)
        self.steps.append(step)

    def finish(self, exit_code: int) -> None:
        self.ended = exit_code


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A module in the place of wandb; lists the calls of ``init``."""
    calls: list[dict[str, Any]] = []

    class Module:
        Settings = staticmethod(dict)
        run: FakeRun

        @classmethod
        def init(cls, **options: Any) -> FakeRun:
            calls.append(options)
            if options["mode"] == "online" and SETTINGS["project"] == "p":
                raise TimeoutError("no answer in 1 s")
            cls.run = FakeRun(options["mode"])
            return cls.run

    monkeypatch.setitem(sys.modules, "wandb", Module)
    calls.append(Module)  # type: ignore[arg-type]
    return calls


def test_without_a_key_it_is_offline_and_one_line_says_how_to_sync(tmp_path: Path, fake: list[Any]) -> None:
    said: list[str] = []
    tracker = WandbTracker(tmp_path, lambda: 7, SETTINGS, RUN, said.append)
    assert said == ["W&B offline (no key): wandb sync /somewhere/offline-run"]
    module, options = fake
    assert options["mode"] == "offline"
    assert (options["name"], options["group"], options["job_type"]) == ("fusion=add", "study", "phase2")
    assert options["config"] == {"loss": {"l2": 1.0}}
    assert options["dir"] == str(tmp_path)
    tracker.log_metrics({"val/l2": 0.1})
    tracker.close({"test/l2": 0.2}, 1)
    assert module.run.logged == [{"val/l2": 0.1, "images": 7}]
    assert module.run.summary == {"test/l2": 0.2}
    assert module.run.ended == 1


@pytest.mark.parametrize(
    ("variable", "value", "said", "mode"),
    [
        ("WANDB_MODE", "foo", "WANDB_MODE=foo is not used", "offline"),
        ("WANDB_MODE", "", "", "offline"),
        ("WANDB_MODE", "OFFLINE", "", "offline"),
        ("WANDB_DIR", "/proc/x", "WANDB_DIR is not used", "offline"),
        ("WANDB_RUN_ID", "1", "WANDB_RUN_ID is not used", "offline"),
        ("WANDB_DISABLED", "true", "", None),
    ],
)
def test_variables_of_wandb_act_or_are_named(
    variable: str,
    value: str,
    said: str,
    mode: str | None,
    tmp_path: Path,
    fake: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    lines: list[str] = []
    WandbTracker(tmp_path, lambda: 0, SETTINGS, RUN, lines.append)
    assert [options["mode"] for options in fake[1:]] == ([] if mode is None else [mode])
    assert said in lines[0] if said else not any("warning" in line for line in lines)


def test_steps_are_photos_seen_and_never_fall(tmp_path: Path, fake: list[Any]) -> None:
    seen = iter([8, 8, 16, 16, 12, 12])  # the best checkpoint, of 12 photos, is tested last
    tracker = WandbTracker(tmp_path, lambda: next(seen), SETTINGS, RUN, [].append)
    for _ in range(3):
        tracker.log_metrics({"val/l2": 0.1})
    assert fake[0].run.steps == [8, 16, 16]


def test_a_silent_server_costs_the_timeout_and_then_it_is_offline(
    tmp_path: Path, fake: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    said: list[str] = []
    WandbTracker(tmp_path, lambda: 0, SETTINGS, RUN, said.append)
    assert [options["mode"] for options in fake[1:]] == ["online", "offline"]
    assert fake[1]["settings"]["init_timeout"] == 1.0
    assert said == [
        "W&B offline (the server did not answer (no answer in 1 s)): wandb sync /somewhere/offline-run"
    ]


def test_trouble_in_the_middle_is_told_once_and_the_run_goes_on(tmp_path: Path, fake: list[Any]) -> None:
    said: list[str] = []
    tracker = WandbTracker(tmp_path, lambda: 0, SETTINGS, RUN, said.append)

    def broken(row: dict[str, Any], step: int) -> None:
        raise OSError("the service is gone")

    fake[0].run.log = broken
    tracker.log_metrics({"a": 1.0})
    tracker.log_metrics({"a": 2.0})
    tracker.close({}, 0)
    assert said[1:] == ["W&B stopped recording: the service is gone; metrics.csv has every number"]


def test_disabled_says_and_does_nothing(
    tmp_path: Path, fake: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    said: list[str] = []
    WandbTracker(tmp_path, lambda: 0, SETTINGS, RUN, said.append).log_metrics({"a": 1.0})
    assert said == []
    assert len(fake) == 1


def test_a_folder_that_cannot_be_written_turns_it_off(tmp_path: Path, fake: list[Any]) -> None:
    said: list[str] = []

    def refuse(**_: Any) -> None:
        raise PermissionError("not writable")

    fake[0].init = refuse
    WandbTracker(tmp_path, lambda: 0, SETTINGS, RUN, said.append).log_metrics({"a": 1.0})
    assert said == ["W&B is off: not writable; metrics.csv has every number"]


@pytest.mark.slow
def test_the_real_wandb_offline_writes_below_the_run_folder_and_keeps_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    tracker = WandbTracker(tmp_path, lambda: 5, {**SETTINGS, "timeout": 60}, RUN, said.append)
    tracker.log_metrics({"val/l2": 0.25})
    tracker.close({"test/l2": 0.125}, 0)
    assert [line.split(":")[0] for line in said] == ["W&B offline (no key)"]
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    told = (b"fusion=add", b"study", b"phase2", b"val/l2", b"test/l2")
    deadline = time.monotonic() + 60  # W&B's own process may still be writing
    while not all(text in record.read_bytes() for text in told) and time.monotonic() < deadline:
        time.sleep(0.2)
    content = record.read_bytes()
    assert [text for text in told if text not in content] == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_resumed_offline_run_is_the_same_run_and_its_exit_code_is_the_jobs(tmp_path: Path) -> None:
    import wandb_record

    said: list[str] = []
    for seen, code in ((8, 130), (16, 0)):
        tracker = WandbTracker(
            tmp_path, lambda seen=seen: seen, {**SETTINGS, "timeout": 60}, RUN, said.append
        )
        tracker.log_metrics({"val/l2": 1 / seen})
        tracker.close({"test/l2": 0.5} if code == 0 else {}, code)
        time.sleep(1.1)  # W&B names folders by the second
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    first, second = (wandb_record.told(file) for file in files)
    assert first["id"] == second["id"]
    assert (first["name"], first["group"], first["job_type"]) == ("fusion=add", "study", "phase2")
    assert (first["exit_code"], second["exit_code"]) == (130, 0)
    rows = [row for session in (first, second) for row in session["history"]]
    assert [(row["_step"], row["images"], row["val/l2"]) for row in rows] == [(8, 8, 0.125), (16, 16, 0.0625)]
    assert second["summary"]["test/l2"] == 0.5
    assert said[1].endswith(f"offline-run-*-{first['id']}")  # both sessions go up together


def test_the_real_wandb_offline_keeps_the_tables_and_the_picture_of_a_sweep(tmp_path: Path) -> None:
    import wandb_record
    from PIL import Image

    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "summary.csv").write_text("name,l2,l2_std\nfusion=add,0.25,\nbaseline,0.5,0.125\n")
    Image.new("RGB", (4, 4)).save(folder / "panel.png")
    said: list[str] = []
    files = [folder / "summary.csv", folder / "panel.png"]
    register_sweep(folder, {**SETTINGS, "timeout": 60}, files, said.append)
    assert [line.split(":")[0] for line in said] == ["W&B offline (no key)"]
    (record,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60  # W&B's own process may still be writing
    while (told := wandb_record.told(record))["exit_code"] is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (told["name"], told["group"], told["job_type"]) == ("study", "study", "sweep")
    assert told["exit_code"] == 0
    (row,) = told["history"]
    kept = {name: record.parent / "files" / row[f"sweep/{name}.path"] for name in ("summary", "panel")}
    table = json.loads(kept["summary"].read_text())
    assert table["columns"] == ["name", "l2", "l2_std"]
    assert table["data"] == [["fusion=add", 0.25, None], ["baseline", 0.5, 0.125]]
    with Image.open(kept["panel"]) as picture:
        assert picture.size == (4, 4)
