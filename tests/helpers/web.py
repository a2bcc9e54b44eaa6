"""A web server on this machine that keeps files, and can break, lie or keep silent."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hyperinverter.checkpoints.registry import Fetched


class Web:
    """What the server has and does; ``asked`` lists the paths of all requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks = 0  # so many answers end after half of the bytes
        self.silent = threading.Event()  # while set, no answer comes
        self.asked: list[str] = []
        self.address = ""

    def serve(self, name: str, content: bytes, megabytes: int | None = None) -> Fetched:
        """Keep a file; return its line of the table."""
        self.files[f"/{name}"] = content
        sha256 = hashlib.sha256(content).hexdigest()
        return Fetched(name, f"{self.address}/{name}", sha256, megabytes=megabytes)


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Run a server for the time of the block."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(self.path)
            while web.silent.is_set():
                web.silent.wait(0.01)
            if self.path not in web.files:
                self.send_error(404)
                return
            content = web.files[self.path]
            if web.breaks > 0:
                web.breaks -= 1
                content = content[: len(content) // 2]
            with suppress(OSError):  # a client that has not waited
                self.send_response(200)
                self.send_header("Content-Length", str(len(web.files[self.path])))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.silent.clear()
        server.shutdown()
        thread.join()
        server.server_close()
