"""Bodies of requests: read within a size and a time, or read and thrown away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import Request

from dragonfly_lit.serving.errors import ApiError

DRAIN_SECONDS = 5.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def kind_of(request: Request) -> str:
    """The kind of a body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, *, max_bytes: int, seconds: float) -> bytes:
    """The body of a request.

    Args:
        request: whose body nobody has read.
        max_bytes: of it.
        seconds: until it is here.

    Raises:
        ApiError: it is larger, or slower.
        ClientDisconnect: the client has gone.
    """
    too_large = ApiError(413, f"the body is larger than {max_bytes} bytes. Send smaller images.", code="body_too_large")
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said[:20]) > max_bytes:
        await drain(request.receive, max_bytes)
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body took longer than {seconds:g} s.", code="timeout") from None
    return b"".join(parts)


async def drain(receive: Receive, limit: int) -> None:
    """Read what a client is still sending, so that it hears the answer: a connection closed before is a reset.

    Args:
        receive: of the request.
        limit: bytes that are read at most.
    """
    seen = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while seen <= limit:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                seen += len(message.get("body", b""))
    except TimeoutError:
        return
