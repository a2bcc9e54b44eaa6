"""Files around crops: distinct names, matrices that are kept, landmarks, and the two commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperinverter.alignment.records import Record, read_landmarks
from hyperinverter.commands import main
from hyperinverter.contracts import UserError

POINTS = {  # of a face of 100 px, in pixels of the photo
    number: [[60.0, 60.0], [100.0, 60.0], [80.0, 80.0], [64.0, 100.0], [96.0, 100.0]] for number in range(2)
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos of the same name; commands need no detector with --framing centre."""
    monkeypatch.chdir(tmp_path)
    for place, shade in (("a", 40), ("b", 200)):
        (tmp_path / place).mkdir()
        Image.new("RGB", (160, 120), (shade, 90, 90)).save(tmp_path / place / "me.png")
    return tmp_path


def align(*typed: str) -> int:
    return main(["align", *typed, "--framing", "centre", "--size", "64", "--out", "out"])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def shade(path: Path) -> int:
    return int(pixels(path)[30, 30, 0])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_photos_of_one_name_get_distinct_crops_and_a_line_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert align("a", "b") == 0
    assert [shade(folder / "out" / name) for name in ("me.png", "me-2.png")] == [40, 200]
    assert "its crop is called me-2.png" in capsys.readouterr().err
    assert [row["crop"] for row in rows(folder)] == ["me.png", "me-2.png"]


def test_a_second_call_keeps_names_and_matrices_of_the_first(folder: Path) -> None:
    assert align("a") == 0
    assert align("b") == 0
    assert align("a") == 0
    assert sorted(Record(folder / "out").crops) == ["me-2.png", "me.png"]
    assert shade(folder / "out" / "me.png") == 40


def test_a_file_that_is_no_crop_is_never_replaced(folder: Path) -> None:
    before = (folder / "a" / "me.png").read_bytes()
    assert main(["align", "a", "--framing", "centre", "--size", "64", "--out", "a"]) == 0
    assert (folder / "a" / "me.png").read_bytes() == before
    assert (folder / "a" / "me-2.png").is_file()


def test_a_missing_and_an_empty_file_are_reported_and_the_others_go_on(folder: Path) -> None:
    (folder / "a" / "empty.jpg").touch()
    assert align("a", "absent.jpg") == 1
    assert [row["status"] for row in rows(folder)] == ["unreadable", "aligned", "unreadable"]
    assert all(row["message"] for row in rows(folder) if row["status"] != "aligned")


def test_landmarks_from_a_file_replace_the_search(folder: Path) -> None:
    (folder / "points.json").write_text(json.dumps({"me.png": POINTS[0]}))
    typed = ["align", "a", "--landmarks", "points.json", "--size", "64", "--domain", "faces", "--out", "out"]
    assert main(typed) == 0
    assert (rows(folder)[0]["points"], rows(folder)[0]["status"]) == ("5", "aligned")


def test_landmarks_in_both_layouts(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    path.write_text(json.dumps({"some/me.jpg": POINTS[0], "us.jpg": [POINTS[0], POINTS[1]]}))
    faces = read_landmarks(path)
    assert {name: [points.shape for points in each] for name, each in faces.items()} == {
        "me.jpg": [(5, 2)],
        "us.jpg": [(5, 2), (5, 2)],
    }
    numbers = ",".join(str(value) for point in POINTS[0] for value in point)
    table = tmp_path / "points.csv"
    table.write_text(f"photo,x0,y0\nme.jpg,{numbers}\nme.jpg,{numbers}\n")
    assert np.array_equal(read_landmarks(table)["me.jpg"][1], POINTS[0])


@pytest.mark.parametrize(
    "text", ["[", "[1, 2]", '{"a.jpg": [[1, 2], [3, 4]]}', '{"a.jpg": [1, 2]}', '{"a": "b"}']
)
def test_landmarks_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    path.write_text(text)
    with pytest.raises(UserError, match="points.json cannot be used"):
        read_landmarks(path)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 9, "crops": {}}', '{"version": 1, "crops": {"a.png": {}}}']
)
def test_a_damaged_record_is_refused_and_kept(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "alignment.json").write_text(text)
    assert align("a") == 1
    assert "cannot be used" in capsys.readouterr().err
    assert (folder / "out" / "alignment.json").read_text() == text


# paste ---------------------------------------------------------------------------------------------------


@pytest.fixture
def edited(folder: Path) -> Path:
    """One crop and an edit of it."""
    assert align("a") == 0
    Image.new("RGB", (64, 64), (250, 90, 90)).save(folder / "out" / "me.edit.png")
    return folder / "out" / "me.edit.png"


def paste(*typed: str) -> int:
    return main(["paste", *typed, "--alignment", "out", "--out", "pasted"])


def test_an_edit_goes_back_into_its_photo(folder: Path, edited: Path) -> None:
    assert paste(str(edited)) == 0
    found = pixels(folder / "pasted" / "me.pasted.png")
    assert found.shape == (120, 160, 3)
    assert (found[60, 80, 0], found[60, 10, 0]) == (250, 40)


def test_the_difference_finds_its_inversion(
    folder: Path, edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paste(str(edited), "--mode", "difference") == 1
    assert "needs the inversion of me.png" in capsys.readouterr().err
    Image.new("RGB", (64, 64), (150, 90, 90)).save(folder / "out" / "me.inverted.png")
    assert paste(str(edited), "--mode", "difference") == 0
    assert pixels(folder / "pasted" / "me.pasted.png")[60, 80, 0] == 40 + 100


def test_a_photo_that_moved_or_changed(
    folder: Path, edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = (folder / "a" / "me.png").rename(folder / "moved.png")
    assert paste(str(edited)) == 1
    assert "is gone; say where it is now with --photo" in capsys.readouterr().err
    assert paste(str(edited), "--photo", str(moved)) == 0
    assert paste(str(edited), "--photo", "b/me.png") == 1
    assert "is not the photo that was aligned" in capsys.readouterr().err


def test_an_edit_of_an_unknown_name(folder: Path, edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = edited.rename(folder / "other.png")
    assert paste(str(other)) == 1
    assert "belongs to no crop" in capsys.readouterr().err
    assert paste(str(other), "--crop", "me.png") == 0
    assert paste(str(other), "--crop", "you.png") == 1


def test_paste_without_crops(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paste", "a/me.png", "--alignment", "b", "--out", "pasted"]) == 1
    assert "align photos first" in capsys.readouterr().err
