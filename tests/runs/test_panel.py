"""The same photos through every job, as one picture."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hyperinverter import runs
from hyperinverter.contracts import UserError


def test_panel_has_the_photos_as_rows_and_the_jobs_as_columns_best_first(sweep: Path) -> None:
    with Image.open(runs.panel(sweep)) as picture:
        width, height = picture.size
        pixel = [picture.getpixel((3 + column * 99 + 48, height - 40)) for column in range(4)]
    assert width == 4 * 99 + 3  # input, phase I, the best setting, the other; the failed one has no picture
    assert [red for red, _, _ in pixel] == [10, 90, 20, 0]
    assert 2 * 99 < height < 2 * 99 + 80


def test_panel_without_pictures_or_common_photos(
    sweep: Path, tmp_path: Path, make_job: Callable[..., Path]
) -> None:
    make_job(tmp_path / "bare", 0, "x", 0.1, status="failed")
    with pytest.raises(UserError, match="no finished job of .* kept test photos"):
        runs.panel(tmp_path / "bare")
    for photo in ("a", "b"):
        (sweep / "0" / "test_photos" / photo).rename(sweep / "0" / "test_photos" / f"{photo}{photo}")
    with pytest.raises(UserError, match="tested on different photos"):
        runs.panel(sweep)
