"""A remote folder of many shards: what is small and needed again is fetched once."""

from __future__ import annotations

import random
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_shards import make_record, write_shards

from dragonfly_lit.data import shards
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.index import index_folder

NUM_SHARDS = 12


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The address of a folder of shards, and how often each file of it was asked for."""
    records = [make_record(n, "far") for n in range(3 * NUM_SHARDS)]
    folder = write_shards(tmp_path / "far", records, maxcount=3)
    index_folder(folder)
    asked: Counter[str] = Counter()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked[self.path.strip("/")] += 1
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("open_files", [4, 128])
def test_an_index_is_fetched_once_however_few_shards_are_open(served, tmp_path, monkeypatch, open_files):
    monkeypatch.setattr(shards, "OPEN_FILES", open_files)
    url, asked = served
    far = open_dataset(url, cache_dir=tmp_path / "cache")
    order = [place for _ in range(3) for place in random.Random(1).sample(range(len(far)), len(far))]
    assert {far[place].key for place in order} == {f"far-{n:05d}" for n in range(3 * NUM_SHARDS)}
    for suffix in (".tar", ".tar.idx"):
        fetched = {name: times for name, times in asked.items() if name.endswith(suffix)}
        assert len(fetched) == NUM_SHARDS
        assert set(fetched.values()) == {1}, fetched


def test_a_copy_that_had_to_go_is_fetched_again_and_its_index_is_not(served, tmp_path):
    url, asked = served
    largest = max(entry.num_bytes for entry in open_dataset(url, cache_dir=tmp_path / "cache").entries)
    far = open_dataset(url, cache_dir=tmp_path / "cache", cache_bytes=2 * largest)
    for _ in range(2):
        assert [far[place].key for place in range(len(far))] == [f"far-{n:05d}" for n in range(3 * NUM_SHARDS)]
    assert {times for name, times in asked.items() if name.endswith(".idx")} == {1}
    assert sum(times for name, times in asked.items() if name.endswith(".tar")) == 2 * NUM_SHARDS
