"""The web side of the editor: a page of our own, and requests that answer with pictures.

Safe by default: this machine only, requests of other sites are refused, nothing is loaded from elsewhere, uploads are
bounded and read by our own reader, and no name or path from the browser is ever opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from hyperinverter.commands.serve.gallery import Gallery
from hyperinverter.commands.serve.moves import Moves
from hyperinverter.commands.serve.session import Cancelled, Search, Session, Sessions
from hyperinverter.commands.serve.studio import Studio, centre_box
from hyperinverter.commands.serve.web import Guard, png, said_in, sentence, uploaded, whole, without_paths
from hyperinverter.contracts import UserError

COOKIE = "hyperinverter_editor"
MOST_WAITING = 16  # requests for the models
MOST_SEARCHES = 6  # slow inversions that wait or run
PAGE = {
    "index.html": "text/html",
    "editor.css": "text/css",
    "editor.js": "text/javascript",
    "gallery.js": "text/javascript",
}
_log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[Request, Session], Awaitable[Response]]


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
        self.studio, self.gallery = studio, gallery
        self.sessions = Sessions()
        self.waiting = 0
        self._searches: list[Search] = []  # the first one runs
        self._turn: anyio.Lock | None = None
        post, get = ["POST"], ["GET"]
        page = [Route("/" if n == "index.html" else f"/{n}", self._page(n), methods=get) for n in PAGE]
        routes: list[tuple[str, Handler, list[str]]] = [
            ("/api/about", self.about, get),
            ("/api/photo", self.photo, post),
            ("/api/preview/{photo}", self.preview, get),
            ("/api/open", self.open, post),
            ("/api/load", self.load, post),
            ("/api/leave", self.leave, post),
            ("/api/example/{index:int}", self.example_picture, get),
            ("/api/invert", self.invert, post),
            ("/api/progress", self.progress, get),
            ("/api/cancel", self.cancel, post),
            ("/api/picture/{open}/{model:int}/{kind}", self.picture, get),
            ("/api/edit", self.edit, post),
            ("/api/take", self.take, post),
            ("/api/command", self.command, post),
            ("/api/gallery", self.listed, get),
            ("/api/gallery/{index:int}/photos", self.gallery_ranked, get),
            ("/api/gallery/{index:int}/photos/{place:int}", self.gallery_photo, get),
            ("/api/gallery/{index:int}/{number:int}", self.gallery_picture, get),
        ]
        bound = [
            Route(path, self._with_session(handler), methods=methods) for path, handler, methods in routes
        ]
        self.app = Starlette(routes=[*page, *bound], lifespan=self._life)
        self.app.add_middleware(Guard, hosts=hosts, password=password)

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.sessions.close()

    # Around every request -------------------------------------------------------------------------------------

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
                response = sentence(without_paths(str(error), session.folder), 400)
            except Cancelled:
                response = sentence("stopped", 409)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception:
                _log.exception("a request of the editor failed")
                response = sentence("something went wrong here; the terminal says what", 500)
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

    async def _search(
        self, request: Request, session: Session, key: tuple[str, int], function: Callable[[Search], T]
    ) -> T:
        """Run a search in a thread next to all other work, one search at a time, in order; stop it if nobody waits."""
        if len(self._searches) >= MOST_SEARCHES:
            raise UserError(f"{len(self._searches)} searches are waiting already: try again in a moment")
        search = Search()
        session.searches[key] = search
        self._searches.append(search)
        watcher = asyncio.create_task(_cancelled_when_left(request, search))
        try:
            while self._searches[0] is not search:
                search.go_on()
                await asyncio.sleep(0.1)
            search.go_on()
            return await anyio.to_thread.run_sync(lambda: function(search))
        finally:
            watcher.cancel()
            self._searches.remove(search)
            session.searches.pop(key, None)

    def stop_searches(self) -> None:
        """End all searches at their next step: the server stops."""
        for search in self._searches:
            search.cancelled = True

    # Requests ----------------------------------------------------------------------------------------------------

    async def about(self, request: Request, session: Session) -> Response:
        known = {**self.studio.about(), "gallery": self.gallery is not None}
        return JSONResponse(known)

    async def photo(self, request: Request, session: Session) -> Response:
        """An upload: its faces."""
        path, name = await uploaded(request, session.folder)
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
        return png(session.photo(request.path_params["photo"]).preview)

    async def open(self, request: Request, session: Session) -> Response:
        """A face of an upload, its centre, an example, or a photo of the gallery: an opened photo."""
        said = await said_in(request)
        if "example" in said:
            opened = self.studio.example(whole(said["example"]))
        elif "gallery" in said:
            folder, place = (whole(said.get(word)) for word in ("gallery", "place"))
            name, picture = await anyio.to_thread.run_sync(lambda: self._shown().photo(folder, place))
            opened = self.studio.kept(name, picture)
        else:
            photo, face = session.photo(said.get("photo")), said.get("face")
            if face is not None and (isinstance(face, bool) or not isinstance(face, int) or face < 0):
                raise UserError("there is no such face")
            opened = await self._work(session, lambda: self.studio.cut(photo, face))
        return JSONResponse({"open": session.add_opened(opened), "name": opened.name})

    async def load(self, request: Request, session: Session) -> Response:
        path, name = await uploaded(request, session.folder)
        try:
            opened = await self._work(session, lambda: self.studio.load(path, name))
        finally:
            path.unlink(missing_ok=True)
        (model,) = opened.inversions
        return JSONResponse({"open": session.add_opened(opened), "name": opened.name, "model": model})

    async def leave(self, request: Request, session: Session) -> Response:
        """The page shows other photos now, or none: those it names are forgotten."""
        said = await said_in(request)
        photos, opened = said.get("photos", []), said.get("open", [])
        if not all(
            isinstance(each, list) and all(isinstance(key, str) for key in each) for each in (photos, opened)
        ):
            raise UserError("the page sent something that cannot be read: load it again")
        session.release(photos, opened)
        return JSONResponse({})

    async def example_picture(self, request: Request, session: Session) -> Response:
        index = request.path_params["index"]
        if index >= len(self.studio.examples):
            raise UserError("there is no such example")
        return png(self.studio.examples[index])

    async def invert(self, request: Request, session: Session) -> Response:
        said = await said_in(request)
        key, model = said.get("open"), self._model(said)
        opened = session.open(key)
        if self.studio.is_slow(model) and model not in opened.inversions:
            numbers = await self._search(
                request, session, (str(key), model), lambda search: self.studio.invert(opened, model, search)
            )
        else:
            numbers = await self._work(session, lambda: self.studio.invert(opened, model))
        self.sessions.bound()
        return JSONResponse({"numbers": numbers})

    async def progress(self, request: Request, session: Session) -> Response:
        """Of a search: its steps, and how many come before it."""
        asked = request.query_params
        search = session.searches.get((asked.get("open", ""), whole(asked.get("model", "0"))))
        if search is None:
            return JSONResponse({"step": 0, "steps": 0, "waiting": 0})
        place = self._searches.index(search)
        return JSONResponse({"step": search.step, "steps": search.steps, "waiting": place})

    async def cancel(self, request: Request, session: Session) -> Response:
        said = await said_in(request)
        search = session.searches.get((str(said.get("open")), self._model(said)))
        if search is not None:
            search.cancelled = True
        return JSONResponse({})

    async def picture(self, request: Request, session: Session) -> Response:
        said = request.path_params
        opened = session.open(said["open"])
        if said["kind"] != "photo" and said["model"] not in opened.inversions:
            raise UserError("this photo is not inverted yet")
        return png(self.studio.picture(opened, said["model"], said["kind"]))

    async def edit(self, request: Request, session: Session) -> Response:
        opened, model, moves = await self._asked(request, session)
        (drawn,) = await self._work(session, lambda: self.studio.draw(opened, model, moves))
        return png(drawn)

    async def take(self, request: Request, session: Session) -> Response:
        said = await said_in(request)
        opened, model, moves = self._read(said, session)
        folder = Path(tempfile.mkdtemp(dir=session.folder))
        gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        kind = str(said.get("kind"))
        try:
            path = await self._work(session, lambda: self.studio.take(opened, model, moves, kind, folder))
        except BaseException:
            await gone()
            raise
        return FileResponse(path, filename=path.name, media_type="application/octet-stream", background=gone)

    async def command(self, request: Request, session: Session) -> Response:
        return JSONResponse({"command": self.studio.command(*await self._asked(request, session))})

    async def listed(self, request: Request, session: Session) -> Response:
        return JSONResponse(
            [] if self.gallery is None else await anyio.to_thread.run_sync(self.gallery.listed)
        )

    async def gallery_picture(self, request: Request, session: Session) -> Response:
        path = self._shown().picture(request.path_params["index"], request.path_params["number"])
        return FileResponse(path, media_type="image/png")

    async def gallery_ranked(self, request: Request, session: Session) -> Response:
        """Photos of a folder, the worst first by a number of a model."""
        index, asked = request.path_params["index"], request.query_params
        model, number = (whole(asked.get(word, "0")) for word in ("model", "number"))
        return JSONResponse(
            await anyio.to_thread.run_sync(lambda: self._shown().ranked(index, model, number))
        )

    async def gallery_photo(self, request: Request, session: Session) -> Response:
        """A photo of a folder, or what a model drew of it."""
        said = request.path_params
        model = whole(request.query_params["model"]) if "model" in request.query_params else None
        _, picture = await anyio.to_thread.run_sync(
            lambda: self._shown().photo(said["index"], said["place"], model)
        )
        return png(picture)

    def _shown(self) -> Gallery:
        if self.gallery is None:
            raise UserError("the page was started without --runs")
        return self.gallery

    # Reading -----------------------------------------------------------------------------------------------------

    async def _asked(self, request: Request, session: Session) -> tuple[Any, int, Moves]:
        return self._read(await said_in(request), session)

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


async def _cancelled_when_left(request: Request, search: Search) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.5)
    search.cancelled = True
