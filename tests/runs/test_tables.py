"""A ranking to read."""

from pathlib import Path

from hyperinverter import runs


def test_markdown_joins_mean_and_spread_and_shows_where_phase_two_started(sweep: Path) -> None:
    lines = runs.markdown(runs.summary(sweep)).splitlines()
    assert lines[0] == "| rank | name | seeds | l2 | psnr | parameters | seconds | failed |"
    assert lines[2].startswith("| 1 | fusion=add | 2 | 0.0350 ± 0.0071 | 16.50 ± 0.71 | 0.00 M | 12 |")
    assert lines[-1].startswith("|  | phase I |  | 0.0900 |")
