"""The socket, and uvicorn on it: slow clients are sent away, SIGTERM ends what was begun and then the server."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1000
"""At once; more are answered with 503."""


def listen(host: str, port: int) -> socket.socket:
    """A socket of that address.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one.

    Raises:
        ValueError: it is taken, or not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ValueError(f"--host {host} is not a name or an address that is known here: {error.strerror}.") from error
    family, kind, _, _, address = found[0]
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"--host {host} --port {port}: {error.strerror}. Give another port, or 0 for any that is free."
        ) from error
    return listener


class Listener(uvicorn.Server):
    """Serves an application on a socket until a signal ends it.

    Args:
        app: an ASGI application.
        retire: called at the first signal with the seconds that are left to end what was begun.
        drain_seconds: those.
        header_seconds: that the head of a request may take from the beginning of its connection, or from the answer
            before.
    """

    def __init__(
        self, app: Any, *, retire: Callable[[float], None], drain_seconds: float = 30.0, header_seconds: float = 30.0
    ) -> None:
        class Protocol(_Protocol):
            pass

        Protocol.header_seconds = header_seconds
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(drain_seconds) + 2,
        )
        super().__init__(config)
        self._retire, self._drain_seconds = retire, drain_seconds

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal again at the end; here a server that was asked to end has done its work."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self.handle_exit) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets what was begun end, the second one does not wait."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._retire(0.0 if self.force_exit else self._drain_seconds)


class _Protocol(H11Protocol):
    """Uvicorn's, which waits without end for the rest of a request's head."""

    header_seconds = 30.0
    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._unwatch()
        if not self.transport.is_closing():
            self._slow = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _unwatch(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
