"""Where every sample of a shard begins, what it holds, and the list of a folder's shards.

`NAME.tar.idx` has n+1 little-endian uint64 offsets (megatron-energon's format), `NAME.tar.meta.jsonl` one row a sample
(`Row`), `dataset.json` the shards of the folder with their counts, sizes and checksums. Whatever is missing is built on
first use by walking the tar's headers once, and written atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dragonfly_lit.data.samples import BadSampleError, raw_sample, split_name, to_record
from dragonfly_lit.io import atomic
from dragonfly_lit.io.tar import BLOCK, Member, TarError, members
from dragonfly_lit.processing.images import FORMATS
from dragonfly_lit.spec.shard import DATASET_FILE, INDEX_SUFFIX, SCHEMA_VERSION, SIDECAR_SUFFIX


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the sidecar says about a sample, so that mixing, planning and linting decode nothing.

    Attributes:
        key: the sample's key.
        width: of its first image, in pixels, before any EXIF rotation; 0 without an image.
        height: likewise.
        turns: number of turns.
        chars: characters of all turns.
        num_images: number of images.
        share_image: whether its questions share its images.
        checksum: of the turns and the images: equal for exact duplicates.
        image_checksum: of the images alone; empty without an image.
        error: why the sample cannot be read; empty when it can.
    """

    key: str
    width: int = 0
    height: int = 0
    turns: int = 0
    chars: int = 0
    num_images: int = 0
    share_image: bool = False
    checksum: str = ""
    image_checksum: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard as `dataset.json` lists it."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one walk over a shard found.

    Attributes:
        offsets: n+1 byte offsets: where each sample's first header lies, and where the last sample ends.
        rows: a row a sample.
        cut: why the tar is not whole; empty when it is. The samples before the cut are all there.
    """

    offsets: np.ndarray
    rows: list[Row] = field(repr=False)
    cut: str = ""


def _row(shard: str, key: str, data: bytes) -> Row:
    try:
        record = to_record(raw_sample(shard, data))
    except BadSampleError as bad:
        return Row(key=key, error=bad.reason)
    width, height, error = 0, 0, ""
    images = hashlib.sha256()
    for number, image in enumerate(record.images):
        images.update(hashlib.sha256(image).digest())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                size = Image.open(BytesIO(image), formats=FORMATS).size
            width, height = (width, height) if number else size
        except Exception as problem:  # a decoder fed with foreign bytes raises what it likes
            error = f"image {number} has no readable header ({type(problem).__name__})."
    text = json.dumps([[t.role, t.text, t.num_images] for t in record.turns]).encode()
    return Row(
        key=key,
        width=width,
        height=height,
        turns=len(record.turns),
        chars=sum(len(t.text) for t in record.turns),
        num_images=len(record.images),
        share_image=record.share_image,
        error=error,
        checksum=hashlib.sha256(images.digest() + text).hexdigest()[:16],
        image_checksum=images.hexdigest()[:16] if record.images else "",
    )


def _samples(found: Iterator[Member]) -> Iterator[tuple[str, int, int]]:
    """Key, start and end of each run of members with one key."""
    key, start, end = "", -1, -1
    for member in found:
        name, _ = split_name(member.name)
        if start < 0:
            key, start = name, member.header
        elif name != key:
            yield key, start, end
            key, start = name, member.header
        end = member.end
    if start >= 0:
        yield key, start, end


def _is_whole(fd: int, end: int, num_bytes: int) -> str:
    mark = os.pread(fd, 2 * BLOCK, end)
    if len(mark) < 2 * BLOCK or mark.strip(b"\0"):
        return f"no end-of-archive mark at byte {end} of {num_bytes}; the file was cut or is still being written"
    return ""


def scan_shard(shard: Path) -> Scan:
    """Walk over the headers of a tar; a broken one ends the walk and is said in `cut`.

    Raises:
        ValueError: the file is compressed.
    """
    offsets: list[int] = []
    rows: list[Row] = []
    end, cut = 0, ""
    with shard.open("rb") as file:
        fd, num_bytes = file.fileno(), os.fstat(file.fileno()).st_size
        if os.pread(fd, 4, 0)[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5"):
            raise ValueError(
                f"shard {shard}: it is compressed, so no sample can be fetched by itself. Unpack it to .tar."
            )
        found = members(lambda at, size: os.pread(fd, size, at), 0, num_bytes)
        walk = _samples(_until_broken(found, problems := []))
        for key, start, end in walk:
            offsets.append(start)
            rows.append(_row(shard.name, key, os.pread(fd, end - start, start)))
        cut = problems[0] if problems else _is_whole(fd, end, num_bytes)
    return Scan(offsets=np.array([*offsets, end], dtype="<u8"), rows=rows, cut=cut)


def _until_broken(found: Iterator[Member], problems: list[str]) -> Iterator[Member]:
    try:
        yield from found
    except TarError as error:
        problems.append(str(error))


def _sha256(shard: Path) -> str:
    with shard.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_index(shard: Path, scan: Scan) -> ShardEntry:
    """Write the shard's index and sidecar, and say how `dataset.json` lists it."""
    header = {"schema_version": SCHEMA_VERSION, "shard": shard.name, "num_bytes": shard.stat().st_size}
    lines = [json.dumps(header), *(json.dumps(_compact(row), ensure_ascii=False) for row in scan.rows)]
    text = "\n".join(lines) + "\n"
    atomic.write(sidecar_path(shard), text.encode("utf-8", "backslashreplace"))
    atomic.write(index_path(shard), scan.offsets.tobytes())
    return ShardEntry(
        name=shard.name, num_samples=len(scan.rows), num_bytes=shard.stat().st_size, sha256=_sha256(shard)
    )


