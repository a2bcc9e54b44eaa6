"""What the editor's requests share: the guard around them, what they read, bounded, and what they answer."""

from __future__ import annotations

import base64
import binascii
import hmac
import io
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperinverter.contracts import UserError

MOST_BYTES = 25_000_000  # of an upload
_MOST_JSON = 100_000
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses requests of other sites and without the password, and adds the headers of every answer.

    Args:
        app: What answers.
        hosts: Names under which the page may be asked for; None: any, behind a password.
        password: Asked for by the browser; None: none.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None, password: str | None) -> None:
        self.app, self.hosts, self.password = app, hosts, password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await (self._refused(Request(scope)) or self.app)(scope, receive, with_headers)

    def _refused(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if self.hosts is not None and host.rsplit(":", 1)[0] not in self.hosts:
            return sentence("this page answers on this machine only", 403)
        origin = request.headers.get("origin")
        if origin is not None and origin.split("://", 1)[-1] != host:
            return sentence("another site asked for this; it is refused", 403)
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return sentence("another site asked for this; it is refused", 403)
        if self.password is not None and not self._knows_password(request.headers.get("authorization", "")):
            asked = {"WWW-Authenticate": 'Basic realm="HyperInverter", charset="UTF-8"'}
            return JSONResponse({"error": "the password is needed"}, 401, asked)
        return None

    def _knows_password(self, said: str) -> bool:
        kind, _, encoded = said.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
        assert self.password is not None
        return kind.lower() == "basic" and hmac.compare_digest(given.encode(), self.password.encode())


async def uploaded(request: Request, folder: Path) -> tuple[Path, str]:
    """The body of a request in a file of a folder, and a name for results that is safe everywhere.

    Raises:
        UserError: If it is empty or too large; nothing is left then.
    """
    path, size = folder / secrets.token_urlsafe(9), 0
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MOST_BYTES:
                    raise UserError(f"the file is larger than {MOST_BYTES // 10**6} MB: make it smaller")
                file.write(chunk)
        if not size:
            raise UserError("the file is empty")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    stem = request.query_params.get("name", "photo").rsplit("/", 1)[-1].rsplit("\\", 1)[-1]
    name = "".join(c for c in stem.removesuffix(Path(stem).suffix) if c.isalnum() or c in "-_ .")[:60].strip(
        " ."
    )
    return path, name.removesuffix(".inversion") or "photo"


async def said_in(request: Request) -> Mapping[str, Any]:
    """The JSON object of a request.

    Raises:
        UserError: If it is too large, or none.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_JSON:
            raise UserError("the page sent too much: load it again")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError("the page sent something that cannot be read: load it again") from error
    if not isinstance(said, dict):
        raise UserError("the page sent something that cannot be read: load it again")
    return said


def whole(said: object) -> int:
    """A number that the page sent, in JSON or in an address.

    Raises:
        UserError: If it is none.
    """
    if isinstance(said, int) and not isinstance(said, bool):
        return said
    if isinstance(said, str) and said.isdecimal() and len(said) < 10:
        return int(said)
    raise UserError("the page sent something that is no number: load it again")


def png(picture: Image.Image) -> Response:
    """A picture, without loss."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return Response(file.getvalue(), media_type="image/png")


def sentence(text: str, status: int) -> Response:
    """What the page shows to the person."""
    return JSONResponse({"error": text}, status)


def without_paths(text: str, folder: Path) -> str:
    """A sentence without the temporary names of uploads, which mean nothing to the person."""
    return re.sub(re.escape(str(folder)) + r"[/\\][\w./\\-]*", "the file", text)
