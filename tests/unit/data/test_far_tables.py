"""Parquet and Arrow of a web server: the rows of the local files, by their bytes, whatever the server does."""

from __future__ import annotations

import pickle
import random
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from far_server import serving
from limits import patient
from small_shards import picture

from dragonfly_lit.data import fetching
from dragonfly_lit.data.failures import RemoteError
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.parts import part_of_path
from dragonfly_lit.data.remote import Cache
from dragonfly_lit.data.source_spec import SourceSpec

ROWS = [
    {"image": {"bytes": picture(n % 4), "path": None}, "texts": [{"user": f"What is {n}?", "assistant": f"It is {n}."}]}
    for n in range(40)
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(fetching, "STALLED", 1.0)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for number in range(2):
        table = pa.Table.from_pylist(ROWS[20 * number : 20 * number + 20])
        table = table.append_column("other", pa.array([bytes(random.Random(n).randbytes(150_000)) for n in range(20)]))
        pq.write_table(table, folder / f"train-0000{number}.parquet", row_group_size=6)
        with (
            pa.OSFile(str(folder / f"rows-0000{number}.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as w,
        ):
            w.write_table(table, max_chunksize=7)
    return folder


@pytest.fixture
def served(local):
    with serving() as server:
        server.files = {path.name: path.read_bytes() for path in local.iterdir()}
        yield server


def opened(path, tmp_path, **options):
    spec = SourceSpec(name="far", path=str(path))
    return open_source(spec, "data.train.sources.far", cache_dir=str(tmp_path / "cache"), **options)


NAMES = {"parquet": "train-0000{}.parquet", "arrow": "rows-0000{}.arrow"}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("lie", ["", "whole"])
def test_they_are_the_rows_of_the_local_files(served, local, tmp_path, kind, lie):
    served.lies = {lie} - {""}
    served.faults.extend(["503", "cut", "", "429", "cut"])
    tables = opened(f"{served.url}/{NAMES[kind].format('{0,1}')}", tmp_path)
    here = opened(local / NAMES[kind].format("*"), tmp_path)
    order = random.Random(1).sample(range(40), 40)
    copy = pickle.loads(pickle.dumps(tables))
    assert [copy.record(n, 0) for n in order] == [here.record(n, 0) for n in order]
    assert tables.digest == here.digest, "a run goes on where its tables are moved to a server"
    assert tables.describe(25) == here.describe(25)
    asked = served.asked.copy()
    again = opened(f"{served.url}/{NAMES[kind].format('{0,1}')}", tmp_path)
    assert [again.record(n, 0).key for n in order] == [here.record(n, 0).key for n in order]
    assert (served.asked - asked).total() <= 1, "what is known and what was read is kept"


def test_a_file_is_fetched_once_more_while_a_group_of_it_is_made_though_their_names_begin_alike(
    served, local, tmp_path, monkeypatch
):
    """Locks go by the first letters of a copy's name: that of the group must not be in the way of the file's."""
    name_of = Cache._path
    monkeypatch.setattr(Cache, "_path", lambda cache, key: cache.folder / f"00{name_of(cache, key).name[2:]}")
    served.lies = {"whole"}
    tables = opened(f"{served.url}/train-0000{{0..1}}.parquet", tmp_path)
    for copy in (tmp_path / "cache").glob("[0-9a-f]*"):
        copy.unlink()
    read = []
    reading = threading.Thread(target=lambda: read.append(tables.record(0, 0)), daemon=True)
    reading.start()
    reading.join(patient(20))
    assert read == [opened(local / "train-*", tmp_path).record(0, 0)]


def test_of_parquet_only_the_columns_that_count_are_fetched(served, local, tmp_path):
    tables = opened(f"{served.url}/train-0000{{0..1}}.parquet", tmp_path)
    assert all(tables.record(n, 0).turns for n in range(40))
    assert served.bytes_sent < sum((local / name).stat().st_size for name in served.asked) / 4


@pytest.mark.parametrize("kind", NAMES)
def test_a_table_that_changes_under_a_run_is_one_line(served, tmp_path, kind):
    tables = opened(f"{served.url}/{NAMES[kind].format('{0..1}')}", tmp_path)
    for path, content in served.files.items():
        served.files[path] = content[:50] + b"!" + content[51:]
    for copy in (tmp_path / "cache").glob("[0-9a-f]*"):
        copy.unlink()
    with pytest.raises(
        RemoteError, match=r"changed while it was read|is not the file that was there before|cannot be"
    ) as e:
        tables.record(0, 0)
    assert "\n" not in str(e.value)


def test_a_web_page_in_place_of_a_table_is_one_line(served, tmp_path):
    served.lies = {"html"}
    with pytest.raises(ValueError, match=r"train-0000[01]\.parquet cannot be read: ArrowInvalid: ") as caught:
        opened(f"{served.url}/train-0000{{0..1}}.parquet", tmp_path)
    assert "\n" not in str(caught.value)


def test_files_of_a_store_are_parts_by_their_names(local, tmp_path):
    memory = fsspec.filesystem("memory")
    content = (local / "train-00000.parquet").read_bytes()
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000.parquet"):
        memory.pipe(f"/hub/data/{name}", content)
    with pytest.raises(ValueError, match=r"it has files of train and of validation\. Set split"):
        opened("memory://hub/data", tmp_path)
    sizes = {part: len(opened(part_of_path("memory://hub/data", part), tmp_path)) for part in ("train", "validation")}
    assert sizes == {"train": 40, "validation": 20}
    assert part_of_path("memory://hub/data", "test") is None
