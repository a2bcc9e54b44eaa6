"""A cache folder of one's own, and weight files small enough to serve from the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperinverter.checkpoints.registry import FETCHED, Fetched
from hyperinverter.system.files import sha256_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERINVERTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bytes]:
    """Let a label's official source be a file of this test, and return what is in it."""

    def serve(label: str) -> bytes:
        content = f"weights of {label}".encode() * 100
        source = FETCHED[label]
        file = tmp_path / "server" / source.file
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        monkeypatch.setitem(
            FETCHED,  # type: ignore[arg-type]
            label,
            Fetched(source.file, file.as_uri(), sha256_of(file), megabytes=source.megabytes),
        )
        return content

    return serve
