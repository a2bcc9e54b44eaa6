"""What a file is that somebody gave for something else, and how to get out of it what they meant."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

from hyperinverter.contracts import shown

_PHOTOS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_COMPRESSED = {  # how files begin -> what they are, and what unpacks them
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"),
    b"Rar!": ("RAR", "unrar x"),
}
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
        "is ..." and "unpack ..."; nothing is unpacked here.
    """
    with path.open("rb") as file:
        start = file.read(512)
    for magic, (name, command) in _COMPRESSED.items():
        if start.startswith(magic):
            if name != "7-Zip" and re.search(r"\.(tgz|tbz2?|txz|tar\.\w+)$", path.name, re.IGNORECASE):
                return f"is a tar archive compressed with {name}", f"unpack it: tar -xf '{path}'"
            return f"is compressed with {name}", f"unpack it: {command} '{path}'"
    if start[257:262] == b"ustar":
        return "is a tar archive", f"unpack it: tar -xf '{path}'"
    if not start.startswith(b"PK"):
        return None
    try:
        with zipfile.ZipFile(path) as opened:
            names = [name for name in opened.namelist()[:100_000] if not name.endswith("/")]
    except Exception:  # zipfile raises many kinds for an archive that is damaged: its reader will say so
        return None
    if any(PurePosixPath(name).name == "data.pkl" for name in names):
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
    return f"is a zip archive that holds {held}", f"unpack it: unzip '{path}' -d '{path.with_suffix('')}'"


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


def _text(start: bytes) -> str | None:
    """The first line of what is text; None for other bytes."""
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        text = start[:256].decode(encoding, "ignore" if len(start) > 256 else "strict").strip()
    except UnicodeDecodeError:
        return None
    return text.splitlines()[0] if text and all(c.isprintable() or c.isspace() for c in text) else None
