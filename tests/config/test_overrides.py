"""What people type: short spellings, quotes, and what resume brings back."""

import json
import os
from pathlib import Path

import pytest

from hyperinverter import config
from hyperinverter.config.checks import check_choices
from hyperinverter.config.overrides import PATHS, normalise_overrides, typed_value
from hyperinverter.contracts import UserError
from hyperinverter.system.files import hold


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["phase=2", "+sweep"], ["phase='2'", "+sweep=default"]),
        (["+sweep=fusion", "phase='1'"], ["+sweep=fusion", "phase='1'"]),
        (["phase=1,2"], ["phase='1','2'"]),
        (["data.root=photos"], ["data=folder", "data.root=photos"]),
        (["data=folder", "data.root=photos"], ["data=folder", "data.root=photos"]),
        (["fusion=add,film", "-m", "seed=3"], ["-m", "fusion=add,film", "seed=3"]),
        (["domain=faces", "data.root=photos"], ["domain=faces", "data.root=photos"]),
        (["experiment=paper_faces", "data.root=photos"], ["experiment=paper_faces", "data.root=photos"]),
        (["generator=digiface"], ["generator=digiface"]),
        (
            ["generator=nets/cats.pkl", "data.root=photos"],
            ["domain=own", "generator.path=nets/cats.pkl", "data.root=photos"],
        ),
        (["generator=my cats.pt", "domain=faces"], ["generator.path='my cats.pt'", "domain=faces"]),
    ],
)
def test_short_spellings(typed: list[str], meant: list[str]) -> None:
    assert config.normalise_overrides(typed) == meant


def test_a_flag_comes_first_whatever_is_added() -> None:
    assert config.normalise_overrides(["fusion=add", "--config-dir=x"]) == ["--config-dir=x", "fusion=add"]
    typed = config.normalise_overrides(["phase=2", "-m", "data.root=photos", "fusion=add,film"])
    assert typed == ["-m", "data=folder", "phase='2'", "data.root=photos", "fusion=add,film"]


def test_resume_brings_back_what_was_typed_and_the_folder(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    (run / "run.json").write_text('{"overrides": ["phase=\'2\'", "fusion=add", "resume=older"]}')
    normal = config.normalise_overrides([f"resume={run}", "trainer.log_every=5"])
    assert normal[:2] == ["phase='2'", "fusion=add"]
    assert normal[-2:] == ["hydra.mode=RUN", f"hydra.run.dir='{run}'"]
    assert "resume=older" not in normal
    with pytest.raises(UserError, match="is not a run: .*run.json is missing"):
        config.normalise_overrides([f"resume={tmp_path}"])
    with pytest.raises(UserError, match="leads to nothing: give a run folder"):
        config.normalise_overrides([f"resume={tmp_path}/checkpoints/last.ckpt"])


def test_auto_finds_the_newest_unfinished_run_of_the_same_command(tmp_path: Path) -> None:
    typed = ["phase=2", "fusion=add", f"paths.outputs={tmp_path}", "resume=auto"]
    assert "hydra.mode=RUN" not in config.normalise_overrides(typed)  # nothing there: a new run
    kept = ["phase='2'", "fusion=add", f"paths.outputs={tmp_path}"]
    described = [
        ("old", "2026-01-01", "failed", kept),
        ("new", "2026-01-02", "interrupted", [*reversed(kept), "resume=auto"]),
        ("done", "2026-01-03", "finished", kept),
        ("other", "2026-01-04", "interrupted", [*kept, "seed=1"]),
        ("busy", "2026-01-05", "running", kept),
    ]
    for name, started, status, overrides in described:
        (tmp_path / "runs" / name).mkdir(parents=True)
        card = {"started": started, "status": status, "overrides": overrides}
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(card))
    claim = hold(tmp_path / "runs" / "busy")
    assert claim is not None
    found = config.normalise_overrides(typed)
    assert found[-1] == f"hydra.run.dir={config.quote(str(tmp_path / 'runs' / 'new'))}"
    claim.close()
    free = config.normalise_overrides(typed)[-1]
    assert free == f"hydra.run.dir={config.quote(str(tmp_path / 'runs' / 'busy'))}"


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "a b",
        "it's",
        "a,b",
        "x=1",
        "",
        "null",
        "3",
        3,
        0.5,
        1e-4,
        True,
        None,
        "a\\",
        "{x}",
        "[x]",
        "$x",
    ],
)
def test_quoted_values_come_back_the_same(value: object) -> None:
    override = config.parse_overrides([f"key={config.quote(value)}"])[0]
    assert override.value() == value or str(override.value()) == value


