"""The editor as a person starts it, and what one does on its page."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hyperinverter.data.digiface import accepted_indices, sample_faces


class Served:
    """A server in a process of its own; its terminal is kept in ``log``."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[str] = ("digiface", "w_opt:20"),
        *,
        port: int = 0,
        typed: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = folder / "terminal.txt"
        command = [sys.executable, "-m", "hyperinverter", "serve", "--port", str(port), *typed]
        command += [word for model in models for word in ("--model", model)]
        with self.log.open("a") as file:
            self.process = subprocess.Popen(
                command, stderr=file, stdout=file, env={**os.environ, **(environment or {})}
            )
        for _ in range(600):
            said = self.log.read_text().rsplit("http://127.0.0.1:", 1)
            if len(said) == 2 and self.process.poll() is None and "/" in said[1]:
                self.port = int(said[1].split("/")[0])
                break
            time.sleep(0.1)
        self.url = f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        """End it with Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        self.log.write_text(self.log.read_text().replace("http://127.0.0.1:", "stopped:"))


def large_photo(*places: int) -> Image.Image:
    """Built-in faces side by side in a larger picture, as a camera would take it; one face by default."""
    chosen = places or (4,)
    photo = Image.new("RGB", (200 + 200 * len(chosen), 300), (90, 120, 90))
    for index, place in enumerate(chosen):
        face = Image.fromarray(sample_faces(accepted_indices()[place : place + 1])[0])
        photo.paste(face.resize((200, 200), Image.Resampling.BICUBIC), (100 + 200 * index, 50))
    return photo


def example(page: Any, number: int = 2) -> None:
    """Open an example and wait until both models have drawn it."""
    page.click(f"#examples button:nth-child({number})")
    page.wait_for_selector("#tile-edit-1 .frame:not(.busy)", timeout=60_000)


def move(page: Any, name: str, value: float) -> None:
    """Move a slider, and wait for the picture."""
    page.evaluate(
        """([name, value]) => { const range = document.getElementById(name); range.value = value;
        range.dispatchEvent(new Event('input')); range.dispatchEvent(new Event('change')); }""",
        [name, value],
    )
    page.wait_for_timeout(700)


def shown(page: Any, tile: str) -> np.ndarray:
    """The pixels of a picture of the page."""
    data = page.evaluate(
        """(id) => { const image = document.querySelector(`#${id} img:not(.under)`), canvas = document.createElement('canvas');
        canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
        canvas.getContext('2d').drawImage(image, 0, 0); return canvas.toDataURL('image/png').split(',')[1]; }""",
        f"tile-{tile}",
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


def taken(page: Any, button: str) -> tuple[str, bytes]:
    """Name and content of what a button downloads."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()
