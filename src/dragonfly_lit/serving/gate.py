"""Who may come in: host and key are looked at, a place is taken and given back, and nobody stays for ever."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse

from dragonfly_lit.serving.bodies import Receive, drain
from dragonfly_lit.serving.engine import Engine
from dragonfly_lit.serving.errors import ApiError, as_api_error
from dragonfly_lit.serving.tickets import FullError, StoppedError, Ticket

log = logging.getLogger(__name__)

CHAT, FILES = "/v1/chat/completions", "/v1/files"
OPEN = ("/", "/health")
"""What is answered without a key."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MARGIN = 30.0
"""Seconds beyond those of an answer that reading its request and sending it may take."""

Scope = MutableMapping[str, Any]
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
        files: that a client may have uploaded at a time.
        file_bytes: that those may have together.
        file_seconds: that one of them is kept.
    """

    body: int = 20 * 2**20
    seconds: float = 300.0
    body_seconds: float = 30.0
    tokens: int = 2048
    default_tokens: int = 512
    pixels: int = 2**25
    images: int = 16
    files: int = 64
    file_bytes: int = 2**28
    file_seconds: float = 3600.0


class Gate:
    """Stands before an application.

    Args:
        app: the application.
        engine: whose places are taken.
        limits: of a request.
        api_keys: one of them must come with a request, and says whose it is; none asks for none.
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
        api_keys: tuple[str, ...],
        hosts: tuple[str, ...] | None,
        note: Callable[[int], None],
    ) -> None:
        self.app, self.engine, self.limits = app, engine, limits
        self.hosts, self.note = hosts, note
        self._keys = [_digest(b"Bearer " + key.encode()) for key in api_keys]

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
        uploads = scope["path"] == FILES and scope["method"] == "POST"
        try:
            self._check(scope)
            # A body may be large: so many are in memory at a time, and no more.
            with self.engine.place() if asks or uploads else nullcontext():
                await self._hand_on(scope, receive, noting, asks=asks)
        except (ApiError, FullError, StoppedError) as error:
            if not sent:
                await drain(receive, self.limits.body)
                known = as_api_error(error)
                await JSONResponse(known.body, known.status, headers=known.headers)(scope, receive, noting)
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
        owner = self._owner(headers.get(b"authorization", b""))
        if owner is None and scope["path"] not in OPEN:
            raise ApiError(
                401,
                "an API key is needed, and this is not it. Send it as the header Authorization: Bearer KEY.",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        if not scope["path"].isprintable():
            # A route would match a path before its line break, and what is looked at here is all of it.
            raise ApiError(404, f"there is nothing at {scope['path'][:100]!r}.")
        scope.setdefault("state", {})["owner"] = owner

    def _owner(self, given: bytes) -> str | None:
        """Whose request it is that brings this key; None is nobody's."""
        if not self._keys:
            return "anybody"
        # All are looked at, whichever it is: how long it takes says nothing.
        same = [hmac.compare_digest(_digest(given), key) for key in self._keys]
        return f"key {same.index(True)}" if any(same) else None

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send, *, asks: bool) -> None:
        tickets: list[Ticket] = []
        if asks:  # only who has a place can hand a question in
            scope["state"]["tickets"] = tickets
        try:
            async with asyncio.timeout(self.limits.seconds + self.limits.body_seconds + MARGIN):
                await self.app(scope, receive, send)
        except TimeoutError:
            # A client that reads too slowly; the server closes the connection of an answer without an end.
            raise ApiError(
                504,
                "the request took too long.",
                kind="server_error",
                code="timeout",
                headers={"x-should-retry": "false"},
            ) from None
        finally:
            for ticket in tickets:
                ticket.cancel()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _name_of(host: str) -> str:
    """The name in a Host header, without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
