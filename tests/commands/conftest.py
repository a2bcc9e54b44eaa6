"""A cache folder of one's own, a server with weight files small enough for a test, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Playwright."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *camera])
        yield started
        started.close()
