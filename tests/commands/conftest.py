"""A cache folder of one's own, and a server with weight files small enough for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from web import serving

from hyperinverter.checkpoints.registry import FETCHED


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERINVERTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], bytes]]:
    """Let a label's official source be a server of this test, and return what is in its file."""
    with serving(monkeypatch) as web:

        def serve(label: str) -> bytes:
            content = f"weights of {label}".encode() * 100
            monkeypatch.setitem(FETCHED, label, web.serve(FETCHED[label].file, content))
            return content

        yield serve
