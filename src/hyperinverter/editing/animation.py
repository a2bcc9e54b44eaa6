"""Frames -> GIF, animated WebP, or MP4."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hyperinverter.contracts import UserError
from hyperinverter.system.files import replacing

RATE = 25  # frames a second; browsers slow GIFs with shorter delays than 20 ms
HOLD = 5  # frames that both ends stand still
SIDE = 256  # pixels at least, in whole multiples of the picture's own


def there_and_back(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Hold the first frame, go to the last, hold it, and come back; enlarged to be seen, sides even for video."""
    factor = max(1, -(-SIDE // frames[0].width))
    side = factor * frames[0].width
    side += side % 2
    large = [frame.convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for frame in frames]
    return [large[0]] * HOLD + large[1:-1] + [large[-1]] * HOLD + large[-2:0:-1]


def save_animation(frames: Sequence[Image.Image], path: Path) -> None:
    """Write ``.gif``, ``.webp`` or ``.mp4`` by the path's ending, complete or not at all.

    MP4 is H.264 with 4:2:0 colours, which phones and browsers play; it needs the extra ``video``.

    Raises:
        UserError: If MP4 is asked for without imageio-ffmpeg, or the video cannot be made.
    """
    shown = there_and_back(frames)
    with replacing(path) as part:
        if path.suffix == ".mp4":
            _save_video(shown, part)
        elif path.suffix == ".webp":
            shown[0].save(
                part,
                "WEBP",
                save_all=True,
                append_images=shown[1:],
                duration=1000 // RATE,
                loop=0,
                quality=90,
            )
        else:
            palette = _together([*frames[:: max(1, len(frames) // 8)], frames[-1]]).quantize(
                256
            )  # one for all, or colours flicker
            flat = [frame.quantize(palette=palette) for frame in shown]
            flat[0].save(part, "GIF", save_all=True, append_images=flat[1:], duration=1000 // RATE, loop=0)


def _together(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames in one picture, for colours that fit all of them."""
    width, height = frames[0].size
    drawn = Image.new("RGB", (width * len(frames), height))
    for index, frame in enumerate(frames):
        drawn.paste(frame, (width * index, 0))
    return drawn


def _save_video(frames: Sequence[Image.Image], path: Path) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            'MP4 needs ffmpeg: pip install "hyperinverter[video]", or choose gif or webp'
        ) from error
    width, height = frames[0].size
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(RATE), "-i", "-"),
        *(
            "-c:v",
            "libx264",
            "-pix_fmt",
            "yuv420p",
            "-crf",
            "18",
            "-movflags",
            "+faststart",
            "-f",
            "mp4",
            str(path),
        ),
    ]
    done = subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), capture_output=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UserError(f"ffmpeg could not write the video ({lines[-1][:200]}): choose gif or webp")
