"""The HTTP side: which route is answered by whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving import page
from dragonfly_lit.serving.bodies import kind_of, read_body
from dragonfly_lit.serving.chat import Chat
from dragonfly_lit.serving.engine import Engine
from dragonfly_lit.serving.errors import ApiError, as_api_error
from dragonfly_lit.serving.file_routes import FileRoutes, check_form
from dragonfly_lit.serving.files import Files, FilesFullError, NoFileError
from dragonfly_lit.serving.gate import CHAT, FILES, Gate, Limits
from dragonfly_lit.serving.metrics import Metrics
from dragonfly_lit.serving.tickets import StoppedError

PREPARING = 2
"""Threads that decode and cut images beside the one that computes."""
SWEEP_SECONDS = 30.0


class Server:
    """What answers the routes.

    Args:
        engine: answers.
        processor: of its model.
        name: of the model, as clients say it.
        limits: of a request.
        fetch: gives the file at an address of the web; None fetches nothing.
    """

    def __init__(
        self,
        engine: Engine,
        processor: DragonflyProcessor,
        *,
        name: str,
        limits: Limits,
        fetch: Callable[[str], bytes] | None = None,
    ) -> None:
        self.engine, self.name, self.limits, self.layout = engine, name, limits, processor.layout
        self.created = int(time.time())
        self.metrics = Metrics(engine)
        self.files = Files(max_files=limits.files, max_bytes=limits.file_bytes, seconds=limits.file_seconds)
        self._pool = ThreadPoolExecutor(PREPARING, thread_name_prefix="dragonfly-prepare")
        self._chat = Chat(
            engine,
            processor,
            name=name,
            limits=limits,
            metrics=self.metrics,
            files=self.files,
            fetch=fetch,
            pool=self._pool,
        )
        self._of_files = FileRoutes(self.files, max_pixels=limits.pixels, pool=self._pool)

    def application(self, *, api_keys: tuple[str, ...] = (), hosts: tuple[str, ...] | None = None) -> Gate:
        """The ASGI application.

        Args:
            api_keys: one of them must come with a request; none asks for none.
            hosts: names that the server may be called by; None is any.
        """
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=self._lifespan)
        files, one = self._of_files, f"{FILES}/{{file_id}}"
        for method, path, answers in (
            ("GET", "/", self.page),
            ("POST", CHAT, self.chat),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{name:path}", self.model),
            ("POST", FILES, self.upload),
            ("GET", FILES, files.listing),
            ("GET", one, files.file),
            ("GET", f"{one}/content", files.content),
            ("DELETE", one, files.delete),
            ("GET", "/health", self.health),
            ("GET", "/metrics", self.numbers),
        ):
            app.add_api_route(path, answers, methods=[method])
        for known in (ApiError, NoFileError, FilesFullError, StoppedError, Exception):
            app.add_exception_handler(known, _error)
        app.add_exception_handler(HTTPException, _http_error)
        return Gate(
            app,
            self.engine,
            self.limits,
            api_keys=api_keys,
            hosts=hosts,
            note=lambda status: self.metrics.requests.labels(str(status)).inc(),
        )

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.engine.start()
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.to_thread(self.engine.stop)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._chat.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.files.forget_old()

    # Routes -----------------------------------------------------------------------------------------------------------

    async def page(self) -> Response:
        """The page to ask on."""
        return Response(page.page(), media_type="text/html; charset=utf-8", headers=page.headers())

    async def health(self) -> Response:
        """Whether questions are answered."""
        alive = self.engine.alive
        return JSONResponse({"status": "ok" if alive else "going down"}, status_code=200 if alive else 503)

    async def numbers(self) -> Response:
        """What a Prometheus server asks for."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def models(self) -> Response:
        """The one model that is here."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, name: str) -> Response:
        """The same by its name."""
        self._chat.check_name(name)
        return JSONResponse(self._model())

    async def chat(self, request: Request) -> Response:
        """An answer, or several, to a conversation."""
        if kind_of(request) != "application/json":
            # A page of another site may send texts and forms without being asked whether it may; not JSON.
            raise ApiError(415, "the body must be JSON: send Content-Type: application/json.")
        return await self._with_body(request, self._chat.answer)

    async def upload(self, request: Request) -> Response:
        """Keep an image for questions about it."""
        check_form(request)
        return await self._with_body(request, self._of_files.upload)

    async def _with_body(self, request: Request, answer: Callable[[Request, bytes], Any]) -> Response:
        limits = self.limits
        try:
            return await answer(request, await read_body(request, max_bytes=limits.body, seconds=limits.body_seconds))
        except ClientDisconnect:
            return Response(status_code=499)

    def _model(self) -> dict[str, Any]:
        known = {"id": self.name, "object": "model", "created": self.created, "owned_by": "dragonfly_lit"}
        return known | {"zoom": asdict(self.layout.zoom), "zoom_is_fixed": self.engine.fixed_zoom}


async def _error(_: Request, error: Exception) -> Response:
    known = as_api_error(error)
    return JSONResponse(known.body, known.status, headers=known.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = f"POST {CHAT}, POST {FILES}, GET /, /v1/models, {FILES}, /health, /metrics"
    message = f"{request.method} {request.url.path[:100]}: {error.detail}. There are {known}."
    return JSONResponse(ApiError(error.status_code, message).body, error.status_code, headers=error.headers)
