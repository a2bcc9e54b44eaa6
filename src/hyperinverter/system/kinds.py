"""What a file is that somebody gave for something else, and how to get out of it what they meant."""

from __future__ import annotations

import bz2
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from hyperinverter.contracts import shown

_PHOTOS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_COMPRESSED = {  # how files begin -> what they are, what unpacks them, and the ending that this wants to see
    b"\x1f\x8b": ("gzip", "gunzip", ".gz"),
    b"BZh": ("bzip2", "bunzip2", ".bz2"),
    b"\xfd7zXZ\x00": ("xz", "unxz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd", ".zst"),
    b"\x04\x22\x4d\x18": ("LZ4", "unlz4", ".lz4"),
    b"\x1f\x9d": ("compress", "uncompress", ".Z"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x", ""),
    b"Rar!": ("RAR", "unrar x", ""),
}
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {  # that stop after so many bytes
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=1 << 26),
}
_READ = 1 << 20  # bytes that hold the first block of a compressed file
# Members that tell what a zip file of torch is -> what it is, and how its numbers come out.
_PROGRAMS = {
    "constants.pkl": ("a TorchScript program", "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"),
    "archive_format": (
        "a program of torch.export",
        "torch.save(torch.export.load(FILE).state_dict, NEW_FILE)",
    ),
    "extern_modules": ("a torch.package archive", "torch.save(MODULE.state_dict(), NEW_FILE)"),
}
_BEFORE_0_2 = {"sys_info", "pickle", "storages", "tensors"}  # members of torch's first format
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes them", "save the network with PyTorch"),
    b"\x93NUMPY": ("a single array of NumPy", "save the network with PyTorch"),
    b"\x89PNG": ("a picture", "give the network's file"),
    b"\xff\xd8\xff": ("a picture", "give the network's file"),
    b"GGUF": ("a GGUF file of a language model", "give the network's file"),
    b"%PDF": ("a PDF document", "give the network's file"),
}


def archive(path: Path) -> tuple[str, str] | None:
    """What a compressed file or an archive is, and how to unpack it; None for everything else, and torch's own files.

    Returns:
        "is ..." and "unpack ..."; nothing is unpacked here but the first bytes, which say whether it is a tar.
    """
    with path.open("rb") as file:
        start = file.read(512)
    for magic, (name, command, ending) in _COMPRESSED.items():
        if start.startswith(magic):
            return _compressed(path, name, command, ending)
    if _is_tar(start):
        if _BEFORE_0_2 & set(_first_members(path)):
            return (
                "is a file of torch from before version 0.2",
                "save it again with a torch that opens it: torch.save(torch.load(FILE), NEW_FILE)",
            )
        return "is a tar archive", f"unpack it: tar -xf {_quoted(path)}"
    return _zipped(path) if start.startswith(b"PK") else None


def _quoted(path: Path) -> str:
    """A path as a shell reads it, whatever is in it."""
    text = str(path).replace("'", "'\\''")
    return f"'{text}'"


def _compressed(path: Path, name: str, command: str, ending: str) -> tuple[str, str]:
    said = re.search(r"\.(tgz|tbz2?|txz|tar\.\w+)$", path.name, re.IGNORECASE) and name != "7-Zip"
    if said or _holds_tar(path, name):
        return f"is a tar archive compressed with {name}", f"unpack it: tar -xf {_quoted(path)}"
    if not ending or path.suffix == ending:
        return f"is compressed with {name}", f"unpack it: {command} {_quoted(path)}"
    new = path.with_name(f"{path.stem}.unpacked{path.suffix}")  # the program itself refuses other endings
    return f"is compressed with {name}", f"unpack it: {command} < {_quoted(path)} > {_quoted(new)}"


def _holds_tar(path: Path, name: str) -> bool:
    if name not in _DECOMPRESSORS:
        return False
    with path.open("rb") as file:
        held = file.read(_READ)
    try:
        return _is_tar(_DECOMPRESSORS[name]().decompress(held, 512))
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
        return False  # damaged: what unpacks it will say so


def _is_tar(start: bytes) -> bool:
    return start[257:262] == b"ustar"


