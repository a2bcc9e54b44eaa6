import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from hyperinverter.contracts import UserError
from hyperinverter.data.folders import default_record, split_folder
from hyperinverter.data.listing import check_headers, list_photos


def sides(split: dict[str, list[str]]) -> dict[str, str]:
    return {name: side for side, names in split.items() for name in names}


def copies(photos: Path, names: list[str]) -> None:
    for name in names:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(photos.rglob("01.png")), photos / name)


def test_photos_are_found_at_any_depth_and_through_links(photos: Path, tmp_path: Path) -> None:
    copies(photos, ["deep/er/x.JPG", "y.webp"])
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "y.webp", other / "z.png")
    (photos / "linked").symlink_to(other)
    (photos / "up").symlink_to(photos)  # a loop
    (photos / "notes.txt").write_text("no photo")
    listing = list_photos(photos)
    assert len(listing.names) == 33
    assert {"deep/er/x.JPG", "y.webp", "linked/z.png", "b/00.png"} <= set(listing.names)
    assert listing.names == sorted(listing.names)
    assert listing.skipped == {"not photos": ["notes.txt"]}


def test_photos_are_known_by_content_where_the_ending_says_nothing(photos: Path) -> None:
    for name in ("photo", "photo.bak", "photo.data"):
        shutil.copy(next(photos.rglob("01.png")), photos / name)
    Image.new("RGB", (20, 20)).save(photos / "x.ppm")
    Image.new("RGB", (20, 20)).save(photos / "x.tga")
    Image.new("RGB", (20, 20)).save(photos / "x.jpe", format="JPEG")
    (photos / "avif").write_bytes(b"\0\0\0\x20ftypavif" + bytes(40))
    (photos / "heic").write_bytes(b"\0\0\0\x20ftypheic" + bytes(40))
    (photos / "page.html").write_text("<html>")
    listing = list_photos(photos)
    assert {"photo", "photo.bak", "photo.data", "x.ppm", "x.tga", "x.jpe", "avif"} <= set(listing.names)
    assert "heic" in listing.skipped["not photos"]
    assert "page.html" in listing.skipped["not photos"]


