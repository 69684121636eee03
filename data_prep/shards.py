"""Records into tar shards: byte-identical for the same records, and never half written under their final name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dragonfly_lit.data.index import ShardEntry, write_index
from dragonfly_lit.data.scan import Scan, row_of
from dragonfly_lit.io.atomic import PARTIAL, publish, replacing
from dragonfly_lit.io.tar_writer import SampleWriter
from dragonfly_lit.spec.samples import Record
from dragonfly_lit.spec.shard import DATASET_FILE, IMAGE_EXTENSIONS, check_key, record_to_json

WRITTEN_AT_A_TIME = 2**20
"""Bytes; a call of the system for each sample would cost more than the copy."""
_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))


def image_extension(data: bytes) -> str | None:
    """jpg, png or webp by the first bytes of an encoded image; None for any other format."""
    for magic, extension in MAGIC:
        if data.startswith(magic):
            return extension
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def sample_members(record: Record) -> dict[str, bytes]:
    """The members of a sample by their extensions: its JSON and its images.

    Raises:
        ValueError: an image is not a jpg, png or webp.
    """
    members = {"json": _JSON.encode(record_to_json(record)).encode()}
    for number, data in enumerate(record.images):
        extension = image_extension(data)
        if extension is None:
            raise ValueError(f"record {record.key}: image {number} is none of {', '.join(IMAGE_EXTENSIONS)}.")
        members[extension if len(record.images) == 1 else f"{number}.{extension}"] = data
    return members


def shard_name(name: str, number: int) -> str:
    """The file of shard `number` of a data set."""
    return f"{name}-{number:05d}.tar"


@contextmanager
def new_folder(folder: Path, name: str) -> Iterator[Path]:
    """A hidden folder beside `folder` for the shards of `name`; it becomes `folder` when the block ends well.

    Raises:
        ValueError: something lies at `folder` that is not a file of such shards, and would be lost.
    """
    own = re.compile(rf"{re.escape(name)}-\d{{5}}\.tar(\.idx|\.meta\.jsonl)?|{re.escape(DATASET_FILE)}")
    there = list(folder.iterdir()) if folder.is_dir() else [folder] if os.path.lexists(folder) else []
    if folder.is_symlink() or not all(own.fullmatch(path.name) and path.is_file() for path in there):
        raise ValueError(f"{folder} holds something that this command did not make. Move it away.")
    partial = folder.with_name(f".dragonfly-{folder.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir()
    yield partial
    for path in there:  # without a list that says that they are whole
        path.unlink()
    publish(partial, folder)


def write_shard(path: Path, records: Iterable[Record]) -> int:
    """Write one tar with fixed times and owners, so that equal records give equal bytes.

    Returns:
        The number of samples written.
    """
    num_samples = 0
    with replacing(path) as partial, partial.open("wb") as file:
        writer = SampleWriter(file)
        for record in records:
            _write(writer, record)
            num_samples += 1
        writer.close()
    return num_samples


def write_indexed_shard(path: Path, records: Iterable[Record]) -> ShardEntry | None:
    """Write a shard like `write_shard`, with its index; None, and no file, where there is no record.

    Each sample is read as training will read it, from the bytes that are on their way to the disk, and the file on the
    disk is compared with them by its digest.

    Raises:
        ValueError: the file on the disk is not what was written.
    """
    scan, digest = Scan(starts=[], ends=[], rows=[]), hashlib.sha256()
    with replacing(path) as partial, partial.open("wb", WRITTEN_AT_A_TIME) as file:
        writer = SampleWriter(file)
        for record in records:
            scan.starts.append(writer.offset)
            written = _write(writer, record)
            digest.update(written)
            scan.ends.append(writer.offset)
            scan.rows.append(row_of(path.name, record.key, written))
        digest.update(writer.close())
    if not scan.rows:
        path.unlink()
        return None
    entry = write_index(path, scan)
    if entry.sha256 != digest.hexdigest():
        raise ValueError(f"{path} is not what was written to it: its disk changes what it stores. Use another disk.")
    return entry


def _write(writer: SampleWriter, record: Record) -> bytes:
    return writer.write(check_key(record.key), sample_members(record))
