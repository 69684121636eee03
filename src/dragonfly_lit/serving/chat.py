"""`/v1/chat/completions`: from a body to an answer, at once or as a stream."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from dragonfly_lit.io.data_url import decode_data_url, is_data_url
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving import tickets
from dragonfly_lit.serving.answers import Answers
from dragonfly_lit.serving.engine import Engine
from dragonfly_lit.serving.errors import ApiError, as_api_error
from dragonfly_lit.serving.files import Files, NoFileError
from dragonfly_lit.serving.forms import ChatRequest, conversation, is_web_address, parse
from dragonfly_lit.serving.gate import Limits
from dragonfly_lit.serving.metrics import Metrics
from dragonfly_lit.serving.prompts import Message, Prompt, Prompts, TooLongError
from dragonfly_lit.serving.tickets import Done, Event, Failed, Piece
from dragonfly_lit.serving.zooms import changed

FETCHING = 4
"""Threads that wait for other hosts; those that decode do not wait with them."""
NOT_FETCHED = "Send the image itself, as data:image/png;base64,DATA."

Mailbox = asyncio.Queue[list[Event]]


class _GoneError(Exception):
    """The client has closed the connection."""


class Chat:
    """Answers conversations.

    Args:
        engine: answers.
        processor: of its model.
        name: of the model, as clients say it.
        limits: of a request.
        metrics: are told of every answer.
        files: that were uploaded.
        fetch: gives the file at an address of the web; None fetches nothing.
        pool: threads that decode and cut images.
    """

    def __init__(
        self,
        engine: Engine,
        processor: DragonflyProcessor,
        *,
        name: str,
        limits: Limits,
        metrics: Metrics,
        files: Files,
        fetch: Callable[[str], bytes] | None,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.engine, self.name, self.limits, self.metrics = engine, name, limits, metrics
        self.files, self.fetch = files, fetch
        self.tokenizer, self.layout = processor.tokenizer, processor.layout
        self.prompts = Prompts(
            processor,
            engine.prefixes.get,
            max_pixels=limits.pixels,
            max_tokens=engine.context - 1,
            max_images=limits.images,
        )
        self._pool, self._fetching = pool, ThreadPoolExecutor(FETCHING, thread_name_prefix="dragonfly-fetch")

    def close(self) -> None:
        """Fetch nothing more."""
        self._fetching.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request, body: bytes) -> Response:
        """An answer, or several, to the conversation that a body is."""
        start = time.monotonic()
        asked, prompt = await self._prepare(body, request.state.owner)
        del body  # megabytes, and an answer may take minutes
        prepared = time.monotonic() - start
        mailbox: Mailbox = asyncio.Queue()
        request.state.tickets.append(self._submit(asked, prompt, mailbox))
        answers = Answers(
            asked,
            model=self.name,
            prompt_tokens=len(prompt),
            tokenizer=self.tokenizer,
            identity=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            prepared=prepared,
            image_tokens=replace(self.layout, zoom=prompt.zoom).tokens_by_level,
        )
        del prompt  # the engine lets its crops go when it has seen them
        try:
            events = await _unless_gone(request, mailbox.get())  # all of them at once, unless it is a stream
        except _GoneError:
            return Response(status_code=499)
        if isinstance(events[-1], Failed):
            raise as_api_error(events[-1].error)
        if asked.stream:
            return StreamingResponse(
                self._stream(answers, events, mailbox),
                media_type="text/event-stream",
                headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
            )
        done = events[-1]
        assert isinstance(done, Done)
        self.metrics.note(done)
        return JSONResponse(answers.whole([event for event in events if isinstance(event, Piece)], done))

    def check_name(self, name: str) -> None:
        """ApiError where a client means another model."""
        if name != self.name:
            raise ApiError(
                404, f"the model {name[:100]!r} is not here. Use {self.name!r}.", code="model_not_found", param="model"
            )

    # Steps ------------------------------------------------------------------------------------------------------------

    async def _prepare(self, body: bytes, owner: str) -> tuple[ChatRequest, Prompt]:
        loop = asyncio.get_running_loop()
        asked = await loop.run_in_executor(self._pool, parse, body)
        del body
        self.check_name(asked.model)
        waits = self.fetch is not None and asked.has_addresses
        told = await loop.run_in_executor(self._fetching if waits else self._pool, self._told, asked, owner)
        asked = asked.without_messages()
        return asked, await loop.run_in_executor(self._pool, self._prompt, asked, told)

    def _told(self, asked: ChatRequest, owner: str) -> list[Message]:
        def file_of(file_id: str) -> bytes:
            return self.files.get(owner, file_id).upload.data

        try:
            return conversation(asked, file_at=self._file_at, file_of=file_of)
        except (ValueError, NoFileError) as error:
            raise _of_messages(error) from error

    def _file_at(self, address: str) -> bytes:
        if is_data_url(address):
            return decode_data_url(address)
        if is_web_address(address) and self.fetch is not None:
            return self.fetch(address)
        raise ValueError(f"the image {address[:60]!r} is not a data: URL, and nothing is fetched. {NOT_FETCHED}")

    def _prompt(self, asked: ChatRequest, told: list[Message]) -> Prompt:
        try:
            return self.prompts.make(told, changed(self.layout.zoom, asked.zoom_changes, fixed=self.engine.fixed_zoom))
        except TooLongError as error:
            raise ApiError(400, str(error), code="context_length_exceeded", param="messages") from error
        except ValueError as error:
            raise _of_messages(error) from error

    def _submit(self, asked: ChatRequest, prompt: Prompt, mailbox: Mailbox) -> tickets.Ticket:
        """Hand a question to the engine, whose events come into the mailbox."""
        wanted, num = asked.max_completion_tokens or asked.max_tokens, asked.n or 1
        if wanted is not None and wanted > self.limits.tokens:
            raise ApiError(
                400, f"max_tokens={wanted} is more than the {self.limits.tokens} that are given.", param="max_tokens"
            )
        if num > self.engine.max_rows:
            raise ApiError(
                400, f"n={num} answers are more than the {self.engine.max_rows} that are given at once.", param="n"
            )
        loop = asyncio.get_running_loop()

        def listen(events: list[Event]) -> None:
            loop.call_soon_threadsafe(mailbox.put_nowait, events)

        most = min(self.limits.tokens, self.engine.context - len(prompt))
        question = tickets.Request(
            prompt=prompt,
            listener=listen,
            sampling=asked.sampling,
            max_tokens=min(self.limits.default_tokens, most) if wanted is None else wanted,
            num=num,
            stops=asked.stops,
            seconds=self.limits.seconds,
            stream=bool(asked.stream),
        )
        try:
            return self.engine.submit(question)
        except ValueError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from error

    async def _stream(self, answers: Answers, events: list[Event], mailbox: Mailbox) -> AsyncIterator[bytes]:
        for chunk in answers.opening():
            yield _line(chunk)
        while True:
            lines = []
            for event in events:
                if isinstance(event, Piece):
                    lines.append(_line(answers.chunk(event)))
                elif isinstance(event, Done):
                    self.metrics.note(event)
                    lines += [_line(chunk) for chunk in answers.closing(event)]
                    lines.append(b"data: [DONE]\n\n")
                else:
                    lines.append(_line(as_api_error(event.error).body))
            yield b"".join(lines)
            if isinstance(events[-1], Done | Failed):
                return
            events = await mailbox.get()


def _of_messages(error: Exception) -> ApiError:
    return ApiError(400, " ".join(str(error).split())[:500], param="messages")


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


def _line(content: dict[str, Any]) -> bytes:
    """An event of a stream."""
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n".encode()
