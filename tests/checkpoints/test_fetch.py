"""Fetching weight files: complete, unaltered, once, and with a way out when it fails."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pooch
import pytest
from web import Web, serving

from hyperinverter.checkpoints.fetch import ATTEMPTS, fetch
from hyperinverter.checkpoints.registry import Fetched, state_of
from hyperinverter.contracts import UserError
from hyperinverter.system.files import sha256_of

CONTENT = bytes(range(256)) * 1000  # four pieces of the download


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with serving(monkeypatch) as web:
        yield web


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "judges" / "net.pth"


def files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if not file.name.endswith(".lock")]


def test_fetches_once_with_progress(web: Web, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = web.serve("net.pth", CONTENT)
    fetch(source, path)
    assert path.read_bytes() == CONTENT
    assert files(path.parent) == ["net.pth"]
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("net.pth: 100%")
    assert "256k/256k" in last  # of the known size
    assert "B/s" in last
    fetch(source, path)
    assert web.asked == ["/net.pth"]


def test_others_of_the_machine_may_read_the_file(web: Web, path: Path, tmp_path: Path) -> None:
    fetch(web.serve("net.pth", CONTENT), path)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_damaged_file_is_fetched_again(web: Web, path: Path) -> None:
    source = web.serve("net.pth", CONTENT)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:100])
    assert state_of(path, source) == "wrong hash"
    fetch(source, path)
    assert sha256_of(path) == source.sha256


def test_a_broken_connection_starts_again(web: Web, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    web.breaks = ATTEMPTS - 1
    fetch(web.serve("net.pth", CONTENT), path)
    assert path.read_bytes() == CONTENT
    assert "the connection broke; from the start again, attempt 3 of 3" in capsys.readouterr().err


def test_a_connection_that_always_breaks_leaves_nothing(web: Web, path: Path) -> None:
    source = web.serve("net.pth", CONTENT)
    web.breaks = 100
    with pytest.raises(
        UserError, match=r"cannot fetch net\.pth \(the connection broke 3 times\); download http"
    ):
        fetch(source, path)
    assert len(web.asked) == ATTEMPTS
    assert files(path.parent) == []


def test_an_altered_download_never_gets_the_name(web: Web, path: Path) -> None:
    source = web.serve("net.pth", CONTENT)
    web.files["/net.pth"] = b"<html>quota exceeded</html>"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"what was there before")
    with pytest.raises(
        UserError, match=r"sent a file with SHA-256 .*quota page.*by hand and put it at .*net\.pth"
    ):
        fetch(source, path)
    assert path.read_bytes() == b"what was there before"
    assert files(path.parent) == ["net.pth"]
    assert len(web.asked) == 1  # a complete answer is not asked for again


def test_what_the_server_says_is_in_the_sentence(web: Web, path: Path) -> None:
    gone = Fetched("net.pth", f"{web.address}/gone.pth", "0" * 64, page="https://example.org/page")
    with pytest.raises(
        UserError,
        match=r"cannot fetch net\.pth \(127\.0\.0\.1 answered 404 Not Found\); "
        r"download https://example.org/page by hand and put it at .*net\.pth$",
    ):
        fetch(gone, path)
    assert files(path.parent) == []


def test_a_silent_or_absent_server_is_named(web: Web, path: Path) -> None:
    source = web.serve("net.pth", CONTENT)
    web.silent.set()
    with pytest.raises(UserError, match=r"\(127\.0\.0\.1 does not answer\)"):
        fetch(source, path, timeout_seconds=0.05)
    nobody = Fetched("net.pth", "http://127.0.0.1:9/net.pth", "0" * 64)
    with pytest.raises(UserError, match=r"\(no connection to 127\.0\.0\.1\)"):
        fetch(nobody, path)


def test_too_little_space_is_said_before_the_first_byte(
    web: Web, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = web.serve("net.pth", CONTENT, megabytes=553)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(UserError, match=r"553\.0 MB needed, 2\.0 MB free.*paths\.cache=FOLDER"):
        fetch(source, path)
    assert web.asked == []


def test_a_disk_that_fills_up_leaves_nothing(web: Web, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, url: str, output_file: str, pooch: Any) -> None:
        Path(output_file).write_bytes(b"the first bytes")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", full)
    with pytest.raises(UserError, match=r"no space.*paths\.cache=FOLDER"):
        fetch(web.serve("net.pth", CONTENT), path)
    assert files(path.parent) == []


def test_a_folder_that_cannot_be_written_is_named(web: Web, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot write .*file.*paths\.cache=FOLDER"):
        fetch(web.serve("net.pth", CONTENT), tmp_path / "file" / "net.pth")


def test_two_at_once_fetch_once(web: Web, path: Path) -> None:
    source = web.serve("net.pth", CONTENT)
    web.silent.set()
    both = [threading.Thread(target=fetch, args=(source, path)) for _ in range(2)]
    for one in both:
        one.start()
    web.silent.clear()
    for one in both:
        one.join()
    assert path.read_bytes() == CONTENT
    assert web.asked == ["/net.pth"]
