"""What the name of a number says."""

from __future__ import annotations

import pytest

from hyperinverter.measures import higher_is_better, measure_of, shown


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val/l2", False),
        ("test/phase1/psnr", True),
        ("ms_ssim", True),
        ("id_descriptor", True),
        ("st_lpips_alex", False),
        ("lpips_alex", False),
        ("val/effnet_lite0", False),
        ("train/loss", False),
        ("fid", False),
        ("seconds", False),
        ("seconds_per_image", False),
        ("parameters", None),
        ("beauty", None),
    ],
)
def test_which_way_is_better(name: str, direction: bool | None) -> None:
    assert higher_is_better(name) is direction


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (0.123456, "l2", "0.1235"),
        (23.456, "test/psnr", "23.46"),
        (1_234_567, "parameters", "1.23 M"),
        (12.6, "seconds", "13"),
        (float("nan"), "l2", ""),
        (None, "l2", ""),
    ],
)
def test_numbers_as_a_table_shows_them(value: float | None, name: str, text: str) -> None:
    assert shown(value, name) == text


def test_units() -> None:
    assert (measure_of("psnr").unit, measure_of("seconds").unit, measure_of("l2").unit) == ("dB", "s", "")
