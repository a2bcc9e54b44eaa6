"""Files of other kinds are named for what they are."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from hyperinverter.system import kinds


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pkl", b"https://example.org/network.pkl\n", "is a text file that begins with 'https://"),
        ("a.pkl", "hello".encode("utf-16"), "is a text file"),
        ("a.pkl", b'<?xml version="1.0"?><Error>', "is a text file"),
        ("a.pkl", b"\0" * 1000, "nothing but zeros, as downloads do that did not finish"),
        ("a.pkl", b"GGUF" + b"\0" * 9, "is a GGUF file"),
        ("a.pdf", b"%PDF-1.4", "is a PDF document"),
        ("a.onnx", b"\x08\x07\xff", "is an ONNX model"),
    ],
)
def test_other_files_are_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = kinds.other(tmp_path / name)
    assert found is not None
    assert said in found[0]


def test_bytes_that_say_nothing_are_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(bytes(range(256)))
    assert kinds.other(tmp_path / "a.pkl") is None


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.gz"])
def test_a_compressed_archive_is_unpacked_in_one_step(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(20))
    assert kinds.archive(tmp_path / name) == (
        "is a tar archive compressed with gzip",
        f"unpack it: tar -xf '{tmp_path / name}'",
    )


def packed(name: str) -> bytes:
    """A tar archive with one member of this name."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "what", "way_out"),
    [
        ("a.pt", gzip.compress(b"weights"), "is compressed with gzip", "gunzip < 'a.pt' > 'a.unpacked.pt'"),
        ("a.pth.tar", gzip.compress(b"weights"), "is compressed with gzip", "gunzip < 'a.pth.tar' > "),
        ("a.pt", gzip.compress(packed("net.pt")), "is a tar archive compressed with gzip", "tar -xf 'a.pt'"),
        ("a.pt", bz2.compress(packed("net.pt")), "is a tar archive compressed with bzip2", "tar -xf 'a.pt'"),
        ("a.pt", lzma.compress(packed("net.pt")), "is a tar archive compressed with xz", "tar -xf 'a.pt'"),
        ("a.pt.xz", lzma.compress(b"weights"), "is compressed with xz", "unxz 'a.pt.xz'"),
        ("a.pt", gzip.compress(b"weights")[:12], "is compressed with gzip", "gunzip <"),
        ("a.pt", b"\x04\x22\x4d\x18" + bytes(50), "is compressed with LZ4", "unlz4 < 'a.pt'"),
        ("a.tar", packed("net.pt"), "is a tar archive", "tar -xf 'a.tar'"),
        ("a.tar", packed("storages"), "is a file of torch from before version 0.2", "torch.save(torch.load"),
        ("o'hara.zip", None, "is a zip archive that holds x", "unzip 'o'\\''hara.zip' -d 'o'\\''hara'"),
    ],
    # gzip writes the time: with the bytes in their names, two processes of one session would have different tests
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_what_is_compressed_is_named_with_a_command_that_works(
    name: str,
    content: bytes | None,
    what: str,
    way_out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is None:
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("x", b"")
    else:
        Path(name).write_bytes(content)
    found = kinds.archive(Path(name))
    assert found is not None
    assert found[0] == what
    assert way_out in found[1]


@pytest.mark.parametrize(
    ("member", "what", "way_out"),
    [
        ("net/constants.pkl", "is a TorchScript program", "torch.jit.load(FILE).state_dict()"),
        ("net/archive_format", "is a program of torch.export", "torch.export.load(FILE).state_dict"),
        ("net/.data/extern_modules", "is a torch.package archive", "MODULE.state_dict()"),
    ],
)
def test_programs_of_torch_are_named(member: str, what: str, way_out: str, tmp_path: Path) -> None:
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # TorchScript deflates its code
        with zipfile.ZipFile(tmp_path / "a.pt", "w", how) as archive:
            archive.writestr("net/data.pkl", b"\x80\x02}.")
            archive.writestr(member, b"code" * 100)
        assert kinds.archive(tmp_path / "a.pt") is not None
        found = kinds.archive(tmp_path / "a.pt")
        assert found is not None
        assert found[0] == what
        assert way_out in found[1]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(20), "is a HEIC photo"),
        (b"\0\0\0\x18ftypmp42" + bytes(20), "is a video"),
        (b"8BPS" + bytes(20), "is a Photoshop file"),
        (b"%!PS-Adobe", "is an EPS drawing"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "is an SVG drawing"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"version https://git-lfs.github.com", "is a pointer of Git LFS, not the file itself"),
        (bytes(range(99)), None),
    ],
)
def test_what_is_no_photo_is_named(content: bytes, what: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    found = kinds.no_photo(tmp_path / "a.jpg")
    assert (None if found is None else found[0]) == what
