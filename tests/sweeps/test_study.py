"""Which jobs a study has."""

import pytest

from hyperinverter import config
from hyperinverter.contracts import UserError
from hyperinverter.sweeps.launcher import FreshLauncher
from hyperinverter.sweeps.record import sweep_values
from hyperinverter.sweeps.study import design_points, whole


def test_one_at_a_time_has_the_baseline_first_and_every_other_value_once() -> None:
    points = design_points("one_at_a_time", {"fusion": ["concat", "add", "film"], "loss.id": [0.1, 0.0]})
    assert [(point.settings["fusion"], point.settings["loss.id"]) for point in points] == [
        ("concat", 0.1),
        ("add", 0.1),
        ("film", 0.1),
        ("concat", 0.0),
    ]
    names = [point.name for point in points]
    assert names == ["baseline (fusion=concat loss.id=0.1)", "fusion=add", "fusion=film", "loss.id=0.0"]


def test_grid_has_every_combination_under_its_own_name() -> None:
    points = design_points(
        "grid", {"fusion": ["concat", "add"], "coverage": ["convs", "fine", "all"], "seed_": [1]}
    )
    assert len({point.name for point in points}) == 6
    assert points[1].name == "fusion=concat coverage=fine"


def test_a_design_that_cannot_be() -> None:
    with pytest.raises(UserError, match="one_at_a_time or grid, got 'star'"):
        design_points("star", {"fusion": ["add"]})
    with pytest.raises(UserError, match="factor fusion of this sweep has no values"):
        design_points("grid", {"fusion": []})
    with pytest.raises(UserError, match="jobs must be at least 1"):
        FreshLauncher(jobs=0)


def test_a_value_or_a_seed_given_twice_is_one_job() -> None:
    points = design_points("grid", {"loss.id": [0.1, 0.10, 0.2], "fusion": ["add", "add"]})
    assert [point.settings["loss.id"] for point in points] == [0.1, 0.2]
    assert whole(["1", 2, 1, 2.0]) == [1, 2]


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("fusion=glob(a*)", ["add", "attention"]),
        ("fusion=glob([a*,co*],exclude=add)", ["attention", "concat"]),
        ("seed=range(1,4)", [1, 2, 3]),
    ],
)
def test_the_values_of_a_sweep(typed: str, names: list[object]) -> None:
    (override,) = config.parse_overrides([typed])
    assert sweep_values(override) == names


@pytest.mark.parametrize("typed", ["seed=glob(*)", "fusion=glob(zz*)", "seed=interval(1,2)"])
def test_what_stands_for_no_values(typed: str) -> None:
    (override,) = config.parse_overrides([typed])
    with pytest.raises(UserError, match=r"write (seed|fusion)=a,b,c"):
        sweep_values(override)


@pytest.mark.parametrize("seed", ["1.5", 1.5, "x", True, -1, 1 << 32])
def test_seeds_are_whole_numbers(seed: object) -> None:
    with pytest.raises(UserError, match="is no whole number from 0 to 4294967295"):
        whole([0, seed])
