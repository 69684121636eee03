"""The HTTP side: routes, bodies, streams."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dragonfly_lit.io.data_url import decode_data_url, is_data_url
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving import engine as engines
from dragonfly_lit.serving import page
from dragonfly_lit.serving.engine import Done, Engine, Event, Failed, LateError, Piece, StoppedError
from dragonfly_lit.serving.forms import Answers, ApiError, ChatRequest, conversation, parse
from dragonfly_lit.serving.gate import CHAT, Gate, Limits, as_api_error, drain
from dragonfly_lit.serving.metrics import Metrics
from dragonfly_lit.serving.prompts import Prompt, Prompts, TooLongError
from dragonfly_lit.serving.zooms import changed
from dragonfly_lit.spec.layout import Layout

PREPARING = 2
"""Threads that decode and cut images beside the one that computes."""
NOT_FETCHED = "Send the image itself, as data:image/png;base64,DATA."


class _GoneError(Exception):
    """The client has closed the connection."""


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
        self.engine, self.name, self.limits, self.fetch = engine, name, limits, fetch
        self.created = int(time.time())
        self.tokenizer, self.layout = processor.tokenizer, processor.layout
        self.fixed_zoom = engine.fixed_zoom
        self.metrics = Metrics(engine)
        self.prompts = Prompts(
            processor,
            engine.prefixes.get,
            max_pixels=limits.pixels,
            max_tokens=engine.context - 1,
            max_images=limits.images,
        )
        self._pool = ThreadPoolExecutor(PREPARING, thread_name_prefix="dragonfly-prepare")

    def application(self, *, api_key: str | None = None, hosts: tuple[str, ...] | None = None) -> Gate:
        """The ASGI application.

        Args:
            api_key: that a request must bring; None asks for none.
            hosts: names that the server may be called by; None is any.
        """

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            self.engine.start()
            try:
                yield
            finally:
                await asyncio.to_thread(self.engine.stop)
                self._pool.shutdown(wait=False, cancel_futures=True)

        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
        app.add_api_route("/", self.page, methods=["GET"])
        app.add_api_route(CHAT, self.chat, methods=["POST"])
        app.add_api_route("/v1/models", self.models, methods=["GET"])
        app.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"])
        app.add_api_route("/health", self.health, methods=["GET"])
        app.add_api_route("/metrics", self.numbers, methods=["GET"])
        app.add_exception_handler(ApiError, _api_error)
        app.add_exception_handler(HTTPException, _http_error)
        app.add_exception_handler(StoppedError, _any_error)
        app.add_exception_handler(Exception, _any_error)
        return Gate(
            app,
            self.engine,
            self.limits,
            api_key=api_key,
            hosts=hosts,
            note=lambda status: self.metrics.requests.labels(str(status)).inc(),
        )

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
        self._check_name(name)
        return JSONResponse(self._model())

    async def chat(self, request: Request) -> Response:
        """An answer, or several, to a conversation."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A page of another site may send texts and forms without being asked whether it may; not JSON.
            raise ApiError(415, "the body must be JSON: send Content-Type: application/json.")
        try:
            body = await self._body(request)
        except ClientDisconnect:
            return Response(status_code=499)
        loop = asyncio.get_running_loop()
        start = time.monotonic()
        asked, prompt = await loop.run_in_executor(self._pool, self._prepare, body)
        del body
        prepared = time.monotonic() - start
        mailbox: asyncio.Queue[list[Event]] = asyncio.Queue()

        def listen(events: list[Event]) -> None:
            loop.call_soon_threadsafe(mailbox.put_nowait, events)

        wanted = asked.max_completion_tokens or asked.max_tokens
        most = min(self.limits.tokens, self.engine.context - len(prompt))
        question = engines.Request(
            prompt=prompt,
            listener=listen,
            sampling=asked.sampling,
            max_tokens=min(self.limits.default_tokens, most) if wanted is None else wanted,
            num=asked.n or 1,
            stops=asked.stops,
            seconds=self.limits.seconds,
            stream=bool(asked.stream),
        )
        if wanted is not None and wanted > self.limits.tokens:
            raise ApiError(
                400, f"max_tokens={wanted} is more than the {self.limits.tokens} that are given.", param="max_tokens"
            )
        try:
            ticket = self.engine.submit(question)
        except ValueError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from error
        request.state.tickets.append(ticket)
        answers = Answers(
            asked,
            model=self.name,
            prompt_tokens=len(prompt),
            tokenizer=self.tokenizer,
            identity=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            prepared=prepared,
            image_tokens=_image_tokens(replace(self.layout, zoom=prompt.zoom)),
        )
        try:
            if asked.stream:
                first = await _unless_gone(request, mailbox.get())
                _raise_failure(first)
                return StreamingResponse(
                    self._stream(answers, first, mailbox),
                    media_type="text/event-stream",
                    headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
                )
            events = await _unless_gone(request, mailbox.get())  # all of them come at once
        except _GoneError:
            return Response(status_code=499)
        _raise_failure(events)
        done = events[-1]
        assert isinstance(done, Done)
        self.metrics.note(done)
        return JSONResponse(answers.whole([event for event in events if isinstance(event, Piece)], done))

    # Steps ------------------------------------------------------------------------------------------------------------

    async def _body(self, request: Request) -> bytes:
        too_large = ApiError(
            413, f"the body is larger than {self.limits.body} bytes. Send smaller images.", code="body_too_large"
        )
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said[:20]) > self.limits.body:
            await drain(request.receive, self.limits.body)
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > self.limits.body:
                        raise too_large
                    parts.append(part)
        except TimeoutError:
            raise ApiError(408, f"the body took longer than {self.limits.body_seconds:g} s.", code="timeout") from None
        return b"".join(parts)

    def _prepare(self, body: bytes) -> tuple[ChatRequest, Prompt]:
        asked = parse(body)
        self._check_name(asked.model)
        try:
            zoom = changed(self.layout.zoom, asked.zoom_changes, fixed=self.fixed_zoom)
            return asked, self.prompts.make(conversation(asked, self._file_at), zoom)
        except TooLongError as error:
            raise ApiError(400, str(error), code="context_length_exceeded", param="messages") from error
        except ValueError as error:
            raise ApiError(400, " ".join(str(error).split())[:500], param="messages") from error

    def _file_at(self, address: str) -> bytes:
        if is_data_url(address):
            return decode_data_url(address)
        if address.lower().startswith(("http://", "https://")) and self.fetch is not None:
            return self.fetch(address)
        raise ValueError(f"the image {address[:60]!r} is not a data: URL, and nothing is fetched. {NOT_FETCHED}")

    async def _stream(
        self, answers: Answers, events: list[Event], mailbox: asyncio.Queue[list[Event]]
    ) -> AsyncIterator[bytes]:
        for chunk in answers.opening():
            yield _event(chunk)
        while True:
            lines = []
            for event in events:
                if isinstance(event, Piece):
                    lines.append(_event(answers.chunk(event)))
                elif isinstance(event, Done):
                    self.metrics.note(event)
                    lines += [_event(chunk) for chunk in answers.closing(event)]
                    lines.append(b"data: [DONE]\n\n")
                else:
                    lines.append(_event(_of_failure(event.error).body))
            yield b"".join(lines)
            if isinstance(events[-1], Done | Failed):
                return
            events = await mailbox.get()

    def _check_name(self, name: str) -> None:
        if name != self.name:
            raise ApiError(
                404, f"the model {name[:100]!r} is not here. Use {self.name!r}.", code="model_not_found", param="model"
            )

    def _model(self) -> dict[str, Any]:
        known = {"id": self.name, "object": "model", "created": self.created, "owned_by": "dragonfly_lit"}
        return known | {"zoom": asdict(self.layout.zoom), "zoom_is_fixed": self.fixed_zoom}


