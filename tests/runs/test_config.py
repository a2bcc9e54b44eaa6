"""What people type: short spellings, every option, and the sentence each mistake gets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hyperinverter import config, runcard
from hyperinverter.contracts import UserError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
GROUPS = {
    group: [o for o in config.options_of(CONF, group) if o[0] != "_"] for group in config.groups_of(CONF)
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["phase=2", "+sweep"], ["phase='2'", "+sweep=default"]),
        (["+sweep=fusion", "phase='1'"], ["+sweep=fusion", "phase='1'"]),
        (["phase=1,2"], ["phase='1','2'"]),
        (["data.root=photos"], ["data=folder", "data.root=photos"]),
        (["data=folder", "data.root=photos"], ["data=folder", "data.root=photos"]),
        (["fusion=add,film", "-m", "seed=3"], ["-m", "fusion=add,film", "seed=3"]),
    ],
)
def test_short_spellings(typed: list[str], meant: list[str]) -> None:
    assert config.normalise_overrides(typed) == meant


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


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, options in GROUPS.items() for o in options])
def test_every_option_composes_and_is_valid(group: str, option: str) -> None:
    plus = "+" if group in ("sweep", "experiment") else ""
    needed = {("data", "folder"): ["data.root=x"], ("coverage", "custom"): ["coverage.include=[torgb]"]}
    typed = ["phase=2", f"{plus}{group}={option}", *needed.get((group, option), [])]
    cfg = config.compose(typed[1:] if group == "phase" else typed)
    config.validate(cfg)


def test_the_paper_setting_and_wandb_are_the_default() -> None:
    cfg = config.compose(["phase=2"])
    assert cfg.fusion._target_.endswith("ConcatFusion")
    assert list(cfg.coverage.include) == ["convs_torgb"]
    assert (cfg.loss.l2, cfg.loss.adv) == (1.0, 0.0)  # digiface sets its own lpips and id: other judges
    assert (cfg.loss.r1_gamma, cfg.loss.r1_every) == (10, 16)
    assert cfg.logger.kind == "wandb"
    assert cfg.phase.number == 2


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            "fusion=conct",
            r"fusion has no option 'conct', did you mean 'concat'\? there are: add, attention, concat",
        ),
        ("fuson=add", r"there is no 'fuson'; did you mean fusion\?"),
        ("phase.kmig=3", r"there is no 'phase.kmig'; did you mean phase.kimg\?"),
        ("loss.zzz=1", r"there is no 'loss.zzz'.*loss has: adv, adv_from_kimg, id, l2, lpips"),
        ("kimg=3", r"there is no 'kimg'; did you mean phase.kimg\?"),
        ("phase=3", r"phase has no option '3'; there are: 1, 2"),
        ("+sweep=fuson", r"sweep has no option 'fuson', did you mean 'fusion'\?"),
        ("+swep=fusion", r"there is no 'swep'; did you mean sweep\?"),
        ("+loss.idd=1", r"there is no 'loss.idd'; did you mean loss.id\?"),
        ("+fusion=add", r"has a plus too many: write fusion=add"),
        ("fusion=add,gated", r"gives several values to fusion.*\+sweep"),
        ("foo", r"cannot read the override 'foo': write KEY=VALUE"),
    ],
)
def test_a_typo_gets_the_nearest_name(typed: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as told:
        config.compose([typed])
    assert "\n" not in str(told.value)


def test_arguments_of_a_class_can_be_added() -> None:
    assert config.compose(["+phase.optimizer.weight_decay=0.01"]).phase.optimizer.weight_decay == 0.01


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("phase.kimg=0", "phase.kimg must be above 0, got 0"),
        ("phase.kimg=many", "phase.kimg must be a number, got 'many'"),
        ("phase.kimg=nan", "phase.kimg must be a number"),
        ("phase.batch_size=0", "phase.batch_size must be a whole number of at least 1, got 0"),
        ("phase.batch_size=1.5", "phase.batch_size must be a whole number"),
        (
            "phase.schedule=cosin",
            r"phase.schedule must be one of cosine, constant, got 'cosin', did you mean 'cosine'\?",
        ),
        ("loss.l2=-1", "loss.l2 must be at least 0"),
        ("domain.resolution=48", "power of two"),
        ("phase.monitor=train/l2", "must be a validation number"),
        ("phase.kimg=0.001", "less than one batch"),
        ("data.num_train=2", "do not fill one batch"),
        ("coverage=custom", "coverage.include has no value"),
        ("data=folder", "data.root has no value: add data.root="),
    ],
)
def test_values_that_cannot_work(typed: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config.validate(config.compose(["phase=2", typed]))


def test_values_that_do_not_fit_each_other() -> None:
    with pytest.raises(UserError, match="the critic would join after loss.adv_from_kimg=50"):
        config.validate(config.compose(["phase=2", "loss.adv=0.1", "loss.adv_from_kimg=50"]))
    with pytest.raises(UserError, match="nothing compares image and photo"):
        config.validate(config.compose(["loss.l2=0", "loss.lpips=0", "loss.id=0"]))


def test_build_makes_the_object_and_explains_a_wrong_leaf() -> None:
    from omegaconf import OmegaConf

    assert config.build(OmegaConf.create({"_target_": "datetime.timedelta", "days": 2}), hours=1).days == 2
    with pytest.raises(
        UserError, match="datetime.timedelta cannot be built from the configuration: .*nights"
    ):
        config.build(OmegaConf.create({"_target_": "datetime.timedelta", "nights": 2}))
    with pytest.raises(UserError, match="datetime.timedeltas cannot be built"):
        config.build(OmegaConf.create({"_target_": "datetime.timedeltas"}))


def test_saved_configuration_is_resolved_and_loads(tmp_path: Path) -> None:
    config.save(config.compose(["phase=2"]), tmp_path / "config.yaml")
    assert "${" not in (tmp_path / "config.yaml").read_text()
    assert config.load(tmp_path / "config.yaml").phase.number == 2
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is not a readable configuration"):
        config.load(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="give the folder of a run"):
        config.load(tmp_path / "absent.yaml")


def at_the_door(*typed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *typed]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_the_front_door_answers_a_typo_in_one_line_without_loading_torch() -> None:
    done = at_the_door("phase=2", "fusion=conct")
    assert done.returncode == 1
    assert done.stderr.startswith("error: fusion has no option 'conct', did you mean 'concat'?")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_debug_shows_the_traceback() -> None:
    done = at_the_door("fusion=conct", "debug=true")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "error: fusion has no option" in done.stderr


def test_help_lists_groups_and_keys_without_loading_torch() -> None:
    command = "import runpy, sys; sys.argv = ['train.py', '--help']\n"
    command += "try: runpy.run_path('train.py', run_name='__main__')\nexcept SystemExit: pass\n"
    command += "assert 'torch' not in sys.modules and 'pandas' not in sys.modules, 'slow start'"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "fusion: add, attention, concat" in done.stdout
    assert "python train.py phase=2 +sweep" in done.stdout
    assert "kimg:" in done.stdout


def test_a_flag_comes_first_whatever_is_added() -> None:
    typed = config.normalise_overrides(["phase=2", "-m", "data.root=photos", "fusion=add,film"])
    assert typed == ["-m", "data=folder", "phase='2'", "data.root=photos", "fusion=add,film"]


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
    claim = runcard.hold(tmp_path / "runs" / "busy")
    assert claim is not None
    found = config.normalise_overrides(typed)
    assert found[-1] == f"hydra.run.dir={config.quote(str(tmp_path / 'runs' / 'new'))}"
    claim.close()
    free = config.normalise_overrides(typed)[-1]
    assert free == f"hydra.run.dir={config.quote(str(tmp_path / 'runs' / 'busy'))}"