@pytest.mark.parametrize(
    "folders",
    [("Train", "VAL", "Test"), ("training", "validation", "testing"), ("train2017", "val2017", "test2017")],
)
def test_folders_of_splits_are_recognised_as_people_write_them(
    folders: tuple[str, str, str], photos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "own"
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for index in range(3):
            shutil.copy(next(photos.rglob("01.png")), root / folder / f"{index}.png")
    split = split_folder(root, tmp_path / "own.json")
    for side, folder in zip(("train", "val", "test"), folders, strict=True):
        assert {name.split("/")[0] for name in split[side]} == {folder}


def test_a_split_without_a_side_names_it(photos: Path, tmp_path: Path) -> None:
    record = tmp_path / "own.json"
    text = json.dumps({"train": ["a/00.png"], "test": []})
    record.write_text(text)
    with pytest.raises(UserError, match="has no list of photos for val"):
        split_folder(photos, record)
    assert record.read_text() == text


def test_what_only_looks_like_a_photo_is_reported(photos: Path) -> None:
    copies(photos, ["a/._01.png", ".hidden/x.png", "__MACOSX/x.png", "a/x.heic"])
    (photos / "a" / "empty.png").touch()
    (photos / "a" / "gone.png").symlink_to("nowhere.png")
    listing = list_photos(photos)
    assert len(listing.names) == 30
    assert listing.skipped == {
        "hidden": ["a/._01.png"],
        "empty": ["a/empty.png"],
        "broken link": ["a/gone.png"],
        "in another format": ["a/x.heic"],
    }
    assert "1 empty (a/empty.png), 1 hidden (a/._01.png)" in listing.report(photos)


def test_split_is_complete_disjoint_and_repeatable(photos: Path, tmp_path: Path) -> None:
    split = split_folder(photos, tmp_path / "one.json", 0.2, 0.2)
    assert sorted(sides(split)) == list_photos(photos).names
    assert sum(map(len, split.values())) == 30
    assert all(split.values())
    assert split_folder(photos, tmp_path / "two.json", 0.2, 0.2) == split
    assert split_folder(photos, tmp_path / "one.json", 0.2, 0.2) == split
    moved = photos.rename(tmp_path / "elsewhere")
    assert split_folder(moved, tmp_path / "three.json", 0.2, 0.2) == split


def test_no_photo_ever_changes_side(photos: Path, tmp_path: Path) -> None:
    record = tmp_path / "split.json"
    before = sides(split_folder(photos, record, 0.2, 0.2))
    copies(photos, [f"new/{i:03d}.png" for i in range(100)])
    after = sides(split_folder(photos, record, 0.5, 0.4))  # other fractions count for new photos only
    assert {name: after[name] for name in before} == before
    new = [side for name, side in after.items() if name not in before]
    assert 30 < new.count("val") < 70
    assert 20 < new.count("test") < 60
    shutil.rmtree(photos / "new")
    assert sides(split_folder(photos, record)) == before
    copies(photos, [f"new/{i:03d}.png" for i in range(100)])
    assert sides(split_folder(photos, record, 0.2, 0.2)) == after  # they come back to where they were


def test_photos_that_are_gone_are_reported(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "split.json"
    split_folder(photos, record)
    (photos / "a" / "03.png").unlink()
    with caplog.at_level(logging.WARNING):
        split_folder(photos, record, report=False)
        assert not caplog.records
        split = split_folder(photos, record)
    assert "1 photos listed in" in caplog.text
    assert "a/03.png" not in sides(split)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_even_few_photos_reach_every_side(photos: Path, tmp_path: Path, count: int) -> None:
    for name in list_photos(photos).names[count:]:
        (photos / name).unlink()
    for fractions in ((0.05, 0.1), (0.45, 0.45), (0.0, 0.0), (0.0, 0.99)):
        record = tmp_path / f"{fractions}.json"
        split = split_folder(photos, record, *fractions)
        assert all(split.values())
        assert sum(map(len, split.values())) == count
        assert split_folder(photos, record, *fractions) == split


def test_subfolders_named_for_their_side(photos: Path, tmp_path: Path) -> None:
    (photos / "a").rename(photos / "train")
    (photos / "b").rename(photos / "valid")
    copies(photos, ["test/x.png", "loose.png"])
    split = split_folder(photos, tmp_path / "split.json")
    assert all(name.startswith("train/") for name in split["train"])
    assert all(name.startswith("valid/") for name in split["val"])
    assert split["test"] == ["test/x.png"]
    assert [len(split[side]) for side in ("train", "val", "test")] == [15, 15, 1]


def test_changed_fractions_are_reported(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "split.json"
    before = split_folder(photos, record, 0.2, 0.2)
    split_folder(photos, record, 0.2, 0.2)
    assert "decides the split" not in caplog.text
    assert split_folder(photos, record, 0.4, 0.2) == before
    assert "split.json decides the split" in caplog.text
    assert "data.split=FILE" in caplog.text


def own_file(photos: Path, path: Path, prefix: str) -> dict[str, list[str]]:
    names = list_photos(photos).names
    sides = {"train": names[:20], "val": names[20:24], "test": names[24:29]}
    path.write_text(json.dumps({side: [prefix + name for name in found] for side, found in sides.items()}))
    return sides


@pytest.mark.parametrize("kind", ["relative", "dotted", "absolute"])
def test_own_split_file_is_understood_and_never_written(
    photos: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "own.json"
    wanted = own_file(photos, record, {"relative": "", "dotted": "./", "absolute": f"{photos}/"}[kind])
    content = record.read_bytes()
    assert split_folder(photos, record) == wanted
    assert "0 of its photos are gone, 1 photos below" in caplog.text
    assert record.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["own.json"]


def test_own_split_file_of_other_photos_names_the_side(photos: Path, tmp_path: Path) -> None:
    record = tmp_path / "own.json"
    record.write_text(json.dumps({"train": ["b/00.png"], "val": ["/elsewhere/x.png"], "test": ["b/02.png"]}))
    with pytest.raises(UserError, match=r"none of the 1 val photos of .*own\.json lies below"):
        split_folder(photos, record)


def test_missing_test_folder_is_cut_out_of_train(photos: Path, tmp_path: Path) -> None:
    (photos / "a").rename(photos / "train")
    (photos / "b").rename(photos / "val")
    split = split_folder(photos, tmp_path / "split.json", 0.5, 0.3)
    assert len(split["val"]) == 15
    assert split["test"]
    assert all(name.startswith("train/") for name in split["test"] + split["train"])


def test_train_alone_is_a_folder_like_any_other(photos: Path, tmp_path: Path) -> None:
    (photos / "a").rename(photos / "train")
    split = split_folder(photos, tmp_path / "split.json")
    assert sum(map(len, split.values())) == 30


def test_missing_empty_and_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at .*nowhere; give the folder"):
        list_photos(tmp_path / "nowhere")
    (tmp_path / "x.png").write_text("")
    with pytest.raises(UserError, match="is a file"):
        list_photos(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"0 photos below .*empty, at least 3 needed"):
        split_folder(tmp_path / "empty", tmp_path / "split.json")
    assert not (tmp_path / "split.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"train": ["a"], "val": ["a"], "test": []}', '{"train": 1}'])
def test_damaged_record_is_not_replaced(photos: Path, tmp_path: Path, content: str) -> None:
    record = tmp_path / "split.json"
    record.write_text(content)
    with pytest.raises(UserError, match=r"recorded split .*split\.json cannot be used"):
        split_folder(photos, record)
    assert record.read_text() == content


def test_record_is_readable(photos: Path, tmp_path: Path) -> None:
    record = tmp_path / "new" / "split.json"
    split = split_folder(photos, record)
    stored = json.loads(record.read_text())
    assert stored["root"] == str(photos)
    assert {side: sorted(names) for side, names in split.items()} == {side: stored[side] for side in split}


def test_each_folder_has_its_own_record(tmp_path: Path) -> None:
    one, two = default_record(tmp_path, "one"), default_record(tmp_path, "two")
    assert one != two
    assert one == default_record(tmp_path, tmp_path.cwd() / "one")


def test_headers_are_read_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "a" / "05.png").write_text("no image")
    names, memo = list_photos(photos).names, tmp_path / "memo.json"
    bad = check_headers(photos, names, memo)
    assert list(bad) == ["a/05.png"]
    monkeypatch.setattr("hyperinverter.data.listing.unreadable_header", lambda path: f"read {path.name}")
    assert check_headers(photos, names, memo) == bad
    shutil.copy(photos / "b" / "00.png", photos / "a" / "05.png")
    assert check_headers(photos, names, memo) == {"a/05.png": "read 05.png"}
    memo.write_text("damaged")
    assert len(check_headers(photos, names, memo)) == 30


def test_folders_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for an ordinary user; the system lets root read everything."""
    for folder in ("open", "closed"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / folder / "x.png")
    scandir = os.scandir

    def refusing(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = list_photos(tmp_path)
    assert listing.names == ["open/x.png"]
    assert "1 in folders that may not be read (closed)" in listing.report(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="may not be read; change its permissions"):
        list_photos(tmp_path / "closed")


def test_names_in_reports_do_not_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[31mred.heic").write_bytes(b"x")
    assert "(\\x1b[31mred.heic)" in list_photos(tmp_path).report(tmp_path)
    with pytest.raises(UserError, match="cannot be written out"):
        split_folder(tmp_path, "~nobody-of-this-name/split.json")
