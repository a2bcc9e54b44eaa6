"""How long an upload takes until it is inverted, at one or several editors that run on this machine.

    hyperinverter serve --model digiface --port 7860 & one=$!
    hyperinverter serve --model digiface --port 7861 & other=$!       # of another version
    python tests/helpers/uploads.py http://127.0.0.1:7860#$one http://127.0.0.1:7861#$other

Every photo goes to every editor in turn, so that a busy moment meets all of them. Printed are medians in
milliseconds: until the faces are known, until the face is cut, until the inversion and its numbers are there; and
the processor time of all this, which other work on the machine hardly changes (Linux, to 10 ms).
"""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
import time
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hyperinverter.data.digiface import accepted_indices, sample_faces

ROUNDS = 9


def scene(size: tuple[int, int], *faces: tuple[int, int, int]) -> Image.Image:
    """Built-in faces in a grainy photo; each is (side, left, top)."""
    grain = np.random.default_rng(0).normal(0, 6, (size[1] // 2, size[0] // 2, 3))
    photo = Image.fromarray(np.clip(110 + grain, 0, 255).astype(np.uint8)).resize(size)
    for number, (side, left, top) in enumerate(faces):
        face = Image.fromarray(sample_faces(accepted_indices()[number : number + 1])[0])
        photo.paste(face.resize((side, side), Image.Resampling.BICUBIC), (left, top))
    return photo


def photos() -> dict[str, bytes]:
    """The photos that people bring, by what they are."""
    drawn = {
        "phone photo, 4000 x 3000, one face.jpg": scene((4000, 3000), (900, 2000, 1000)),
        "phone photo, 4000 x 3000, three faces.jpg": scene(
            (4000, 3000), (700, 400, 900), (600, 1700, 1000), (500, 2900, 1100)
        ),
        "portrait, 1024 px.png": scene((1024, 1024), (700, 160, 160)),
        "portrait, 256 px.png": scene((256, 256), (180, 38, 38)),
        "example, 64 px.png": scene((64, 64), (64, 0, 0)),
        "no face, 1800 x 1200.jpg": scene((1800, 1200)),
    }
    files = {}
    for name, picture in drawn.items():
        file = io.BytesIO()
        picture.save(file, "JPEG" if name.endswith("jpg") else "PNG", quality=92)
        files[name] = file.getvalue()
    return files


class Editor:
    """One server, as one browser sees it: its address, and after a ``#`` its process."""

    def __init__(self, url: str) -> None:
        self.url, _, self.process = url.partition("#")
        self.url = self.url.rstrip("/")
        self._open = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar())).open
        self.about = json.load(self._open(f"{self.url}/api/about"))

    def ask(self, path: str, content: bytes | dict[str, Any]) -> Any:
        """POST bytes, or JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        asked = urllib.request.Request(f"{self.url}{path}", body, {"Content-Type": kind, "Origin": self.url})
        return json.load(self._open(asked))

    def busy(self) -> float:
        """Seconds of processor time that its process has used; 0 if that is not known."""
        if not self.process:
            return 0.0
        fields = Path(f"/proc/{self.process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def upload(self, content: bytes) -> tuple[int, list[float]]:
        """Faces, and milliseconds since the upload began: found, cut, inverted, processor time."""
        begin, busy = time.perf_counter(), self.busy()
        times = []
        found = self.ask("/api/photo?name=photo", content)
        times.append(time.perf_counter() - begin)
        face = 0 if found["faces"] else None
        cut = self.ask("/api/open", {"photo": found["photo"], "face": face})
        times.append(time.perf_counter() - begin)
        self.ask("/api/invert", {"open": cut["open"], "model": 0})
        times.append(time.perf_counter() - begin)
        times.append(self.busy() - busy)
        return len(found["faces"]), [1000 * each for each in times]


def main(urls: list[str]) -> None:
    """Upload all photos to all editors, and print a table."""
    editors = [Editor(url) for url in urls]
    print(f"{ROUNDS} uploads of each photo; model {editors[0].about['models'][0]['name']}")
    print("photo | faces | found | cut | inverted | processor: ms, of each editor in turn")
    for name, content in photos().items():
        times: list[list[list[float]]] = [[] for _ in editors]
        faces = []
        for _ in range(ROUNDS):
            for editor, seen in zip(editors, times, strict=True):
                count, stages = editor.upload(content)
                faces.append(count)
                seen.append(stages)
        middle = [
            [f"{statistics.median(column):.0f}" for column in zip(*seen, strict=True)] for seen in times
        ]
        stages = [" and ".join(each) for each in zip(*middle, strict=True)]
        print(
            f"{name.rsplit('.', 1)[0]} | {'-'.join(map(str, sorted(set(faces))))} | {' | '.join(stages)}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:] or ["http://127.0.0.1:7860/"])
