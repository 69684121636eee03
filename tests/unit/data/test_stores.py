"""A bucket of S3 and a data set of the hub, both on this machine: listed, indexed, read."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from small_shards import make_record, write_shards

from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.source_spec import SourceSpec

COMMIT = "c" * 40


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    records = [make_record(n, "far") for n in range(20)]
    return write_shards(tmp_path_factory.mktemp("local") / "shards", records, maxcount=5)


def opened(path: str, cache: Path):
    return open_source(SourceSpec(name="far", path=path), "data.train.sources.far", cache_dir=str(cache))


def same(shards, local: Path) -> bool:
    here = open_dataset(local)
    return shards.digest == here.digest and [shards.record(n, 0) for n in range(20)] == [here[n] for n in range(20)]


@pytest.fixture(scope="module")
def bucket(local):
    """A bucket with the shards, by moto."""
    s3fs, boto3 = pytest.importorskip("s3fs"), pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            environment.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        client = boto3.client("s3")
        client.create_bucket(Bucket="samples")
        for file in local.glob("*.tar"):
            client.put_object(Bucket="samples", Key=f"shards/{file.name}", Body=file.read_bytes())
        yield client
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize(
    "path", ["s3://samples/shards/", "s3://samples/shards/*.tar", "s3://samples/shards/000{0..3}.tar"]
)
def test_a_bucket_is_read(bucket, local, tmp_path, path):
    assert same(opened(path, tmp_path), local)


def test_a_shard_of_a_bucket_that_changed_is_indexed_anew(bucket, local, tmp_path):
    before = opened("s3://samples/shards", tmp_path).digest
    bucket.put_object(Bucket="samples", Key="shards/0003.tar", Body=(local / "0002.tar").read_bytes())
    after = opened("s3://samples/shards", tmp_path)
    assert after.digest != before
    assert after.record(19, 0).key == "far-00014"


@pytest.mark.parametrize("path", ["s3://samples/none/", "s3://nowhere/shards", "s3://samples/{0..1}.tar"])
def test_what_is_not_in_a_bucket_is_one_line(bucket, tmp_path, path):
    with pytest.raises(ValueError, match=re.escape(f"data.train.sources.far.path={path}: ")) as caught:
        opened(path, tmp_path)
    assert "\n" not in str(caught.value)


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of a data set: its commit, a folder's files, and their bytes."""

    server: Any

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        files, commit = self.server.files, self.server.commit
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if re.fullmatch(r"/api/datasets/me/set(/revision/\w+)?", path):
            self.answer({"id": "me/set", "sha": commit, "siblings": []})
        elif found := re.fullmatch(r"/api/datasets/me/set/tree/\w+/?(.*)", path):
            inside = [self.entry(name) for name in files if name.rpartition("/")[0] == found[1]]
            if not found[1]:
                inside.append({"type": "directory", "path": "data", "size": 0, "oid": "0" * 40})
            self.answer(inside) if inside else self.send_error(404)
        elif (found := re.fullmatch(r"/datasets/me/set/resolve/(\w+)/(.*)", path)) and found[2] in files:
            self.give(files[found[2]])
        else:
            self.send_error(404)

    def entry(self, name: str) -> dict:
        content = self.server.files[name]
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
            "lfs": lfs,
        }

    def give(self, content: bytes) -> None:
        wanted, status = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""), 200
        if wanted:
            content, status = content[int(wanted[1]) : int(wanted[2] or len(content)) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, what: Any) -> None:
        said = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def hub_of(files: dict[str, bytes]):
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.commit, server.asked = files, COMMIT, []
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(local, monkeypatch):
    from huggingface_hub import HfFileSystem, constants

    with hub_of({f"data/{file.name}": file.read_bytes() for file in sorted(local.glob("*.tar"))}) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        HfFileSystem.clear_instance_cache()
        yield server
        HfFileSystem.clear_instance_cache()


@pytest.mark.parametrize("path", ["data", "data/*.tar", "data/{0000..0003}.tar"])
def test_a_data_set_of_the_hub_is_read_in_the_commit_of_its_start(hub, local, tmp_path, path):
    shards = opened(f"hf://datasets/me/set/{path}", tmp_path)
    assert same(shards, local)
    assert all(f"/resolve/{COMMIT}/" in asked for asked in hub.asked if "/resolve/" in asked)
    hub.commit, hub.files["README.md"] = "d" * 40, b"# Read me"
    times = sum("/resolve/" in asked for asked in hub.asked)
    assert same(opened(f"hf://datasets/me/set/{path}", tmp_path), local)
    assert sum("/resolve/" in asked for asked in hub.asked) == times, "a push that changes no shard fetches none anew"


def test_a_data_set_that_is_not_there_is_one_line(hub, tmp_path):
    with pytest.raises(ValueError, match=r"path=hf://datasets/me/none/data: hf://datasets/me/none/data") as caught:
        opened("hf://datasets/me/none/data", tmp_path)
    assert "\n" not in str(caught.value)
