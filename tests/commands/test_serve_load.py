"""Many people at the editor: one after the other and at once, nothing is mixed and nothing is left."""

from __future__ import annotations

import http.cookiejar
import io
import json
import os
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import Served, large_photo

pytestmark = pytest.mark.slow
IN_TURN, AT_ONCE = 20, 8
SECONDS = float(os.environ.get("EDITOR_LOAD_SECONDS", "15"))  # of all at once; 120 for a figure to write down
STATUS = Path("/proc/self/status")


class Person:
    """One browser: cookies of its own."""

    def __init__(self, url: str) -> None:
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.url, self.opener = url, urllib.request.build_opener(jar)

    def ask(self, path: str, said: Any = None) -> bytes:
        body = said if isinstance(said, bytes) or said is None else json.dumps(said).encode()
        with self.opener.open(urllib.request.Request(self.url + path, body), timeout=60) as answer:
            return bytes(answer.read())

    def visit(self, place: int) -> list[bytes]:
        """Upload a photo of a face, edit it, put it back, and leave; what was seen."""
        file = io.BytesIO()
        large_photo(place).save(file, "PNG")
        photo = json.loads(self.ask(f"api/photo?name={place}.png", file.getvalue()))["photo"]
        key = json.loads(self.ask("api/open", {"photo": photo, "face": 0}))["open"]
        seen = [self.ask(f"api/preview/{photo}")]
        for model in (0, 1):
            self.ask("api/invert", {"open": key, "model": model})
            for power in (0.5, 1.0, 1.5):
                moves = {"powers": {"smile": power}}
                seen.append(self.ask("api/edit", {"open": key, "model": model, "moves": moves}))
        seen.append(self.ask("api/take", {"open": key, "kind": "paste", "moves": moves}))
        self.ask("api/leave", {"photos": [photo], "open": [key]})
        return seen


def memory(process: int) -> int:
    """Resident memory of a process in kB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@pytest.mark.skipif(not STATUS.exists(), reason="reads the memory of another process from /proc")
def test_sessions_in_turn_and_at_once_mix_nothing_and_leave_nothing(tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    server = Served(tmp_path, ("digiface_best", "digiface"), environment={"TMPDIR": str(temporary)})
    process = server.process.pid
    expected, sizes = {}, []
    for turn in range(IN_TURN):
        seen = Person(server.url).visit(place := turn % AT_ONCE)
        assert expected.setdefault(place, seen) == seen
        sizes.append(memory(process))
    assert len({seen[1] for seen in expected.values()}) == AT_ONCE
    assert max(sizes[IN_TURN // 2 :]) < 1.1 * sizes[IN_TURN // 2], (
        sizes
    )  # by then the bounded stores are full

    def stay(place: int) -> int:
        person, visits, end = Person(server.url), 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert person.visit(place) == expected[place]
            visits += 1
        return visits

    sizes = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        visits = [pool.submit(stay, place) for place in range(AT_ONCE)]
        while not all(each.done() for each in visits):
            time.sleep(1)
            sizes.append(memory(process))
    assert all(each.result() > 0 for each in visits)
    done = sum(each.result() for each in visits)
    print(
        f"{done} visits in {SECONDS:g} s, {AT_ONCE} at once; {sizes[0] >> 10} MB, at the end {sizes[-1] >> 10} MB"
    )
    assert sizes[-1] < 1.1 * sizes[len(sizes) // 3], sizes
    assert not [path for path in temporary.rglob("*") if path.is_file()]
    server.stop()
    assert not list(temporary.glob("hyperinverter*"))  # torch keeps a folder of its own
    assert "Traceback" not in server.log.read_text()
