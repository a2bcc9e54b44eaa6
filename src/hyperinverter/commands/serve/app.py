"""The web side of the editor: a page of our own, and requests that answer with pictures.

Safe by default: this machine only, requests of other sites are refused, nothing is loaded from elsewhere, uploads are
bounded and read by our own reader, and no name or path from the browser is ever opened.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import io
import json
import logging
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import anyio
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from hyperinverter.commands.serve.gallery import Gallery
from hyperinverter.commands.serve.session import Session, Sessions
from hyperinverter.commands.serve.studio import Moves, Studio, centre_box
from hyperinverter.contracts import UserError
from hyperinverter.system.terminal import say

COOKIE = "hyperinverter_editor"
MOST_BYTES = 25_000_000  # of an upload
MOST_WAITING = 16  # requests for the models
PAGE = {"index.html": "text/html", "editor.js": "text/javascript", "editor.css": "text/css"}
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
_log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[Request, Session], Awaitable[Response]]


class Cancelled(Exception):
    """A search that the person stopped."""


class Service:
    """All requests of the page.

    Args:
        studio: The models.
        hosts: Names under which the page may be asked for; None: any, behind a password.
        password: Asked for by the browser; None: none.
        gallery: Results of evaluations; None: none.
    """

    def __init__(
        self,
        studio: Studio,
        *,
        hosts: Sequence[str] | None = None,
        password: str | None = None,
        gallery: Gallery | None = None,
    ) -> None:
        self.studio, self.hosts, self.password, self.gallery = studio, hosts, password, gallery
        self.sessions = Sessions()
        self.waiting = 0
        self._turn: anyio.Lock | None = None
        post, get = ["POST"], ["GET"]
        page = [Route("/" if n == "index.html" else f"/{n}", self._page(n), methods=get) for n in PAGE]
        routes: list[tuple[str, Handler, list[str]]] = [
            ("/api/about", self.about, get),
            ("/api/photo", self.photo, post),
            ("/api/preview/{photo}", self.preview, get),
            ("/api/open", self.open, post),
            ("/api/load", self.load, post),
            ("/api/example/{index:int}", self.example_picture, get),
            ("/api/invert", self.invert, post),
            ("/api/progress", self.progress, get),
            ("/api/cancel", self.cancel, post),
            ("/api/picture/{open}/{model:int}/{kind}", self.picture, get),
            ("/api/edit", self.edit, post),
            ("/api/take", self.take, post),
            ("/api/command", self.command, post),
            ("/api/gallery", self.listed, get),
            ("/api/gallery/{index:int}/{number:int}", self.gallery_picture, get),
        ]
        bound = [
            Route(path, self._with_session(handler), methods=methods) for path, handler, methods in routes
        ]
        self.app = Starlette(routes=[*page, *bound], lifespan=self._life)
        self.app.add_middleware(BaseHTTPMiddleware, dispatch=self._guard)

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.sessions.close()

    # Around every request -------------------------------------------------------------------------------------

    async def _guard(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        refused = self._refused(request)
        response = refused if refused is not None else await call_next(request)
        for name, value in _HEADERS.items():
            response.headers[name] = value
        return response

    def _refused(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if self.hosts is not None and host.rsplit(":", 1)[0] not in self.hosts:
            return _sentence("this page answers on this machine only", 403)
        origin = request.headers.get("origin")
        if origin is not None and origin.split("://", 1)[-1] != host:
            return _sentence("another site asked for this; it is refused", 403)
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _sentence("another site asked for this; it is refused", 403)
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

    def _page(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        content = (resources.files("hyperinverter.commands.serve") / "page" / name).read_bytes()

        async def answer(request: Request) -> Response:
            return Response(content, media_type=PAGE[name])

        return answer

    def _with_session(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            key, session = self.sessions.of(request.cookies.get(COOKIE))
            try:
                response = await handler(request, session)
            except UserError as error:
                response = _sentence(_without_paths(str(error), session), 400)
            except Cancelled:
                response = _sentence("stopped", 409)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception:
                _log.exception("a request of the editor failed")
                response = _sentence("something went wrong here; the terminal says what", 500)
            response.set_cookie(COOKIE, key, httponly=True, samesite="strict", path="/")
            return response

        return answer

    async def _work(self, session: Session, function: Callable[[], T]) -> T:
        """Run what needs the models in a thread, one request at a time, in order."""
        if self._turn is None:
            self._turn = anyio.Lock()
        if self.waiting >= MOST_WAITING:
            raise UserError(f"{self.waiting} requests are waiting already: try again in a moment")
        self.waiting += 1
        try:
            async with self._turn:
                return await anyio.to_thread.run_sync(function)
        finally:
            self.waiting -= 1

    # Requests ----------------------------------------------------------------------------------------------------

    async def about(self, request: Request, session: Session) -> Response:
        known = {**self.studio.about(), "gallery": self.gallery is not None}
        return JSONResponse(known)

    async def photo(self, request: Request, session: Session) -> Response:
        """An upload: its faces."""
        path, name = await self._uploaded(request, session)
        try:
            photo = await self._work(session, lambda: self.studio.look(path, name))
        except UserError:
            path.unlink(missing_ok=True)
            raise
        width, height = photo.size
        return JSONResponse(
            {
                "photo": session.add_photo(photo),
                "width": width,
                "height": height,
                "faces": photo.boxes,
                "centre": centre_box(photo.size),
            }
        )

    async def preview(self, request: Request, session: Session) -> Response:
        return _png(session.photo(request.path_params["photo"]).preview)

    async def open(self, request: Request, session: Session) -> Response:
        """A face of an upload, its centre, or an example: an opened photo."""
        said = await _json(request)
        if isinstance(index := said.get("example"), int):
            opened = self.studio.example(index)
        else:
            photo, face = session.photo(said.get("photo")), said.get("face")
            if face is not None and (isinstance(face, bool) or not isinstance(face, int) or face < 0):
                raise UserError("there is no such face")
            opened = await self._work(session, lambda: self.studio.cut(photo, face))
        return JSONResponse({"open": session.add_opened(opened), "name": opened.name})

    async def load(self, request: Request, session: Session) -> Response:
        path, name = await self._uploaded(request, session)
        try:
            opened = await self._work(session, lambda: self.studio.load(path, name))
        finally:
            path.unlink(missing_ok=True)
        return JSONResponse({"open": session.add_opened(opened), "name": opened.name})

    async def example_picture(self, request: Request, session: Session) -> Response:
        index = request.path_params["index"]
        if index >= len(self.studio.examples):
            raise UserError("there is no such example")
        return _png(self.studio.examples[index])

    async def invert(self, request: Request, session: Session) -> Response:
        said = await _json(request)
        opened, model = session.open(said.get("open")), self._model(said)
        session.progress, session.cancelled = (0, 0), False

        def on_step(step: int, steps: int) -> None:
            session.progress = (step, steps)
            if session.cancelled:
                raise Cancelled

        try:
            numbers = await self._work(session, lambda: self.studio.invert(opened, model, on_step))
        finally:
            session.progress = None
        return JSONResponse({"numbers": numbers})

    async def progress(self, request: Request, session: Session) -> Response:
        step, steps = session.progress or (0, 0)
        return JSONResponse({"step": step, "steps": steps, "waiting": max(0, self.waiting - 1)})

    async def cancel(self, request: Request, session: Session) -> Response:
        session.cancelled = True
        return JSONResponse({})

    async def picture(self, request: Request, session: Session) -> Response:
        said = request.path_params
        opened = session.open(said["open"])
        if said["kind"] != "photo" and said["model"] not in opened.inversions:
            raise UserError("this photo is not inverted yet")
        return _png(self.studio.picture(opened, said["model"], said["kind"]))

    async def edit(self, request: Request, session: Session) -> Response:
        opened, model, moves = await self._asked(request, session)
        (drawn,) = await self._work(session, lambda: self.studio.draw(opened, model, moves))
        return _png(drawn)

    async def take(self, request: Request, session: Session) -> Response:
        said = await _json(request)
        opened, model, moves = self._read(said, session)
        folder = session.folder / "results"
        folder.mkdir(exist_ok=True)
        kind = str(said.get("kind"))
        path = await self._work(session, lambda: self.studio.take(opened, model, moves, kind, folder))
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def command(self, request: Request, session: Session) -> Response:
        return JSONResponse({"command": self.studio.command(*await self._asked(request, session))})

    async def listed(self, request: Request, session: Session) -> Response:
        return JSONResponse(
            [] if self.gallery is None else await anyio.to_thread.run_sync(self.gallery.listed)
        )

    async def gallery_picture(self, request: Request, session: Session) -> Response:
        if self.gallery is None:
            raise UserError("the page was started without --runs")
        path = self.gallery.picture(request.path_params["index"], request.path_params["number"])
        return FileResponse(path, media_type="image/png")

    # Reading -----------------------------------------------------------------------------------------------------

    async def _asked(self, request: Request, session: Session) -> tuple[Any, int, Moves]:
        return self._read(await _json(request), session)

    def _read(self, said: Mapping[str, Any], session: Session) -> tuple[Any, int, Moves]:
        opened, model = session.open(said.get("open")), self._model(said)
        if model not in opened.inversions:
            raise UserError("this photo is not inverted yet")
        return opened, model, Moves.of(said.get("moves", {}), self.studio.directions)

    def _model(self, said: Mapping[str, Any]) -> int:
        model = said.get("model", 0)
        if isinstance(model, bool) or not isinstance(model, int) or not 0 <= model < len(self.studio.models):
            raise UserError("the page asked for a model that there is not: load it again")
        return model

    async def _uploaded(self, request: Request, session: Session) -> tuple[Path, str]:
        """The body of a request in a file of the session, and a name for results that is safe everywhere."""
        path, size = session.folder / secrets.token_urlsafe(9), 0
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
        name = "".join(c for c in stem.removesuffix(Path(stem).suffix) if c.isalnum() or c in "-_ .")[
            :60
        ].strip(" .")
        return path, name.removesuffix(".inversion") or "photo"


async def _json(request: Request) -> Mapping[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > 100_000:
            raise UserError("the page sent too much: load it again")
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError("the page sent something that cannot be read: load it again") from error
    if not isinstance(said, dict):
        raise UserError("the page sent something that cannot be read: load it again")
    return said


def _png(picture: Image.Image) -> Response:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return Response(file.getvalue(), media_type="image/png")


def _sentence(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)


def _without_paths(text: str, session: Session) -> str:
    """A sentence without the temporary names of uploads, which mean nothing to the person."""
    return re.sub(re.escape(str(session.folder)) + r"[/\\][\w./\\-]*", "the file", text)


def run(models: Sequence[str], *, host: str, port: int, password: str | None, runs: Path | None) -> int:
    """Load the models and answer until the person stops it.

    Raises:
        UserError: If a model cannot be loaded, or the port is taken.
    """
    gallery = None if runs is None else Gallery(runs)
    say(f"loading {', '.join(models)}")
    own = ["127.0.0.1", "localhost", "[::1]"]
    hosts = own if host in ("127.0.0.1", "localhost", "::1") else None
    service = Service(Studio(models), hosts=hosts, password=password, gallery=gallery)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
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
    server = uvicorn.Server(settings)
    try:
        server.run(sockets=[taken])
    except KeyboardInterrupt:
        pass
    finally:
        service.sessions.close()
    return 0
