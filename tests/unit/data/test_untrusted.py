"""Bad and hostile shards: refused by name, or skipped, counted and written down; nothing of them runs."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tarfile
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_shards import PAD, make_record, members, picture, tar_of, write_shards

from dragonfly_lit.data import fetching, remote
from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.index import build_index, index_path, sidecar_path
from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.shards import Shards


def sample_files(number: int, **replace: bytes | None) -> list[tuple[str, bytes]]:
    record = make_record(number, "bad")
    fields = members(record)
    files = {"json": json.dumps(fields["json"]).encode(), "jpg": fields["jpg"]} | replace
    return [(f"{record.key}.{extension}", data) for extension, data in files.items() if data is not None]


def folder_of(path: Path, content: bytes) -> Path:
    path.mkdir(exist_ok=True)
    (path / "0000.tar").write_bytes(content)
    return path


def flat(samples: list[list[tuple[str, bytes]]]) -> list[tuple[str, bytes]]:
    return [file for sample in samples for file in sample]


def conversation(question: str, answer: str) -> bytes:
    asked = [{"type": "image"}, {"type": "text", "text": question}]
    return json.dumps(
        {"conversations": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
    ).encode()


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def huge_png() -> bytes:
    data = bytearray(picture(1, "PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


GOOD = [sample_files(n) for n in range(8)]
FAULTS = {
    "bad JSON": (sample_files(50, json=b'{"conversations": ['), "json"),
    "JSON of another shape": (sample_files(50, json=b"[1, 2]"), "must be an object"),
    "deep JSON": (sample_files(50, json=b"[" * 100_000), "json"),
    "missing image": (sample_files(50, jpg=None), "1 image placeholders but 0 images"),
    "missing JSON": (sample_files(50, json=None), r"no bad-00050\.json"),
    "truncated JPEG": (sample_files(50, jpg=picture(3, side=200)[:-300]), "damaged|Truncated"),
    "no image at all": (sample_files(50, jpg=b"GIF-not-really"), "cannot be opened"),
    "bomb": (sample_files(50, jpg=None, png=huge_png()), "60000x60000|exceeds limit"),
    "pickle": ([*sample_files(50), ("bad-00050.pyd", b"cos\nsystem\n.")], "is not allowed"),
    "key with ..": ([("../../" + name, data) for name, data in sample_files(50)], "sample key"),
    "absolute key": ([("/" + name, data) for name, data in sample_files(50)], "sample key"),
    "no question": (sample_files(50, json=conversation("", "A caption.")), "Give the source a prompt set"),
}


def make_data(path: Path, builder, **source) -> DragonflyDataModule:
    node = {"path": str(path), **source}
    return DragonflyDataModule(
        train={"sources": {"bad": node}},
        builder=builder,
        pad_id=PAD,
        num_workers=0,
        num_streams=1,
        block=2,
        batch={"size": 3},
        epoch={"steps": 9},
        quarantine=path / "quarantine.jsonl",
        max_skip_rate=0.5,
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_sample_is_raised_by_name(fault, tmp_path, builder):
    files, message = FAULTS[fault]
    folder_of(tmp_path, tar_of([*flat(GOOD[:4]), *files, *flat(GOOD[4:])]))
    with pytest.raises(BadSampleError, match=message) as caught:
        list(make_data(tmp_path, builder).train_dataloader())
    assert "0000.tar" in str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_or_skipped_counted_and_written_down_and_nothing_else_is_lost(fault, tmp_path, builder):
    files, _ = FAULTS[fault]
    folder_of(tmp_path, tar_of([*flat(GOOD[:4]), *files, *flat(GOOD[4:])]))
    data = make_data(tmp_path, builder, on_error="skip")
    seen = [key for batch in data.train_dataloader() for row in batch.keys for key in row]
    assert len(seen) == 27
    assert {*seen} == {make_record(n, "bad").key for n in range(8)}
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["source"], line["shard"]) for line in lines] == [("bad", "0000.tar")]
    assert data.counts()["bad"]["skipped"] == 3
    assert data.counts()["bad"]["read"] == 30


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_error_in_a_worker_is_the_one_of_the_training_process(on_error, tmp_path, builder):
    spoilt = [sample_files(n, json=b"{") for n in range(60)]
    folder_of(tmp_path, tar_of(flat(spoilt)))
    told = []
    for num_workers in (0, 1):
        data = make_data(tmp_path, builder, on_error=on_error)
        data.num_workers = num_workers
        with pytest.raises(ValueError, match=r"shard 0000\.tar, sample bad-000\d\d: ") as caught:
            list(data.train_dataloader())
        assert caught.value.__cause__ is None
        told.append((type(caught.value), str(caught.value)))
    assert told[0] == told[1]


def test_a_pickle_is_never_opened(tmp_path, builder):
    hostile = pickle.dumps(Bomb(tmp_path / "ran"))
    files = [(f"bad-00050.{kind}", hostile) for kind in ("pyd", "pkl", "pickle", "pth", "npy")]
    folder_of(tmp_path, tar_of([*GOOD[0], *files, *GOOD[1]]))
    seen = list(make_data(tmp_path, builder, on_error="skip").train_dataloader())
    assert seen
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "url", ["pipe:touch {}", "pipe://touch {}", "simplecache::s3://b/c", "ftp://host/x", "file:///x"]
)
def test_a_url_never_runs_a_command(url, tmp_path, builder):
    with pytest.raises(ValueError, match=r"data\.train\.sources\.bad\.path=.*(is not read|plain path)"):
        _ = DragonflyDataModule(
            train={"sources": {"bad": {"path": url.format(tmp_path / "ran")}}}, builder=builder, pad_id=PAD
        ).mix
    assert not (tmp_path / "ran").exists()


def cut_inside_a_member(content: bytes) -> bytes:
    return content[: content.rindex(b"\xff\xd8\xff") + 100]


def cut_at_a_header(content: bytes) -> bytes:
    return content[: content.index(b"bad-00006.json")]


@pytest.mark.parametrize("cut", [cut_inside_a_member, cut_at_a_header])
def test_a_cut_tar_is_refused_or_read_up_to_the_cut(cut, tmp_path, builder):
    folder_of(tmp_path, cut(tar_of(flat(GOOD))))
    with pytest.raises(ValueError, match=r"0000\.tar: .*(no end-of-archive mark|the tar ends).*on_error: skip"):
        list(make_data(tmp_path, builder).train_dataloader())
    assert not index_path(tmp_path / "0000.tar").exists()
    data = make_data(tmp_path, builder, on_error="skip")
    seen = {key for batch in data.train_dataloader() for row in batch.keys for key in row}
    whole = 6 if cut is cut_at_a_header else 7
    assert seen == {make_record(n, "bad").key for n in range(whole)}
    assert "samples lie before" in (tmp_path / "quarantine.jsonl").read_text()


@pytest.mark.parametrize("cut", [cut_inside_a_member, cut_at_a_header])
def test_a_tar_cut_after_it_was_indexed_is_refused_by_name(cut, tmp_path, builder):
    folder_of(tmp_path, tar_of(flat(GOOD)))
    open_dataset(tmp_path)
    shard = tmp_path / "0000.tar"
    shard.write_bytes(cut(shard.read_bytes()))
    with pytest.raises(ValueError, match=r"0000\.tar: it has \d+ bytes, but its index was made for \d+"):
        list(make_data(tmp_path, builder).train_dataloader())
    data = make_data(tmp_path, builder, on_error="skip")
    seen = {key for batch in data.train_dataloader() for row in batch.keys for key in row}
    assert {make_record(n, "bad").key for n in range(6)} <= seen


def test_a_wrong_index_is_refused(tmp_path):
    folder_of(tmp_path / "a", tar_of(flat(GOOD)))
    folder_of(tmp_path / "b", tar_of(flat(GOOD[:5])))
    shards = open_dataset(tmp_path / "a")
    assert shards[1].key == make_record(1, "bad").key
    open_dataset(tmp_path / "b")
    index = index_path(tmp_path / "a" / "0000.tar")
    right = index.read_bytes()
    index.write_bytes(index_path(tmp_path / "b" / "0000.tar").read_bytes())
    with pytest.raises(ValueError, match=r"its index has 5 samples, dataset.json 8"):
        open_dataset(tmp_path / "a")[0]
    index.write_bytes(right[:8] + (10**12).to_bytes(8, "little") + right[16:])
    with pytest.raises(ValueError, match="does not fit"):
        open_dataset(tmp_path / "a")[0]
    between = (int.from_bytes(right[8:16], "little") + 512).to_bytes(8, "little")
    index.write_bytes(right[:8] + between + right[16:])
    with pytest.raises(BadSampleError, match=r"0000\.tar"):
        open_dataset(tmp_path / "a")[1]


def test_shards_that_are_missing_or_unlisted_are_named(tmp_path):
    write_shards(tmp_path, [make_record(n, "x") for n in range(20)], maxcount=5)
    open_dataset(tmp_path)
    (tmp_path / "0001.tar").rename(tmp_path / "0009.tar")
    with pytest.raises(ValueError, match=r"0001\.tar is listed in dataset\.json but missing"):
        open_dataset(tmp_path)
    (tmp_path / "0009.tar").rename(tmp_path / "0001.tar")
    (tmp_path / "0004.tar").write_bytes((tmp_path / "0003.tar").read_bytes())
    with pytest.raises(ValueError, match=r"0004\.tar is not listed in dataset\.json"):
        open_dataset(tmp_path)


def test_links_devices_and_compressed_tars_are_refused(tmp_path):
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(BadSampleError, match=r"sample a: .*is not a regular file but a symbolic link to '/etc/passwd'"):
        open_dataset(folder_of(tmp_path / "link", out.getvalue()))[0]
    with pytest.raises(ValueError, match="compressed"):
        open_dataset(folder_of(tmp_path / "gz", gzip.compress(tar_of(GOOD[0]))))


def test_too_many_skipped_stop_the_run(tmp_path, builder):
    spoilt = [(name, b"{" if name.endswith("json") else data) for n in range(40) for name, data in sample_files(n)]
    folder_of(tmp_path, tar_of(spoilt))
    with pytest.raises(ValueError, match=r"source bad: 11 samples running were skipped, more than max_skip_run=10"):
        list(make_data(tmp_path, builder, on_error="skip").train_dataloader())


def test_a_sample_that_is_too_long_is_counted_and_never_stops_the_run(tmp_path, builder):
    records = [make_record(n, "x") for n in range(20)] + [make_record(20, "x", answer="long " * 100)]
    data = make_data(write_shards(tmp_path, records), builder)
    for _ in data.train_dataloader():
        pass
    assert data.counts()["bad"]["too_long"] >= 1
    assert data.counts()["bad"]["skipped"] == 0
    assert "max_tokens=160" in (tmp_path / "quarantine.jsonl").read_text()


WHOLE = tar_of(flat(GOOD))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=40)), max_size=6),
    keep=st.integers(0, len(WHOLE)),
    indexed=st.booleans(),
)
def test_a_mutated_tar_gives_records_or_named_errors_only(tmp_path, edits, keep, indexed):
    shard = tmp_path / "0000.tar"
    for leftover in (index_path(shard), sidecar_path(shard), tmp_path / "dataset.json"):
        leftover.unlink(missing_ok=True)
    shard.write_bytes(WHOLE)
    if indexed:
        open_dataset(tmp_path)
    content = bytearray(WHOLE[: keep if keep % 3 == 0 else None])
    for place, data in edits:
        content[place : place + len(data)] = data[: max(0, len(content) - place)]
    shard.write_bytes(content)
    shards: Shards | None = None
    errors: list[ValueError] = []
    try:
        shards = open_dataset(tmp_path, report=errors.append)
    except ValueError as error:
        errors.append(error)
    for index in range(len(shards) if shards is not None else 0):
        try:
            key = shards[index].key  # pyright: ignore[reportOptionalSubscript]
        except ValueError as error:
            errors.append(error)
        else:
            assert key
    assert all("0000.tar" in str(error) for error in errors)


def test_build_index_says_how_many_samples_lie_before_the_cut(tmp_path):
    folder_of(tmp_path, cut_at_a_header(WHOLE))
    with pytest.raises(ValueError, match="6 samples lie before"):
        build_index(tmp_path / "0000.tar")


class ClientError(Exception):
    """Of a network library that derives its errors from nothing known."""


@pytest.mark.parametrize("error", [ClientError("no route to host"), OSError("timed out"), ValueError("a bad port")])
def test_whatever_a_remote_client_raises_names_the_url(monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(fetching.fsspec, "open", fails)
    url = "hf://datasets/a/b/dataset.json"
    with pytest.raises(ValueError, match=rf"^{url} cannot be read: {type(error).__name__}: {error}\.$"):
        remote.read_bytes(url, 100)