def _first_members(path: Path) -> list[str]:
    """Names of the first members of a tar archive."""
    try:
        with tarfile.open(path, "r:") as opened:
            found = (opened.next() for _ in _BEFORE_0_2)
            return [member.name for member in found if member is not None]
    except (tarfile.TarError, OSError, ValueError):
        return []


def _zipped(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as opened:
            names = [name for name in opened.namelist()[:100_000] if not name.endswith("/")]
    except Exception:  # zipfile raises many kinds for an archive that is damaged: its reader will say so
        return None
    plain = {PurePosixPath(name).name for name in names}
    for member, (what, command) in _PROGRAMS.items():
        if member in plain:
            return f"is {what}", f"save its numbers where it can be opened: {command}"
    if "data.pkl" in plain:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "is an archive of NumPy arrays", "save the network with PyTorch"
    photos = sum(PurePosixPath(name).suffix.lower() in _PHOTOS for name in names)
    if photos > len(names) / 2:
        held = f"{photos} photos"
    elif names:
        held = shown(names[0]) if len(names) == 1 else f"{shown(names[0])} and {len(names) - 1} more files"
    else:
        held = "nothing"
    way_out = f"unpack it: unzip {_quoted(path)} -d {_quoted(path.with_suffix(''))}"
    return f"is a zip archive that holds {held}", way_out


def other(path: Path) -> tuple[str, str] | None:
    """What a file is that is neither weights nor an archive, and the way out; None if that is not known."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself", "fetch it with git lfs pull"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not weights", "download it again, in a browser if the page asks for a click"
    for magic, (name, way_out) in _OTHERS.items():
        if start.startswith(magic):
            return f"is {name}", way_out
    if start and not start.strip(b"\0"):
        return "begins with nothing but zeros, as downloads do that did not finish", "download it again"
    if path.suffix.lower() == ".onnx":
        return "is an ONNX model", "save the network with PyTorch"
    if (text := _text(start)) is not None:
        return f"is a text file that begins with {shown(text, 40)!r}, not weights", "download the file itself"
    return None


_NO_PHOTOS = {  # how files begin that people take for photos -> what they are
    b"8BPS": "a Photoshop file",
    b"%!PS": "an EPS drawing",
    b"\xc5\xd0\xd3\xc6": "an EPS drawing",
    b"\x76\x2f\x31\x01": "an OpenEXR picture",
    b"#?RADIANCE": "a Radiance picture",
    b"\x00\x00\x01\x00": "an icon",
    b"DDS ": "a texture",
    b"\xff\x0a": "a JPEG XL photo",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL photo",
    b"FUJIFILM": "a raw photo",
    b"\x1aE\xdf\xa3": "a video",
    b"%PDF": "a PDF document",
}
_PICTURE = "is a picture"
_HEIC = (b"heic", b"heix", b"heif", b"mif1", b"msf1", b"hevc")


def no_photo(path: Path) -> tuple[str, str] | None:
    """What a file is that is no photo of a format that is read, and the way out; None if that is not known."""
    with path.open("rb") as file:
        start = file.read(512)
    save = "save it as PNG or JPEG"
    if start[4:8] == b"ftyp":
        return (
            ("is a HEIC photo", save) if start[8:12] in _HEIC else ("is a video", "save a frame of it as PNG")
        )
    if b"<svg" in start:
        return "is an SVG drawing", save
    for magic, name in _NO_PHOTOS.items():
        if start.startswith(magic):
            return f"is {name}", "save a frame of it as PNG" if name == "a video" else save
    known = other(path)
    if known is None or known[0] == _PICTURE:  # of a format that is read, so it is damaged
        return None
    return known[0].replace(", not weights", ""), "give a photo" if "network" in known[1] else known[1]


def _text(start: bytes) -> str | None:
    """The first line of what is text; None for other bytes."""
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        text = start[:256].decode(encoding, "ignore" if len(start) > 256 else "strict").strip()
    except UnicodeDecodeError:
        return None
    return text.splitlines()[0] if text and all(c.isprintable() or c.isspace() for c in text) else None