def _compact(row: Row) -> dict[str, object]:
    fields = asdict(row)
    return {k: v for k, v in fields.items() if k not in ("share_image", "error") or v}


def build_index(shard: Path) -> ShardEntry:
    """Index one shard: writes `SHARD.idx` and `SHARD.meta.jsonl` beside it.

    Raises:
        ValueError: the tar is cut, broken or compressed; the message names it and the byte.
    """
    scan = scan_shard(shard)
    if scan.cut:
        raise ValueError(
            f"shard {shard}: {scan.cut}; {len(scan.rows)} samples lie before. "
            "Fetch or write it again, or set on_error: skip to read what is whole."
        )
    return write_index(shard, scan)


def index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + INDEX_SUFFIX)


def sidecar_path(shard: Path) -> Path:
    return shard.with_name(shard.name + SIDECAR_SUFFIX)


def read_rows(shard: Path) -> list[Row]:
    """The sidecar's rows, in the shard's order.

    Raises:
        ValueError: the sidecar is another shard's or another version's.
    """
    lines = sidecar_path(shard).read_text().splitlines()
    header = json.loads(lines[0]) if lines else {}
    if header.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{sidecar_path(shard)}: schema version {header.get('schema_version')}, this reader has {SCHEMA_VERSION}. "
            f"Write it anew: python -m data_prep index {shard.parent}"
        )
    return [Row(**json.loads(line)) for line in lines[1:]]


def write_dataset_file(folder: Path, entries: list[ShardEntry], *, licence: str = "") -> None:
    """Write `dataset.json`: schema version, licence, number of samples, and the shards in order."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "licence": licence,
        "num_samples": sum(e.num_samples for e in entries),
        "shards": [asdict(entry) for entry in entries],
    }
    atomic.write(folder / DATASET_FILE, (json.dumps(content, indent=1) + "\n").encode())


def read_dataset_file(content: bytes | str, path: str) -> list[ShardEntry]:
    """The shards of a `dataset.json`; `path` is for the message.

    Raises:
        ValueError: it is not JSON, of another version, or lists a shard outside its folder.
    """
    way_out = "Write it anew: python -m data_prep index FOLDER"
    try:
        fields = json.loads(content)
        version = fields["schema_version"]
        entries = [ShardEntry(**entry) for entry in fields["shards"]] if version == SCHEMA_VERSION else []
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of shards ({error}). {way_out}") from None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema version {version}, but this reader has {SCHEMA_VERSION}. {way_out}")
    strays = [e.name for e in entries if "/" in e.name or not e.name.endswith(".tar")]
    if strays:
        raise ValueError(f"{path} lists {strays[0]!r}: a shard is a .tar in the same folder. {way_out}")
    return entries


def index_folder(folder: Path, *, licence: str = "") -> list[ShardEntry]:
    """Index every `*.tar` of a folder, in the order of their names, and write `dataset.json`."""
    entries = [build_index(shard) for shard in sorted(folder.glob("*.tar"))]
    write_dataset_file(folder, entries, licence=licence)
    return entries
