"""Fetching weight files: whole, unaltered, once, and with a way out when it fails."""

from pathlib import Path

import pytest

from hyperinverter.checkpoints import fetch as fetching
from hyperinverter.checkpoints.fetch import fetch
from hyperinverter.checkpoints.registry import Fetched
from hyperinverter.contracts import UserError
from hyperinverter.system.files import sha256_of


@pytest.fixture
def source(tmp_path: Path) -> Fetched:
    """A "server": a file:// address."""
    served = tmp_path / "server" / "net.pth"
    served.parent.mkdir()
    served.write_bytes(b"weights" * 1000)
    return Fetched("net.pth", served.as_uri(), sha256_of(served))


def test_fetches_once_and_leaves_a_whole_file_alone(
    source: Fetched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / "judges" / "net.pth"
    fetch(source, path)
    assert sha256_of(path) == source.sha256
    monkeypatch.setattr(fetching, "_fetch", lambda *_: pytest.fail("fetched again"))
    fetch(source, path)


def test_repairs_a_damaged_file(source: Fetched, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    fetch(source, path)
    path.write_bytes(path.read_bytes()[:100])
    fetch(source, path)
    assert sha256_of(path) == source.sha256


def test_an_altered_download_is_refused_and_leaves_nothing(source: Fetched, tmp_path: Path) -> None:
    altered = Fetched(source.file, source.url, "0" * 64)
    with pytest.raises(UserError, match=r"sent a file with SHA-256 .*put it at"):
        fetch(altered, tmp_path / "cache" / "net.pth")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreachable_source_names_the_way_out(tmp_path: Path) -> None:
    gone = Fetched("net.pth", (tmp_path / "gone.pth").as_uri(), "0" * 64)
    with pytest.raises(UserError, match=r"cannot fetch net\.pth .* by hand and put it at .*cache.net\.pth"):
        fetch(gone, tmp_path / "cache" / "net.pth")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_names_the_way_out(source: Fetched, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot fetch net\.pth .*by hand"):
        fetch(source, tmp_path / "file" / "net.pth")
