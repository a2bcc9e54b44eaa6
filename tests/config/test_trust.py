"""A run folder of someone else: what its records say is data, and nothing in it is executed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hyperinverter import config, runs
from hyperinverter.config.carried import carried
from hyperinverter.contracts import UserError


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder whose code leaves a mark when anything runs it."""
    folder = tmp_path / "hub"
    folder.mkdir()
    code = f"open({str(tmp_path / 'executed')!r}, 'w').close()\ndef m(*a, **k):\n    return 1\n"
    (folder / "hubconf.py").write_text(code)
    return folder


def nothing_ran(place: Path) -> None:
    assert not (place / "executed").exists()


def exploit(hub: Path) -> str:
    return f"{{x:{{_target_:torch.hub.load,repo_or_dir:{hub},source:local,model:m}}}}"


@pytest.mark.parametrize(
    "override", ["+hydra.callbacks={}", "hydra.callbacks={}", "++hydra.callbacks={}", "+hydra/callbacks={}"]
)
def test_a_run_card_cannot_set_up_hydra(
    override: str, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    item = override.replace("{}", exploit(hub))
    (run / "run.json").write_text(json.dumps({"overrides": ["phase='2'", item]}))
    try:
        typed = config.normalise_overrides([f"resume={run}"])
    except UserError:
        typed = []
    assert not any("callbacks" in word for word in typed)
    if typed:
        assert "not taken over" in capsys.readouterr().err
        config.compose([word for word in typed if not word.startswith("hydra.")])
    nothing_ran(tmp_path)


def test_a_sweep_record_cannot_either(hub: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    setup = "hydra.launcher.setup=['touch x']"
    given = [
        "phase=2",
        "-m",
        "fusion=add,concat",
        setup,
        f"+hydra.callbacks={exploit(hub)}",
        "hydra.launcher.jobs=3",
    ]
    (sweep / "sweep.json").write_text(json.dumps({"typed": given}))
    typed = config.normalise_overrides([f"resume={sweep}"])
    assert "hydra.launcher.jobs=3" in typed
    assert not any("callbacks" in word or "setup" in word for word in typed)


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "",
    ],
)
def test_a_configuration_names_no_foreign_code(target: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.create({"fusion": {"_target_": target}}), file)
    with pytest.raises(UserError, match="names the class"):
        config.load(file)
    with pytest.raises(UserError, match="names the class"):
        config.build(OmegaConf.create({"_target_": target, "command": "x"}))
    nothing_ran(tmp_path)


def test_a_name_that_leads_elsewhere_is_no_class_of_ours(tmp_path: Path) -> None:
    for target in (
        "torch.optim.adam.Tensor",
        "torch.optim.adam.torch.hub.load",
        "hyperinverter.networks.generator.checkpoint",
    ):
        with pytest.raises(UserError, match="names the class|no such class"):
            config.build(OmegaConf.create({"_target_": target}))


def test_values_of_a_card_read_nothing_from_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ["name='${oc.env:HOME}'", "phase.kimg=3", "fusion=add"]
    assert carried(written, tmp_path / "run.json", again=()) == ["phase.kimg=3", "fusion=add"]
    assert "oc.env" in capsys.readouterr().err


@pytest.mark.parametrize(
    "written", [3, "phase=2", [1], {"a": 1}, ["phase=2"] * 5000, ["fusion=../../x"], ["((("]]
)
def test_what_is_no_list_of_overrides(written: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json"):
        carried(written, tmp_path / "run.json", again=())


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        "null",
        '"x"',
        "[" * 5000,
        '{"overrides": 5}',
        '{"loaded": []}',
        '{"metrics": {"a": []}}',
        "\xff",
        "{",
    ],
)
def test_an_odd_card_is_passed_over_with_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "odd"
    run.mkdir(parents=True)
    (run / "run.json").write_bytes(content.encode("latin-1"))
    assert runs.latest_finished(tmp_path, domain="digiface", phase=1) is None
    assert runs.latest_finished(tmp_path, domain="digiface", phase=1) is None
    said = capsys.readouterr().err
    assert said.count("passed over") == 1
    assert str(run / "run.json") in said


