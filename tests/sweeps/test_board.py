"""What a person sees of a sweep that runs."""

from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hyperinverter.sweeps.board import Board, live_table


@dataclass
class Shown:
    """A job of which the board knows only this."""

    num: int
    name: str
    folder: Path
    failed: bool = False
    given_up: bool = False

    def cause(self) -> str:
        return "it broke"


def progress(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "progress.json").write_text(text)
    return folder


RUNNING = (
    '{"stage": "train", "images": 1500, "total": 20000, "loss": 0.125, "images_per_second": 40.0,'
    ' "seconds_left": 462.5}'
)


def test_the_table_of_running_jobs_is_aligned_and_survives_half_a_file(tmp_path: Path) -> None:
    first = progress(tmp_path / "0", RUNNING)
    second = progress(tmp_path / "1", '{"stage": "tra')
    console = Console(file=StringIO(), width=100)
    console.print(live_table([(0, "fusion=add", first), (1, f"a\x1b[b] {'c' * 40}", second)]))
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [
        "job  name                              doing        kimg    loss  images/s   left",
        "0    fusion=add                        train     1.50/20  0.1250      40.0  8 min",
        f"1    a\\x1b[b] {'c' * 22}…  starting",
    ]


def test_on_a_terminal_lines_stay_and_the_table_goes(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=100, force_terminal=True, color_system=None)
    running = Shown(0, "fusion=add", progress(tmp_path / "0", RUNNING))
    with Board(2, console) as board:
        board.show([running], 1)
        board.show([running], 1)  # at once again: not drawn
        board.ended(Shown(1, "fusion=film", tmp_path, failed=True))
    drawn = console.file.getvalue()
    assert f"[1/2] job 1 fusion=film: FAILED: it broke ({tmp_path}/log.txt)\n" in drawn
    assert "0 of 2 done, 1 waiting" in drawn
    assert drawn.endswith("\x1b[2K")  # the last thing done is to remove the table
    assert "\x1b[?25h" in drawn  # and the cursor is visible again


def test_in_a_file_there_are_lines_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Board(3) as board:
        board.skipped(1)
        board.show([Shown(0, "fusion=add", tmp_path)], 1)
        board.ended(Shown(0, "fusion=add", tmp_path, failed=True, given_up=True))
    assert capsys.readouterr().err.splitlines() == [
        "1 of 3 jobs have finished before",
        "[2/3] job 0 fusion=add: stopped early",
    ]
