"""A ranking to read."""

import json
from pathlib import Path

import pytest

from hyperinverter import runs


def test_markdown_joins_mean_and_spread_and_shows_where_phase_two_started(sweep: Path) -> None:
    lines = runs.markdown(runs.summary(sweep)).splitlines()
    assert lines[0] == "| rank | name | seeds | l2 | psnr | parameters | seconds | failed |"
    assert lines[2].startswith("| 1 | fusion=add | 2 | 0.0350 ± 0.0071 | 16.50 ± 0.71 | 0.00 M | 12 |")
    assert lines[-1].startswith("|  | phase I |  | 0.0900 |")


def test_names_are_text_wherever_they_are_shown(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {0: "coverage=[b16],[/x]", 1: "=1+1", 2: "<b>a|b</b>\x1b[31m", 3: "[/]", 4: "@x"}
    record = json.loads((sweep / "sweep.json").read_text())
    for job in record["jobs"]:
        job["name"] = names[job["num"]]
    (sweep / "sweep.json").write_text(json.dumps(record))
    runs.show(sweep)
    shown = capsys.readouterr().out
    assert "[/x]" in shown
    assert "\x1b[31m" not in shown
    text = runs.markdown(runs.summary(sweep))
    assert "&lt;b&gt;a\\|b&lt;/b&gt;\\x1b[31m" in text
    runs.write_comparison(sweep)
    assert "'=1+1" in (sweep / "table.csv").read_text()
