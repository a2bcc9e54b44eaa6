"""The editor's server: models are loaded, a port is taken, and requests are answered until the person stops it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from hyperinverter.commands.serve.app import Service
from hyperinverter.commands.serve.gallery import Gallery
from hyperinverter.commands.serve.studio import Studio
from hyperinverter.contracts import UserError
from hyperinverter.system.terminal import say


class _Server(uvicorn.Server):
    """Ends searches when it is asked to stop: it would wait for them."""

    def __init__(self, settings: uvicorn.Config, service: Service) -> None:
        super().__init__(settings)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.stop_searches()
        super().handle_exit(sig, frame)


def run(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    password: str | None,
    runs: Path | None,
    framing: str | None,
    directions: Sequence[str],
) -> int:
    """Load the models and answer until the person stops it.

    Raises:
        UserError: If a model or directions cannot be loaded, or the port is taken.
    """
    gallery = None if runs is None else Gallery(runs)
    say(f"loading {', '.join(models)}")
    own = ["127.0.0.1", "localhost", "[::1]"]
    hosts = own if host in ("127.0.0.1", "localhost", "::1") else None
    service = Service(Studio(models, framing, directions), hosts=hosts, password=password, gallery=gallery)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen()  # who opens the address at once waits, and is not refused
    except OSError as error:
        taken.close()
        raise UserError(
            f"port {port} of {host} cannot be used ({error.strerror}): choose another with --port"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    say(f"the editor is at http://{shown}:{taken.getsockname()[1]}/ (stop it with Ctrl-C)")
    settings = uvicorn.Config(
        service.app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30
    )
    server = _Server(settings, service)
    try:
        server.run(sockets=[taken])
    except KeyboardInterrupt:
        pass
    finally:
        service.sessions.close()
    return 0