def _image_tokens(layout: Layout) -> dict[str, int]:
    """Tokens of an image at each level, the newline of each crop among them."""
    zoom, pooled = layout.zoom, layout.pooled_per_crop + 1
    return {
        "low": (layout.features_per_crop + 1) * zoom.low,
        "medium": pooled * zoom.num_medium,
        "high": pooled * zoom.num_high_kept,
    }


async def _unless_gone(request: Request, wanted: Any) -> Any:
    """What `wanted` gives, unless the client goes away before."""
    getting, leaving = asyncio.ensure_future(wanted), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({getting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        raise _GoneError
    finally:
        for task in (getting, leaving):
            task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _raise_failure(events: list[Event]) -> None:
    if isinstance(events[-1], Failed):
        raise _of_failure(events[-1].error)


def _of_failure(error: Exception) -> ApiError:
    if isinstance(error, LateError):
        # A client that tries again by itself would wait as long again.
        return ApiError(504, str(error), kind="server_error", code="timeout", headers={"x-should-retry": "false"})
    return as_api_error(error)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = f"POST {CHAT}, GET /, /v1/models, /health, /metrics"
    message = f"{request.method} {request.url.path[:100]}: {error.detail}. There are {known}."
    return JSONResponse(ApiError(error.status_code, message).body, error.status_code, headers=error.headers)


async def _any_error(_: Request, error: Exception) -> Response:
    known = as_api_error(error)
    return JSONResponse(known.body, known.status, headers=known.headers)
