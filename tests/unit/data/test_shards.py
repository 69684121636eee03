"""Shards: theirs are read here, ours are read by webdataset; remote ones through a bounded cache."""

from __future__ import annotations

import json
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import webdataset
from small_shards import make_record, picture, write_shards

from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.index import index_folder, index_path, read_rows
from dragonfly_lit.spec.shard import record_from_json

RECORDS = [make_record(n, "pic", images=n % 3) for n in range(25)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), RECORDS, maxcount=10)


def test_what_webdataset_writes_is_read_here(folder):
    shards = open_dataset(folder)
    assert [shards[index] for index in range(len(shards))] == RECORDS


def test_what_is_read_here_is_key_by_key_what_webdataset_reads(folder):
    found = {}
    for sample in webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False):  # type: ignore[attr-defined]
        images = tuple(data for name, data in sorted(sample.items()) if name.endswith("jpg"))
        found[sample["__key__"]] = record_from_json(sample["__key__"], json.loads(sample["json"]), images)
    assert found == {record.key: record for record in RECORDS}


def test_long_keys_and_captions_of_foreign_shards_are_read(tmp_path):
    key = "a/" * 60 + "deep" * 30
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:  # type: ignore[attr-defined]
        writer.write({"__key__": key, "webp": picture(1, "WEBP"), "txt": "A caption."})
    record = open_dataset(tmp_path)[0]
    assert record.key == key
    assert [turn.text for turn in record.turns] == ["", "A caption."]


def test_the_index_is_one_offset_a_sample_and_the_end(folder):
    open_dataset(folder)
    offsets = np.fromfile(index_path(folder / "0000.tar"), "<u8")
    assert offsets.shape == (11,)
    assert offsets[0] == 0
    assert (np.diff(offsets.astype(int)) % 512 == 0).all()


def test_the_sidecar_says_what_a_sample_holds(folder):
    open_dataset(folder)
    row = read_rows(folder / "0000.tar")[4]
    assert (row.key, row.width, row.height, row.turns, row.num_images) == (RECORDS[4].key, 12, 12, 2, 1)
    assert row.chars == sum(len(turn.text) for turn in RECORDS[4].turns)


def test_duplicates_have_one_checksum(tmp_path):
    twins = [replace(RECORDS[4], key="one"), replace(RECORDS[4], key="two"), RECORDS[7]]
    open_dataset(write_shards(tmp_path, twins))
    sums = [row.checksum for row in read_rows(tmp_path / "0000.tar")]
    assert sums[0] == sums[1] != sums[2]


def test_a_remote_folder_is_read_through_a_bounded_cache(folder, tmp_path):
    index_folder(folder)
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    sizes = [path.stat().st_size for path in folder.glob("*.tar")]
    shards = open_dataset("memory://bucket", cache_dir=tmp_path, cache_bytes=2 * max(sizes))
    assert [shards[index] for index in range(len(shards))] == RECORDS
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * max(sizes)


def test_two_remote_folders_with_the_same_shard_names_never_mix(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ("left", "right"):
        local = write_shards(tmp_path / name, [make_record(n, name) for n in range(3)])
        index_folder(local)
        for path in local.iterdir():
            memory.pipe(f"/{name}/{path.name}", path.read_bytes())
    for name in ("left", "right"):
        assert open_dataset(f"memory://{name}", cache_dir=tmp_path / "cache")[0].source == name


def test_a_remote_shard_that_changed_is_refused(folder, tmp_path):
    index_folder(folder)
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/changed/{path.name}", path.read_bytes())
    spoilt = bytearray((folder / "0000.tar").read_bytes())
    spoilt[700] ^= 1
    memory.pipe("/changed/0000.tar", bytes(spoilt))
    with pytest.raises(ValueError, match=r"memory://changed/0000\.tar is not the file .* checksum differs"):
        open_dataset("memory://changed", cache_dir=tmp_path)[0]
    with pytest.raises(ValueError, match=r"A remote folder needs its dataset\.json"):
        open_dataset("memory://absent", cache_dir=tmp_path)
