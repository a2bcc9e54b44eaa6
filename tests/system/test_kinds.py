"""Files of other kinds are named for what they are."""

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
