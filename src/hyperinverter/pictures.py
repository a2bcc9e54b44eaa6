"""Sheets of small pictures under titles, and pictures that replace each other completely on disk."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from hyperinverter.contracts import UserError
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import replacing

if TYPE_CHECKING:
    from torch import Tensor  # takes seconds to import, and is not needed to draw

_LINE, _LETTER = 11, 6  # pixels of a line of titles, and of a letter in it


def read_picture(path: Path) -> Image.Image:
    """A picture that a command here has written, in RGB.

    Raises:
        UserError: If it is no PNG any more.
    """
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as a picture ({first_line(error)}); make it again, or remove it"
        ) from error


def sheet(
    titles: Sequence[str], rows: Sequence[Sequence[Image.Image]], size: int, *, gap: int = 2
) -> Image.Image:
    """Rows of pictures under one title per column.

    Args:
        titles: One per column; long ones are wrapped.
        rows: Pictures from left to right, as many as titles, row after row.
        size: Side of each picture on the sheet in pixels. Whole multiples keep their pixels visible.
        gap: Pixels between two pictures.
    """
    wrapped = [_wrap(title, size // _LETTER) for title in titles]
    head = _LINE * max(len(lines) for lines in wrapped) + 4
    step = size + gap
    drawn = Image.new("RGB", (len(titles) * step + gap, head + len(rows) * step + gap), "white")
    pen = ImageDraw.Draw(drawn)
    for column, lines in enumerate(wrapped):
        for number, text in enumerate(lines):
            pen.text((gap + column * step, 2 + number * _LINE), text, fill="black")
    for index, row in enumerate(rows):
        for column, (picture, _) in enumerate(zip(row, titles, strict=True)):
            drawn.paste(_resized(picture, size), (gap + column * step, head + gap + index * step))
    return drawn


def _resized(picture: Image.Image, size: int) -> Image.Image:
    how = Image.Resampling.NEAREST if size % picture.width == 0 else Image.Resampling.BICUBIC
    return picture.convert("RGB").resize((size, size), how)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` letters, broken at blanks and behind equals signs."""
    lines, words = [""], text.replace("=", "= ").split(" ")
    for word in words:
        joined = f"{lines[-1]} {word}".strip() if not lines[-1].endswith("=") else lines[-1] + word
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return [line[:width] for line in lines]


def save_picture(picture: Image.Image, path: Path, *, quick: bool = False) -> None:
    """Write a PNG; a reader finds the old picture or the new one.

    Args:
        picture: What to write.
        path: Where.
        quick: Whether to compress by runs alone: in a third to a half of the time, into files of much the same size.
    """
    how = {"compress_level": 1, "compress_type": zlib.Z_RLE} if quick else {"compress_level": 6}
    with replacing(path) as part:
        picture.save(part, format="PNG", **how)


def to_picture(image: Tensor) -> Image.Image:
    """RGB in [-1, 1], ``(3, R, R)`` -> a PIL image; values outside are clamped."""
    return to_pictures(image[None])[0]


def to_pictures(images: Tensor) -> list[Image.Image]:
    """RGB in [-1, 1], ``(B, 3, R, R)`` -> B PIL images; values outside are clamped."""
    pixels = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return [Image.fromarray(one) for one in pixels.permute(0, 2, 3, 1).cpu().numpy()]
