"""Animations that browsers and phones play."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from hyperinverter.contracts import UserError
from hyperinverter.editing.animation import HOLD, save_animation, there_and_back

FRAMES = [Image.new("RGB", (64, 64), (25 * i, 0, 255 - 25 * i)) for i in range(7)]


def test_there_and_back_holds_both_ends() -> None:
    shown = there_and_back(FRAMES)
    assert len(shown) == 2 * HOLD + 5 + 5
    assert shown[0].size == (256, 256)
    colours = [frame.getpixel((0, 0)) for frame in shown]
    assert colours[:HOLD] == [(0, 0, 255)] * HOLD
    assert colours[-1] == (25, 0, 230)


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_frames_and_loop(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"sweep.{ending}"
    save_animation(FRAMES, path)
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0
        durations = []
        for frame in ImageSequence.Iterator(animation):
            frame.load()  # WebP knows a frame's time only once it is decoded
            durations.append(frame.info["duration"])
    assert sum(durations) == 40 * len(there_and_back(FRAMES))  # equal frames may be joined
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_gif_keeps_the_colours_of_all_frames(tmp_path: Path) -> None:
    save_animation(FRAMES, tmp_path / "sweep.gif")
    with Image.open(tmp_path / "sweep.gif") as animation:
        found = [frame.convert("RGB").getpixel((99, 99)) for frame in ImageSequence.Iterator(animation)]
    for wanted in (FRAMES[0], FRAMES[3], FRAMES[6]):
        red, _, blue = wanted.getpixel((0, 0))  # type: ignore[misc]
        assert any(abs(r - red) < 15 and g < 15 and abs(b - blue) < 15 for r, g, b in found)  # type: ignore[misc]


def test_video_without_ffmpeg_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"hyperinverter\[video\]"):
        save_animation(FRAMES, tmp_path / "sweep.mp4")
    assert not list(tmp_path.iterdir())


def test_video_plays_everywhere(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra `video` is not installed")
    save_animation([frame.resize((65, 65)) for frame in FRAMES], tmp_path / "sweep.mp4")
    reader = ffmpeg.read_frames(str(tmp_path / "sweep.mp4"))
    facts = next(reader)
    reader.close()
    assert facts["codec"].startswith("h264")
    assert facts["pix_fmt"].startswith("yuv420p")
    assert facts["size"] == (260, 260)
