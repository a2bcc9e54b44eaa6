"""Small files that cost much to read, or are no files of weights at all."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


MEGABYTE = 1 << 20


def storage_id(numel: int) -> bytes:
    """What stands for a tensor's numbers: a tuple, to be looked up."""
    number = b"\x8a\x08" + struct.pack("<q", numel)
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number + b"tQ"


def tensor(numel: int, shape: int, stride: int) -> bytes:
    sizes = b"".join(b"\x8a\x08" + struct.pack("<q", number) + b"\x85" for number in (shape, stride))
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage_id(numel) + b"K\x00" + sizes
    return made + b"\x89ccollections\nOrderedDict\n)RtR"


def with_tensor(described: bytes, path: Path, held: bytes = b"\0" * 400) -> Path:
    program = b"\x80\x02}" + text("g_ema") + b"}" + text("style.1.bias") + described + b"ss."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", held)
    return path


def compressed(path: Path) -> Path:
    """A hundred kilobytes that unpack to a thousand times as many."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w") as member:
            for _ in range(128):
                member.write(b"\0" * MEGABYTE)
    return path


def overlapping(path: Path) -> Path:
    """Many names for the same megabyte."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", b"\0" * MEGABYTE)
        one = archive.getinfo("archive/data/0")
        for number in range(1, 500):
            twin = zipfile.ZipInfo(f"archive/data/{number}")
            for key in ("header_offset", "file_size", "compress_size", "CRC", "compress_type"):
                setattr(twin, key, getattr(one, key))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    path.write_bytes(held.getvalue())
    return path


def shared(path: Path) -> Path:
    """Ten thousand tensors of the same megabyte."""
    named = b"".join(text(f"style.{i}.bias") + b"h\x00s" for i in range(1, 10_000))
    program = (
        b"\x80\x02"
        + tensor(MEGABYTE // 4, MEGABYTE // 4, 1)
        + b"q\x000}"
        + text("g_ema")
        + b"}"
        + named
        + b"s."
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", b"\0" * MEGABYTE)
    return path


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


HUGE = 1 << 40
BOMBS: dict[str, Callable[[Path], Path]] = {
    "compressed archive": compressed,
    "overlapping archive": overlapping,
    "bytes that are not there": lambda p: write(p, b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"."),
    "text that is not there": lambda p: write(p, b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b"."),
    "number that is not there": lambda p: write(p, b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."),
    "far memory": lambda p: write(p, b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b"K\x01."),
    "a long program": lambda p: write(p, b"\x80\x02" + b"}" * 60_000 + b"."),
    "nesting": lambda p: write(p, b"\x80\x02)" + b"\x85" * 40_000 + b"."),
    "copied lists": lambda p: write(
        p, b"\x80\x02](" + b"N" * 10_000 + b"eq\x00" + b"c__builtin__\nset\nh\x00\x85R" * 10_000 + b"."
    ),
    "numbers that are not there": lambda p: with_tensor(tensor(HUGE, HUGE, 1), p),
    "numbers repeated": lambda p: with_tensor(tensor(100, HUGE, 0), p),
    "numbers beyond": lambda p: with_tensor(tensor(100, 2, HUGE), p),
    "negative sizes": lambda p: with_tensor(tensor(100, -1, 1), p),
    "shared numbers": shared,
}