def test_quoted_lists_come_back_the_same() -> None:
    override = config.parse_overrides([f"key={config.quote(['b16.*', 'a b', 2])}"])[0]
    assert [str(item) for item in override.value()] == ["b16.*", "a b", "2"]


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize(
    "path", ["/d/a=b", "/d/it's", "/d/[x]", "/d/写真", "/d/a b", "~/x", "./x", "/d/{y}", "C:/x y"]
)
def test_paths_need_no_quotes(key: str, path: str) -> None:
    if key == "resume":
        path_read = typed_value(["resume=" + path], "resume")
        assert path_read is not None
        return
    plus = "+" if key.startswith("judges") else ""
    (typed,) = [item for item in config.normalise_overrides([f"{plus}{key}={path}"]) if key in item]
    (override,) = config.parse_overrides([typed])
    value = override.value()
    made = key.startswith(("paths.", "hydra."))  # Hydra makes these folders, and knows nothing of "~"
    assert str(getattr(value, "text", value)) == (os.path.expanduser(path) if made else path)


@pytest.mark.parametrize("value", ["写真", "un été", "é.b-c"])
def test_letters_beyond_ascii_need_no_quotes(value: str) -> None:
    assert config.compose([f"name={value}"]).name == value


def test_what_follows_a_flag_is_no_override() -> None:
    check_choices(["--cfg", "job", "phase='2'"], config.conf_dir())


def test_a_job_of_a_sweep_is_known_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "1"
    job.mkdir()
    (job / "run.json").write_text('{"overrides": ["phase=2"]}')
    (tmp_path / "sweep.json").write_text('{"jobs": [{"num": 1, "name": "a", "pruned": true}]}')
    config.normalise_overrides([f"resume={job}"])
    said = capsys.readouterr().err
    assert "is job 1 of a sweep, which the search has stopped because it fell behind" in said
    assert f"resume={tmp_path} goes on with all its jobs" in said


def test_the_newest_sweep_with_jobs_left_goes_on(tmp_path: Path) -> None:
    for name, started, finished in (
        ("a", "2024-01-01", None),
        ("b", "2024-01-02", "2024-01-03"),
        ("c", "2023-01-01", None),
    ):
        folder = tmp_path / "sweeps" / name
        folder.mkdir(parents=True)
        record = {"typed": ["-m", "fusion=add,concat"], "jobs": [], "started": started, "finished": finished}
        (folder / "sweep.json").write_text(json.dumps(record))
    outputs = f"paths.outputs={tmp_path}"
    typed = ["-m", "fusion=add,concat", "resume=auto"]
    assert config.normalise_overrides(["-m", "fusion=add", "resume=auto", outputs]) == [
        "-m",
        "fusion=add",
        outputs,
    ]
    for folder in (tmp_path / "sweeps").iterdir():
        record = json.loads((folder / "sweep.json").read_text())
        (folder / "sweep.json").write_text(json.dumps({**record, "typed": [*record["typed"], outputs]}))
    assert config.normalise_overrides([*typed, outputs])[-1] == f"hydra.sweep.dir={tmp_path}/sweeps/a"


@pytest.mark.parametrize(
    "key", ["resume", "paths.outputs", "paths.cache", "hydra.run.dir", "hydra.sweep.dir"]
)
def test_a_home_of_nobody_is_no_folder(key: str) -> None:
    with pytest.raises(UserError, match="~nobody-of-this-name/x cannot be written out"):
        normalise_overrides([f"{key}=~nobody-of-this-name/x"])


def test_files_of_comparing_networks_are_added_with_a_plus() -> None:
    for key in ("judges.lpips_path", "judges.identity_path"):
        assert config.given(config.compose([f"+{key}=/a b/w.pth"]), key) == "/a b/w.pth"


def test_brackets_without_end_are_a_sentence() -> None:
    with pytest.raises(UserError, match="nested too deeply"):
        config.compose([f"name={'[' * 300}{']' * 300}"])
