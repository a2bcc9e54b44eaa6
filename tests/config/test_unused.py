"""Settings of Hydra that nothing uses are said; folders and variables without a name."""

import pytest

from hyperinverter import config
from hyperinverter.config.unused import check_flags, unused
from hyperinverter.contracts import UserError


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["-m", "fusion=add,concat", "hydra.sweep.subdir=x"], "hydra.sweep.subdir=x changes nothing"),
        (["+sweep=default", "hydra.run.dir=x"], "hydra.run.dir=x changes nothing in a sweep"),
        (["-m", "+hydra.job.env_set.A=1"], "changes nothing in a sweep"),
        (["hydra/launcher=slurm"], "changes nothing in a single run"),
        (["hydra.sweeper.trials=3"], "changes nothing in a single run"),
        (["hydra.job.name=x"], "changes nothing in a single run"),
    ],
)
def test_settings_without_effect_are_named(typed: list[str], said: str) -> None:
    assert [said in line for line in unused(typed)] == [True]


@pytest.mark.parametrize(
    "flag",
    [
        "--experimental-rerun=x.pickle",
        "--exp=x",
        "--config-name=x",
        "--config-p=x",
        "-cn=x",
        "-p",
        "--config-dir",
    ],
)
def test_flags_that_would_replace_the_configuration_are_refused(flag: str) -> None:
    with pytest.raises(UserError, match=flag.partition("=")[0]):
        check_flags(["phase='2'", flag])


def test_settings_with_effect_are_not() -> None:
    assert unused(["hydra.run.dir=x", "phase=2", "hydra.mode=RUN"]) == []
    assert unused(["-m", "hydra.sweep.dir=x", "hydra/sweeper=optuna", "hydra.launcher.jobs=2"]) == []


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HYPERINVERTER_OUTPUTS", "HYPERINVERTER_CACHE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.setenv(name, " ")
    cfg = config.compose(["logger=wandb"])
    assert (cfg.paths.outputs, cfg.paths.cache) == ("outputs", "~/.cache/hyperinverter")
    assert (cfg.logger.project, cfg.logger.entity) == ("hyperinverter", None)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert config.compose(["logger=wandb"]).logger.project == "mine"
    assert config.compose(["logger=wandb", "logger.project=typed"]).logger.project == "typed"


@pytest.mark.parametrize(
    "typed", ["paths.outputs=", "paths.cache=''", "hydra.run.dir=", "hydra.sweep.dir=null"]
)
def test_a_folder_without_a_name_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match="names no folder: write a path"):
        config.normalise_overrides([typed])


def test_the_home_folder_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/somebody")
    assert config.normalise_overrides(["paths.outputs=~/out"]) == ["paths.outputs=/users/somebody/out"]
    monkeypatch.setenv("HYPERINVERTER_OUTPUTS", "~/runs here")
    assert config.compose([]).paths.outputs == "/users/somebody/runs here"
