"""A web server of files that can be told to stall, to cut, to be busy and to lie."""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from limits import patient


class Served:
    """What a server has, does wrong, and was asked for.

    Attributes:
        files: content by path.
        faults: of the next answers to GET, one after the other: `stall`, `cut`, a status such as `503`.
        lies: of all answers: `whole` (no ranges), `more` and `less` (Content-Length of HEAD), `etags`, `html`.
        asked: how often each path was asked for by GET.
        bytes_sent: in all.
        bytes_left: that are sent before it falls silent, amid an answer; None is without end.
        silent: set when it does.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.faults: deque[str] = deque()
        self.lies: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.bytes_sent = 0
        self.bytes_left: int | None = None
        self.silent = threading.Event()
        self.turn = threading.Lock()
        self.over = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_HEAD(self) -> None:
        served, path = self.server.served, self.path.strip("/")
        if path not in served.files:
            self.send_error(404)
            return
        lie = {"more": 700, "less": -700}
        size = len(self.content(path)) + sum(lie.get(one, 0) for one in served.lies)
        self.head(200, path, size)

    def do_GET(self) -> None:
        served, path = self.server.served, self.path.strip("/")
        served.asked[path] += 1
        if path not in served.files:
            self.send_error(404)
            return
        fault = served.faults.popleft() if served.faults else ""
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Retry-After", "0.1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, start, status, extra = self.content(path), 0, 200, {}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and "whole" not in served.lies:
            start, stop = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
            status, extra = 206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            content = content[start:stop]
        self.head(status, path, len(content), **extra)
        sent = content[: len(content) // 2] if fault in ("stall", "cut") else content
        whole = self.send(sent)
        if fault == "stall" or not whole:
            self.wfile.flush()
            served.over.wait(patient(60))

    def send(self, content: bytes) -> bool:
        """Send what may be sent; whether it is all of it."""
        served = self.server.served
        with served.turn:
            may = len(content) if served.bytes_left is None else min(len(content), served.bytes_left)
            served.bytes_left = None if served.bytes_left is None else served.bytes_left - may
            served.bytes_sent += may
        self.wfile.write(content[:may])
        if may < len(content):
            self.wfile.flush()
            served.silent.set()
        return may == len(content)

    def content(self, path: str) -> bytes:
        return (
            b"<html>Log in, please.</html>" * 50
            if "html" in self.server.served.lies
            else self.server.served.files[path]
        )

    def head(self, status: int, path: str, size: int, **extra: str) -> None:
        served = self.server.served
        tag = str(hash(served.files[path])) + (str(served.bytes_sent) if "etags" in served.lies else "")
        self.send_response(status)
        for name, value in {"Content-Length": str(size), "ETag": f'"{tag}"', "Accept-Ranges": "bytes", **extra}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving() -> Iterator[Served]:
    """A server on this machine."""
    server: Any = Server(("127.0.0.1", 0), Handler)
    served = server.served = Served()
    served.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        served.over.set()
        server.shutdown()
        server.server_close()
