"""What the environment says about a process: its number, who started it, and when the run began."""

from __future__ import annotations

import pytest

from hyperinverter.contracts import UserError
from hyperinverter.system import processes
from hyperinverter.system.processes import (
    Starter,
    is_first,
    moment,
    rank,
    refuse_ranks,
    refuse_stray_ranks,
    starter,
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*processes.RANK_VARIABLES, "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    moment.cache_clear()


@pytest.mark.parametrize(
    ("told", "by", "number"),
    [
        ({}, Starter("nobody", 1), 0),
        ({"LOCAL_RANK": "1"}, Starter("nobody", 1), 1),  # a helper that Lightning started
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3"}, Starter("torchrun", 4), 3),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, Starter("srun", 2), 1),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Starter("srun", 1), 0),
    ],
)
def test_the_place_of_a_process(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], by: Starter, number: int
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (starter(), rank(), is_first()) == (by, number, number == 0)


def test_the_moment_is_this_process_s_alone_or_the_step_s_under_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moment() == processes._STARTED
    moment.cache_clear()
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2", "SLURM_NTASKS": "2"}.items():
        monkeypatch.setenv(name, value)
    assert moment() == "slurm-7-2"
    moment.cache_clear()


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"TORCHELASTIC_RUN_ID": "x"}, "under torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "under torchrun"),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}, "under srun"),
    ],
)
def test_a_sweep_in_every_rank_is_refused(found: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=f"{told}.*trainer=ddp"):
        refuse_ranks(found)


def test_one_task_is_no_rank() -> None:
    refuse_ranks({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "WORLD_SIZE": "1"})


@pytest.mark.parametrize(
    "found",
    [
        {"LOCAL_RANK": "1"},
        {"LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"},
        {"NODE_RANK": "1"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "3"},
    ],
)
def test_a_rank_that_nobody_gave_is_refused(found: dict[str, str]) -> None:
    with pytest.raises(UserError, match="unset"):
        refuse_stray_ranks(found)


@pytest.mark.parametrize(
    "found",
    [
        {
            "LOCAL_RANK": "1",
            "NODE_RANK": "1",
            "WORLD_SIZE": "4",
            "MASTER_PORT": "29500",
        },  # as Lightning starts it
        {"RANK": "1", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"},
        {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0"},
        {"RANK": "0", "LOCAL_RANK": ""},
    ],
)
def test_a_rank_that_somebody_gave_is_not(found: dict[str, str]) -> None:
    refuse_stray_ranks(found)
