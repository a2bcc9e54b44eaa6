"""What a job takes of the machine."""

from typing import Any

import pytest

from hyperinverter.sweeps.resources import Gpus, processes_of, visible_gpus


def test_gpus_are_handed_out_once_and_taken_back() -> None:
    gpus = Gpus(["0", "2", "5"])
    assert gpus.take(2) == ["0", "2"]
    assert gpus.take(2) is None
    assert gpus.take(1) == ["5"]
    gpus.give_back(["0", "2"])
    assert gpus.take(8) is None  # all there are, once all are free
    gpus.give_back(["5"])
    assert gpus.take(8) == ["0", "2", "5"]


@pytest.mark.parametrize(
    ("trainer", "gpus", "jobs", "expected"),
    [
        ({"accelerator": "cpu", "devices": 1}, 4, 2, (1, 0)),
        ({"accelerator": "cpu", "devices": 2}, 0, 1, (2, 0)),
        ({"accelerator": "gpu", "devices": 1}, 4, 2, (1, 1)),
        ({"accelerator": "gpu", "devices": "auto"}, 8, 2, (4, 4)),
        ({"accelerator": "gpu", "devices": "auto"}, 1, 2, (1, 1)),
    ],
)
def test_what_a_job_takes_of_the_machine(
    trainer: dict[str, Any], gpus: int, jobs: int, expected: tuple[int, int]
) -> None:
    assert processes_of(trainer, gpus, jobs) == expected


def test_gpus_that_were_given_are_the_ones_that_are_handed_out() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 1"}) == ["3", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
