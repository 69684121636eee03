"""A hub on this machine: what huggingface_hub asks while it uploads a folder, and the files that it then holds."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class FakeHub(BaseHTTPRequestHandler):
    """One request; what is kept lies at the server's `hub`."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server.hub
        hub["tokens"].add(self.headers.get("Authorization"))
        if hub["refuses"]:
            self.answer({"error": hub["refuses"]}, 403)
        elif self.path == "/api/repos/create":
            hub["created"].append(json.loads(body))
            self.answer({"url": f"{self.url}/me/model", "name": "me/model"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": mode_of(path), "shouldIgnore": False} for path in paths]
            self.answer({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                self.keep(line["key"], line["value"])
            oid = "0" * 40
            self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.url}/me/model/commit/{oid}"})
        else:
            self.answer({"error": f"no {self.path}"}, 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.hub["large"][hashlib.sha256(body).hexdigest()] = body
        self.answer({})

    def keep(self, key: str, value: dict) -> None:
        hub = self.server.hub
        if key == "header":
            hub["commits"].append(value["summary"])
        elif key == "file":
            hub["files"][value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            hub["files"][value["path"]] = hub["large"][value["oid"]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, what: dict, status: int = 200) -> None:
        said = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def mode_of(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def fake_hub(refuses: str = "") -> Iterator[tuple[str, dict]]:
    """Its address, and what it holds: created, commits, files, tokens."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.hub = {"created": [], "commits": [], "files": {}, "large": {}, "tokens": set(), "refuses": refuses}
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
