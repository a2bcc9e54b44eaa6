import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperinverter.contracts import UserError
from hyperinverter.data import decoded
from hyperinverter.data.decoded import Decoded, decode_photos
from hyperinverter.data.listing import list_photos
from hyperinverter.data.transforms import read_pixels


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the photos that were decoded."""
    seen: list[str] = []

    def counting(path: Path, resolution: int, resize: str, *rest: Any) -> np.ndarray:
        seen.append(path.name)
        return read_pixels(path, resolution, resize, *rest)

    monkeypatch.setattr(decoded, "read_pixels", counting)
    return seen


def decode(photos: Path, folder: Path, names: list[str] | None = None, resolution: int = 16) -> Decoded:
    return decode_photos(photos, names or list_photos(photos).names, folder, "train", resolution)


def test_decoded_photos_are_the_photos(photos: Path, tmp_path: Path) -> None:
    found = decode(photos, tmp_path / "d")
    assert found.names == list_photos(photos).names
    for name, pixels in zip(found.names, found.pixels, strict=True):
        np.testing.assert_array_equal(pixels, read_pixels(photos / name, 16))


def test_decoded_once(photos: Path, tmp_path: Path, decodings: list[str]) -> None:
    first = decode(photos, tmp_path / "d")
    assert len(decodings) == 30
    again = decode(photos, tmp_path / "d")
    fewer = decode(photos, tmp_path / "d", first.names[:7])
    assert len(decodings) == 30
    np.testing.assert_array_equal(again.pixels, first.pixels)
    np.testing.assert_array_equal(fewer.pixels, first.pixels[:7])
    decode(photos, tmp_path / "d", resolution=20)
    assert len(decodings) == 60


def test_changed_photos_and_lists_are_decoded_anew(
    photos: Path, tmp_path: Path, decodings: list[str]
) -> None:
    names = list_photos(photos).names
    decode(photos, tmp_path / "d", names[:10])
    decode(photos, tmp_path / "d", names)
    assert len(decodings) == 40
    decode(photos, tmp_path / "d", names[::-1])
    assert len(decodings) == 70
    (photos / names[3]).write_bytes((photos / names[5]).read_bytes())
    found = decode(photos, tmp_path / "d", names[::-1])
    assert len(decodings) == 100
    np.testing.assert_array_equal(found.pixels[-1 - 3], found.pixels[-1 - 5])


@pytest.mark.parametrize("damage", ["cut", "flip", "note", "no note", "old note"])
def test_damage_is_mended(photos: Path, tmp_path: Path, damage: str, decodings: list[str]) -> None:
    folder = tmp_path / "d"
    sound = np.array(decode(photos, folder).pixels)
    path = next(folder.glob("*.u8"))
    note = path.with_suffix(".json")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "flip":
        content[1000] ^= 1
        path.write_bytes(content)
    elif damage == "note":
        note.write_text(note.read_text()[:50])
    elif damage == "no note":
        note.unlink()
    else:  # a crash between new pixels and their note
        path.write_bytes(bytes(len(content)))
    np.testing.assert_array_equal(decode(photos, folder).pixels, sound)
    assert len(decodings) == 60


def test_unreadable_photos_are_named_and_left_out(photos: Path, tmp_path: Path, decodings: list[str]) -> None:
    names = list_photos(photos).names
    good = (photos / names[4]).read_bytes()
    (photos / names[4]).write_bytes(good[: len(good) // 2])
    for _ in range(2):
        found = decode(photos, tmp_path / "d")
        assert list(found.unreadable) == [names[4]]
        assert "cannot be read as an image" in found.unreadable[names[4]]
        assert found.names == names[:4] + names[5:]
        np.testing.assert_array_equal(found.pixels[4], read_pixels(photos / names[5], 16))
    assert len(decodings) == 30
    fewer = decode(photos, tmp_path / "d", names[:6])
    assert fewer.names == names[:4] + names[5:6]
    (photos / names[4]).write_bytes(good)
    assert decode(photos, tmp_path / "d").unreadable == {}


def test_nothing_readable(photos: Path, tmp_path: Path) -> None:
    for name in list_photos(photos).names:
        (photos / name).write_text("no image")
    found = decode(photos, tmp_path / "d")
    assert found.names == []
    assert found.pixels.shape == (0, 16, 16, 3)
    assert len(found.unreadable) == 30


def test_full_disk_leaves_nothing_behind(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(decoded, "read_pixels", full)
        with pytest.raises(UserError, match=r"no space is left .*paths\.cache="):
            decode(photos, tmp_path / "d")
    assert [p.name for p in (tmp_path / "d").iterdir()] == [".lock"]
    assert len(decode(photos, tmp_path / "d").names) == 30
