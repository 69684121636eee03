"""A process that is killed with SIGKILL while it looks at remote files for the first time, or copies them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from far_server import Served, serving
from limits import patient
from small_shards import make_record, picture, write_shards

from dragonfly_lit.data import fetching
from dragonfly_lit.data.far import FOLDER
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.remote import PART
from dragonfly_lit.data.source import Reader
from dragonfly_lit.data.source_spec import SourceSpec

NUM_FILES, A_FILE = 16, 2
"""Twice as many files as are looked at at a time."""
SUFFIXES = (".tar", ".parquet")
READ = """
import sys
from dragonfly_lit.io.later import import_quickly
open_source = import_quickly("dragonfly_lit.data.opening").open_source
SourceSpec = import_quickly("dragonfly_lit.data.source_spec").SourceSpec
_, path, cache, what = sys.argv
reader = open_source(SourceSpec(name="far", path=path), "far", cache_dir=cache)
for index in range(len(reader) if what == "read" else 0):
    reader.record(index, 0)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses that a test can wait for."""
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(fetching, "STALLED", 5.0)


@pytest.fixture(scope="module", params=["shards", "tables"])
def local(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local") / request.param
    if request.param == "shards":
        return write_shards(folder, [make_record(n, "far") for n in range(NUM_FILES * A_FILE)], maxcount=A_FILE)
    folder.mkdir()
    for file in range(NUM_FILES):
        rows = [
            {"images": [{"bytes": picture(n, "PNG"), "path": None}], "texts": [{"user": f"{n}?", "assistant": "Yes."}]}
            for n in range(file * A_FILE, (file + 1) * A_FILE)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{file:04d}.parquet", row_group_size=1)
    return folder


@pytest.fixture
def served(local):
    with serving() as server:
        server.files = {f"d/{path.name}": path.read_bytes() for path in local.iterdir() if path.suffix in SUFFIXES}
        assert len(server.files) == NUM_FILES
        yield server


def opened(path: str | Path, cache: Path) -> Reader:
    return open_source(SourceSpec(name="far", path=str(path)), "far", cache_dir=str(cache))


def path_of(served: Served) -> str:
    suffix = next(iter(served.files)).rpartition(".")[2]
    return f"{served.url}/d/{{0000..{NUM_FILES - 1:04d}}}.{suffix}"


def kill_amid(served: Served, cache: Path, num_bytes: int, what: str) -> None:
    """Start a process that opens the files, or reads them too, and kill it when so much of them was sent."""
    served.silent.clear()
    served.bytes_left = num_bytes
    process = subprocess.Popen([sys.executable, "-c", READ, path_of(served), str(cache), what])
    assert served.silent.wait(patient(120))
    assert process.poll() is None
    process.kill()
    process.wait()
    served.bytes_left = None


def kept(folder: Path) -> dict[str, bytes]:
    """What counts as done: nothing that is being written."""
    files = [path for path in folder.glob("[0-9a-f]*") if path.is_file()] if folder.is_dir() else []
    return {path.name: path.read_bytes() for path in files}


def test_the_next_process_goes_on_from_what_was_done(served, local, tmp_path):
    opened(path_of(served), tmp_path / "whole")
    num_bytes, cache = served.bytes_sent, tmp_path / "cache"
    known = kept(cache / FOLDER)
    for share in (0.6, 0.3):
        kill_amid(served, cache, int(share * num_bytes * (NUM_FILES - len(known)) / NUM_FILES), "open")
        before, known = known, kept(cache / FOLDER)
        assert before.items() <= known.items(), "what was done is done"
        assert len(known) < NUM_FILES
    assert known, "so much was sent that some were done"
    # Of a shard that was copied and not yet looked at, the copy is there.
    fetched = max(len(known), len(kept(cache)))
    served.asked.clear()
    reader = opened(path_of(served), cache)
    assert len(served.asked) - (NUM_FILES - fetched) in (0, 1), "of tables one is asked whether parts of it come"
    assert kept(cache / FOLDER) == kept(tmp_path / "whole" / FOLDER)
    here = opened(local, tmp_path)
    assert reader.digest == here.digest
    assert [reader.record(n, 0) for n in range(len(reader))] == [here.record(n, 0) for n in range(len(here))]


def test_no_copy_that_was_half_written_is_read(served, local, tmp_path):
    """Shards are copied when they are read, tables that come only as a whole when they are looked at."""
    if any(name.endswith(".parquet") for name in served.files):
        served.lies = {"whole"}
    whole, cache = opened(path_of(served), tmp_path / "whole"), tmp_path / "cache"
    here = opened(local, tmp_path)
    rows = [here.record(n, 0) for n in range(len(here))]
    assert [whole.record(n, 0) for n in range(len(whole))] == rows
    kill_amid(served, cache, int(0.9 * served.bytes_sent), "read")
    assert list(cache.glob(f"{PART}*")), "it was killed amid a copy"
    before = kept(cache)
    reader = opened(path_of(served), cache)
    assert [reader.record(n, 0) for n in range(len(reader))] == rows
    assert before.items() <= kept(cache).items() == kept(tmp_path / "whole").items()
