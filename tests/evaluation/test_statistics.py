"""Intervals, paired comparisons and corrections."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from hyperinverter.evaluation.statistics import compare, holm, mean_intervals, sign_flip, two_level


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_interval_of_a_mean_is_the_bootstraps(draw: np.random.Generator) -> None:
    values = draw.gamma(2.0, size=(80, 2))
    first, second = mean_intervals(values)
    expected = stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=10_000, method="percentile", random_state=0
    )
    assert first.value == pytest.approx(values[:, 0].mean())
    assert first.low == pytest.approx(expected.confidence_interval.low, rel=0.01)
    assert first.high == pytest.approx(expected.confidence_interval.high, rel=0.01)
    assert second.low < second.value < second.high


def test_a_photo_without_a_number_is_left_out_of_it_only(draw: np.random.Generator) -> None:
    values = draw.normal(5, size=(30, 2))
    values[:10, 1] = np.nan
    _, second = mean_intervals(values)
    assert second.value == pytest.approx(values[10:, 1].mean())
    assert second.low < second.value < second.high
    assert np.isnan(mean_intervals(np.full((3, 1), np.nan))[0].value)


def test_intervals_hold_what_they_promise(draw: np.random.Generator) -> None:
    inside = 0
    for _ in range(200):
        (interval,) = mean_intervals(draw.normal(1.0, 2.0, size=(60, 1)), resamples=500)
        inside += interval.low <= 1.0 <= interval.high
    assert 0.89 <= inside / 200 <= 0.98


def test_a_comparison_says_how_much_on_how_many_and_how_surely(draw: np.random.Generator) -> None:
    b = draw.gamma(4.0, size=200)
    a = 0.7 * b + draw.normal(0, 0.2, size=200)
    found = compare(a, b, higher_is_better=False)
    assert found.count == 200
    assert found.difference.value == pytest.approx((a - b).mean())
    assert found.ratio.value == pytest.approx(a.mean() / b.mean())
    assert 0.65 < found.ratio.low < found.ratio.value < found.ratio.high < 0.75
    assert found.improved == pytest.approx((a < b).mean())
    assert compare(a, b, higher_is_better=True).improved == pytest.approx((a > b).mean())
    assert found.p == pytest.approx(1 / 10_001)
    assert found.p < 0.001 < compare(b, b, higher_is_better=False).p == 1.0


def test_equal_models_are_told_apart_in_five_percent_of_cases(draw: np.random.Generator) -> None:
    ps = [sign_flip(draw.normal(size=40), 400, seed) for seed in range(300)]
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.085


def test_the_test_equals_all_signs_where_they_can_be_counted() -> None:
    d = np.array([0.3, 0.8, -0.1, 0.5, 0.9, 0.2, 0.4])
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=7)]
    exact = np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert sign_flip(d, 40_000) == pytest.approx(exact, abs=0.004)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    kept = holm([float("nan"), 0.02])
    assert np.isnan(kept[0])
    assert kept[1] == 0.02
    assert holm([]) == []


def test_seeds_widen_the_interval(draw: np.random.Generator) -> None:
    photos = draw.normal(0, 0.1, size=50)
    recipe = [photos + shift for shift in (0.0, 0.5, 1.0)]
    alike = [photos + shift for shift in (0.49, 0.5, 0.51)]
    wide, narrow = two_level(recipe), two_level(alike)
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_seeds_that_are_alike_are_no_further_photos(draw: np.random.Generator) -> None:
    photos = draw.normal(0, 1, size=50)
    once, thrice = two_level([photos]), two_level([photos] * 3)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.05)


def test_only_pairs_can_be_compared() -> None:
    with pytest.raises(ValueError, match="paired"):
        compare(np.zeros(3), np.zeros(4), higher_is_better=False)