def test_a_sweep_record_of_another_kind_is_no_sweep(tmp_path: Path) -> None:
    for content in ("[]", '{"jobs": [3]}', '{"jobs": [{"num": "x", "name": 1}]}'):
        (tmp_path / "sweep.json").write_text(content)
        assert runs.read_sweep(tmp_path) == {}


def test_aliases_cannot_stand_for_more_than_fits(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="repeats itself by references"):
        config.load(tmp_path / "config.yaml")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/stdin", "pipe"])
def test_a_record_that_is_a_device_is_not_read(device: str, tmp_path: Path) -> None:
    """A folder may hold links, and reading a device never ends."""
    if device == "pipe":
        os.mkfifo(tmp_path / "pipe")
        device = str(tmp_path / "pipe")
    for name in ("run.json", "sweep.json", "config.yaml"):
        (tmp_path / name).symlink_to(device)
    with pytest.raises(UserError, match="is not a run"):
        config.normalise_overrides([f"resume={tmp_path}"])
    with pytest.raises(UserError, match="there is no"):
        config.load(tmp_path / "config.yaml")
    assert runs.read_sweep(tmp_path) == {}


def test_a_large_card_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"overrides": ["phase=2"], "note": "x" * (5 << 20)}))
    with pytest.raises(UserError, match="is not a run"):
        config.normalise_overrides([f"resume={tmp_path}"])


@pytest.mark.parametrize("value", ["text", "1e999", 10**400, [], {}])
def test_numbers_of_a_card_are_numbers(value: object, tmp_path: Path) -> None:
    """A table of runs takes their mean."""
    job = tmp_path / "0"
    job.mkdir()
    card = {"status": "finished", "name": "a", "metrics": {"test/l2": 0.1}, "seconds": 1.0}
    (job / "run.json").write_text(json.dumps(card | {"metrics": {"test/l2": value}}))
    assert runs.read_card(job) is None
    (job / "run.json").write_text(json.dumps(card | {"metrics": {"test/l2": "nan"}}))
    assert runs.summary(tmp_path).l2.isna().all()


@pytest.mark.parametrize(
    "typed", ["experiment=3", "data=null", "generator=[1]", "~generator=nan", "logger=[1,2]"]
)
def test_an_option_that_is_no_name(typed: str) -> None:
    with pytest.raises(UserError, match="has no option"):
        config.compose([typed])


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("name=${x}", "name refers to something that is not there"),
        ("~loss.id", "loss.id must be a number, got None"),
        ("loss.adv=null", "loss.adv must be a number"),
        ("phase.batch_size=null", "phase.batch_size must be a whole number"),
        ("++judges=3", "judges must be a group of options, got 3"),
        ("++phase.optimizer=null", "phase.optimizer must be a group of options"),
    ],
)
def test_values_that_lead_nowhere(typed: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        config.validate(config.compose([typed]))


def test_the_card_of_a_finished_run_is_a_card(tmp_path: Path) -> None:
    best = {"file": "checkpoints/best.ckpt", "images": 64, "score": 0.5}
    card = {
        "status": "finished",
        "metrics": {"test/l2": "nan"},
        "best": best,
        "seconds": 1.5,
        "complete": True,
    }
    (tmp_path / "run.json").write_text(json.dumps(card))
    assert runs.read_card(tmp_path) == card


@pytest.mark.parametrize("sessions", ["inf", 1.5, -1, 1 << 40])
def test_a_count_of_a_card_is_a_whole_number(sessions: object, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"overrides": [], "sessions": sessions}))
    assert runs.read_card(tmp_path) is None


def test_the_mark_of_an_editor_on_windows_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"overrides": []}', encoding="utf-8-sig")
    assert runs.read_card(tmp_path) == {"overrides": []}
