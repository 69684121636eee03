"""Who may come in: host and key are looked at, a place is taken and given back, and nobody stays for ever."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from dragonfly_lit.serving.engine import Engine, FullError, StoppedError
from dragonfly_lit.serving.forms import ApiError

log = logging.getLogger(__name__)

CHAT = "/v1/chat/completions"
OPEN = ("/", "/health")
"""What is answered without a key."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MARGIN = 30.0
"""Seconds beyond those of an answer that reading its request and sending it may take."""
DRAIN_SECONDS = 5.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may take.

    Attributes:
        body: bytes.
        seconds: until its answer has ended.
        body_seconds: until its body is here.
        tokens: of an answer.
        default_tokens: of an answer where the request does not say.
        pixels: of an image.
        images: of a conversation.
    """

    body: int = 20 * 2**20
    seconds: float = 300.0
    body_seconds: float = 30.0
    tokens: int = 2048
    default_tokens: int = 512
    pixels: int = 2**25
    images: int = 16


class Gate:
    """Stands before an application.

    Args:
        app: the application.
        engine: whose places are taken.
        limits: of a request.
        api_key: that a request must bring; None asks for none.
        hosts: names that the server may be called by; None is any. A page of another site, which a browser shows to
            the user of this machine, can reach a server here under a name of its own, but not change the name.
        note: is told the status of every answer to a question.
    """

    def __init__(
        self,
        app: App,
        engine: Engine,
        limits: Limits,
        *,
        api_key: str | None,
        hosts: tuple[str, ...] | None,
        note: Callable[[int], None],
    ) -> None:
        self.app, self.engine, self.limits = app, engine, limits
        self.api_key, self.hosts, self.note = api_key, hosts, note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer it with an error."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        sent: list[int] = []

        async def noting(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                sent.append(message["status"])
            await send(message)

        asks = scope["path"] == CHAT and scope["method"] == "POST"
        try:
            self._check(scope)
            with self.engine.place() if asks else nullcontext():
                await self._hand_on(scope, receive, noting)
        except (ApiError, FullError, StoppedError) as error:
            if not sent:
                await drain(receive, self.limits.body)
                await respond(noting, as_api_error(error))
        finally:
            if asks:
                self.note(sent[0] if sent else 499)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts is not None and _name_of(host) not in self.hosts:
            raise ApiError(
                403,
                f"this server is not called {_name_of(host)[:100]!r}, but {', '.join(self.hosts)}.",
                kind="permission_error",
                code="unknown_host",
            )
        if self.api_key is not None and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.api_key.encode()):
                raise ApiError(
                    401,
                    "an API key is needed, and this is not it. Send it as the header Authorization: Bearer KEY.",
                    kind="authentication_error",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        tickets: list[Any] = []
        scope.setdefault("state", {})["tickets"] = tickets
        try:
            async with asyncio.timeout(self.limits.seconds + self.limits.body_seconds + MARGIN):
                await self.app(scope, receive, send)
        except TimeoutError:
            # A client that reads too slowly; the server closes the connection of an answer without an end.
            raise ApiError(
                504, "the request took too long.", kind="server_error", code="timeout",
                headers={"x-should-retry": "false"},
            ) from None  # fmt: skip
        finally:
            for ticket in tickets:
                ticket.cancel()


def as_api_error(error: Exception) -> ApiError:
    """An error of the engine in OpenAI's form."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, FullError):
        return ApiError(
            429,
            str(error),
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"retry-after": str(error.retry_after)},
        )
    if isinstance(error, StoppedError):
        return ApiError(503, str(error), kind="server_error", code="going_down", headers={"retry-after": "5"})
    return ApiError(500, "the answer failed; the server's log says why.", kind="server_error", code="internal_error")


async def respond(send: Send, error: ApiError) -> None:
    """Send an error."""
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    start = {
        "type": "http.response.start",
        "status": error.status,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def drain(receive: Receive, limit: int) -> None:
    """Read what a client is still sending, so that it hears the answer: a connection closed before is a reset."""
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


def _name_of(host: str) -> str:
    """The name in a Host header, without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
