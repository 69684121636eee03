"""Shards of strangers on a web server, in a store: indexed once, read as local ones, whatever the server does."""

from __future__ import annotations

import random
import threading

import fsspec
import pytest
from far_server import serving
from fsspec.registry import _registry
from hypothesis import given
from hypothesis import strategies as st
from small_shards import PAD, make_record, write_shards

from dragonfly_lit.data import far, fetching
from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.failures import RemoteError
from dragonfly_lit.data.listing import expand
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.parts import part_of_path
from dragonfly_lit.data.source_spec import SourceSpec

NUM_SHARDS, NUM_SAMPLES = 4, 20
PATTERN = "{0000..0003}.tar"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses that a test can wait for."""
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(fetching, "STALLED", 1.0)
    monkeypatch.setattr(fetching, "PATIENCE", 5.0)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    records = [make_record(n, "far") for n in range(NUM_SAMPLES)]
    return write_shards(tmp_path_factory.mktemp("local") / "shards", records, maxcount=NUM_SAMPLES // NUM_SHARDS)


@pytest.fixture
def served(local):
    with serving() as server:
        server.files = {f"d/{path.name}": path.read_bytes() for path in local.glob("*.tar")}
        yield server


def opened(path, tmp_path, on_error="raise", report=None, **options):
    spec = SourceSpec(name="far", path=path, on_error=on_error)
    return open_source(spec, "data.train.sources.far", report, cache_dir=str(tmp_path / "cache"), **options)


def keys(shards) -> list[str]:
    return [shards.record(index, 0).key for index in range(len(shards))]


ALL = [f"far-{n:05d}" for n in range(NUM_SAMPLES)]


@given(
    first=st.integers(0, 120),
    more=st.integers(0, 30),
    width=st.integers(1, 5),
    words=st.lists(st.sampled_from("abc"), min_size=1),
)
def test_braces_stand_for_what_a_shell_makes_of_them(first, more, width, words):
    low, high = (str(number).zfill(width) for number in (first, first + more))
    names = [f"{{{','.join(['x', *words])}}}", f"{{{low}..{high}}}"]
    wide = (
        max(len(low), len(high)) if "0" in (low[:1] if len(low) > 1 else "", high[:1] if len(high) > 1 else "") else 0
    )
    wanted = [f"h/{w}-{str(n).zfill(wide)}.tar" for w in ["x", *words] for n in range(first, first + more + 1)]
    assert expand(f"h/{names[0]}-{names[1]}.tar") == wanted


@pytest.mark.parametrize(
    "pattern", ["a{", "a}", "{a}", "{5..1}", "{0..9999999}", "{{1..2}", "{0..999}{0..999}{0..9}", "{}"]
)
def test_other_braces_are_refused(pattern):
    with pytest.raises(ValueError, match=r"brace|range|upwards|more than") as caught:
        expand(pattern)
    assert "\n" not in str(caught.value)


def test_they_are_the_samples_of_the_local_folder_and_are_indexed_once(served, local, tmp_path):
    shards, here = opened(f"{served.url}/d/{PATTERN}", tmp_path), open_dataset(local)
    assert [shards.record(n, 0) for n in range(len(shards))] == [here.record(n) for n in range(len(here))]
    assert shards.digest == here.digest, "a run goes on where its shards are moved to a server"
    assert {served.asked[path] for path in served.files} == {1}
    assert keys(opened(f"{served.url}/d/{PATTERN}", tmp_path)) == ALL
    assert {served.asked[path] for path in served.files} == {1}, "indices and copies were kept"


@pytest.mark.parametrize("fault", ["cut", "stall", "429", "503", "500"])
@pytest.mark.parametrize("lie", ["", "whole"])
def test_a_server_that_fails_is_asked_again(served, tmp_path, fault, lie):
    served.lies = {lie} - {""}
    served.faults.extend([fault, "", fault, fault])
    assert keys(opened(f"{served.url}/d/{PATTERN}", tmp_path)) == ALL
    assert not served.faults


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("html", r"0000\.tar is a web page and not a tar|000\d\.tar is a web page"),
        ("more", r"000\d\.tar ends after \d+ of the \d+ bytes that its server says it has"),
        ("less", r"000\d\.tar has more than the \d+ bytes|no end-of-archive|ends"),
        ("etags", r"000\d\.tar changed while it was read\. Start again"),
    ],
)
def test_a_server_that_lies_is_one_line(served, tmp_path, lie, message):
    served.lies = {lie}
    with pytest.raises(ValueError, match=message) as caught:
        opened(f"{served.url}/d/{PATTERN}", tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"data.train.sources.far.path={served.url}/d/{PATTERN}: ")
    served.lies = set()
    assert keys(opened(f"{served.url}/d/{PATTERN}", tmp_path)) == ALL, "nothing of it was kept"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/d/{0000..0009}.tar", r"000[4-9]\.tar cannot be read: FileNotFoundError: there is no such file\.$"),
        (
            "/d",
            r"there is no dataset\.json, and a web server does not list its files. .*/d/\{000\.\.127\}\.tar$",
        ),
        ("/d/{0000..0003}.zip", r"0000\.zip"),
    ],
)
def test_what_is_not_there_is_one_line(served, tmp_path, path, message):
    with pytest.raises(ValueError, match=message) as caught:
        opened(served.url + path, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_told_soon(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read: Client\w*Error: "):
        opened("http://127.0.0.1:9/{0..1}.tar", tmp_path)


def test_shards_that_were_indexed_before_a_stop_stay_so(served, tmp_path):
    lost = served.files.pop("d/0002.tar")
    served.files["d/0002.tar"] = b"x" * 5000
    with pytest.raises(ValueError, match=r"0002\.tar: .*tar header"):
        opened(f"{served.url}/d/{PATTERN}", tmp_path)
    before = served.asked.copy()
    done = len([*(tmp_path / "cache" / far.FOLDER).glob("[0-9a-f]*")])
    assert done >= 2
    served.files["d/0002.tar"] = lost
    assert keys(opened(f"{served.url}/d/{PATTERN}", tmp_path)) == ALL
    assert (served.asked - before).total() <= NUM_SHARDS - done + 1


def test_processes_of_a_node_share_the_work(served, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(keys(opened(f"{served.url}/d/{PATTERN}", tmp_path))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ALL] * 3
    assert {served.asked[path] for path in served.files} == {1}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(far, "CHUNK", 4096)


def test_of_more_than_the_cache_holds_parts_are_read(served, local, tmp_path, small_parts):
    largest = max(map(len, served.files.values()))
    shards = opened(f"{served.url}/d/{PATTERN}", tmp_path, cache_bytes=2 * largest)
    here, sent = open_dataset(local), served.bytes_sent
    order = random.Random(2).sample(range(NUM_SAMPLES), NUM_SAMPLES)
    for place in order * 2:
        assert shards.record(place, 0) == here.record(place)
        copies = [path for path in (tmp_path / "cache").iterdir() if path.is_file()]
        assert sum(path.stat().st_size for path in copies) <= 2 * largest
    shards.record(0, 0)
    sent = served.bytes_sent
    shards.record(0, 0)
    assert served.bytes_sent == sent, "its parts are kept"


def test_a_server_of_whole_files_is_said_and_read(served, tmp_path, small_parts, caplog):
    served.lies = {"whole"}
    largest = max(map(len, served.files.values()))
    assert keys(opened(f"{served.url}/d/{PATTERN}", tmp_path, cache_bytes=2 * largest)) == ALL
    assert "gives whole files only" in caplog.text


@pytest.mark.parametrize("parts", [True, False])
def test_a_shard_that_changes_under_a_run_is_one_line_and_nothing_is_skipped(
    served, tmp_path, small_parts, builder, parts
):
    largest = max(map(len, served.files.values()))
    data = DragonflyDataModule(
        train={"sources": {"far": {"path": f"{served.url}/d/{PATTERN}", "on_error": "skip"}}},
        builder=builder,
        pad_id=PAD,
        num_workers=0,
        num_streams=1,
        batch={"size": 2},
        epoch={"passes": 1},
        cache_dir=str(tmp_path / "cache"),
        cache_gb=(2 if parts else 3 * NUM_SHARDS) * largest / 1e9,
        quarantine=tmp_path / "quarantine.jsonl",
    )
    assert len(data.mix) == NUM_SAMPLES
    for path, content in served.files.items():
        served.files[path] = content[:600] + b"!" + content[601:]
    for copy in (tmp_path / "cache").glob("[0-9a-f]*"):
        copy.unlink()
    with pytest.raises(
        RemoteError, match=r"/d/000\d\.tar is not the file that was there before: .* Start again"
    ) as caught:
        list(data.train_dataloader())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_a_damaged_shard_is_refused_or_read_as_far_as_it_is_whole(served, tmp_path):
    whole = served.files["d/0001.tar"]
    served.files["d/0001.tar"] = whole[: len(whole) // 2]
    with pytest.raises(ValueError, match=rf"shard {served.url}/d/0001\.tar: .* Fetch or write it again"):
        opened(f"{served.url}/d/{PATTERN}", tmp_path)
    told = []
    for _ in range(2):
        shards = opened(f"{served.url}/d/{PATTERN}", tmp_path, "skip", told.append)
        assert NUM_SAMPLES - 5 < len(shards) < NUM_SAMPLES
        assert [bad.shard for bad in told] == ["0001.tar"]
        told.clear()
    served.files["d/0001.tar"] = whole
    assert keys(opened(f"{served.url}/d/{PATTERN}", tmp_path)) == ALL


@pytest.mark.parametrize(
    "path", ["memory://plain{}/in", "memory://plain{}/in/*.tar", "memory://plain{}/in/000[0-3].tar"]
)
def test_a_store_is_listed(local, tmp_path, path):
    path = path.format(abs(hash(path)))
    memory = fsspec.filesystem("memory")
    folder = path.removeprefix("memory://").partition("/in")[0]
    for file in local.glob("*.tar"):
        memory.pipe(f"/{folder}/in/{file.name}", file.read_bytes())
    memory.pipe(f"/{folder}/in/README.md", b"# Read me")
    shards = opened(path, tmp_path)
    assert keys(shards) == ALL
    assert shards.digest == open_dataset(local).digest
    assert part_of_path(path, "train") == path
    assert part_of_path(path, "validation") is None
    with pytest.raises(ValueError, match=r"has no file that ends in \.tar or \.parquet or \.arrow; it has in\."):
        opened(f"memory://{folder}", tmp_path)


def test_no_pattern_runs_a_command(tmp_path):
    for path in (f"pipe:touch {tmp_path}/{{0..1}}.tar", f"pipe://touch {tmp_path}/x.tar"):
        with pytest.raises(ValueError, match="a URL is data, never a command"):
            opened(path, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_client_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(ValueError, match=r"client is not installed: pip install 'dragonfly_lit\[s3\]'$"):
        opened("s3://bucket/{0..3}.tar", tmp_path)


def test_a_resume_equals_never_stopping(served, tmp_path, builder, small_parts):
    largest = max(map(len, served.files.values()))

    def made(cache):
        return DragonflyDataModule(
            train={"sources": {"far": {"path": f"{served.url}/d/{PATTERN}"}}},
            builder=builder,
            pad_id=PAD,
            num_workers=0,
            num_streams=2,
            block=2,
            batch={"size": 2},
            epoch={"steps": 10},
            cache_dir=str(tmp_path / cache),
            cache_gb=2 * largest / 1e9,
        )

    whole, stopped, resumed = (made(cache) for cache in ("a", "b", "c"))
    order = [batch.keys for _ in range(2) for batch in whole.train_dataloader()]
    assert [batch.keys for batch in stopped.train_dataloader()] == order[:10]
    resumed.load_state_dict(stopped.state_dict())
    assert [batch.keys for batch in resumed.train_dataloader()] == order[10:]
