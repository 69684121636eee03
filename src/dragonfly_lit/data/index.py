"""Where every sample of a shard begins, what it holds, and the list of a folder's shards.

`NAME.tar.idx` has n+1 little-endian uint64 offsets (megatron-energon's format), `NAME.tar.meta.jsonl` one row a sample
(`Row`), `dataset.json` the shards of the folder with their counts, sizes and checksums. Whatever is missing is built on
first use by walking the tar's headers once, and written atomically: beside the shards, or where that cannot be, in a
folder of the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dragonfly_lit.data.samples import BadSampleError, is_read, raw_sample, split_name, to_record
from dragonfly_lit.io import atomic
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES, Gap, Member, ReadAt, read_from, walk
from dragonfly_lit.processing.images import FORMATS
from dragonfly_lit.spec.records import Record
from dragonfly_lit.spec.shard import DATASET_FILE, INDEX_SUFFIX, SCHEMA_VERSION, SIDECAR_SUFFIX

READER_VERSION = 2
"""Raised when shards of which an index exists are read in another way: an older index is then looked at once more."""
TORN = "a part of the shard beside it cannot be read, and may have held the conversation that its text belongs to."


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
        starts: where each sample's first header lies.
        ends: where each sample's last member ends.
        rows: a row a sample.
        gaps: stretches that cannot be read; none in a whole shard. Every sample that lies beside them is there.
        torn: places of samples beside a gap that look whole, but may have lost the JSON that tells what they are.
        num_unread: members that belong to no sample or are not read, by what they are.
    """

    starts: list[int] = field(repr=False)
    ends: list[int] = field(repr=False)
    rows: list[Row] = field(repr=False)
    gaps: tuple[Gap, ...] = ()
    torn: frozenset[int] = frozenset()
    num_unread: Counter[str] = field(default_factory=Counter)

    @property
    def offsets(self) -> np.ndarray:
        """n+1 byte offsets of a whole shard: each sample goes up to the next one."""
        return np.array([*self.starts, self.ends[-1] if self.ends else 0], dtype="<u8")

    @property
    def cut(self) -> str:
        """Why the tar is not whole, and how many samples lie where; empty when it is."""
        if not self.gaps:
            return ""
        before = bisect_left(self.starts, self.gaps[0].start)
        told = "; ".join(map(str, self.gaps[:3])) + ("; ..." if len(self.gaps) > 3 else "")
        return f"{told}; {before} samples lie before, {len(self.rows) - before} behind"


def _row(key: str, record: Record | BadSampleError) -> Row:
    if isinstance(record, BadSampleError):
        return Row(key=key, error=record.reason)
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


@dataclass(kw_only=True)
class _Run:
    """Neighbouring members with one key: a sample.

    Attributes:
        key: of the sample.
        start: of its first header.
        end: of its last member.
        torn: whether a stretch that cannot be read borders on it.
    """

    key: str
    start: int
    end: int
    torn: bool = False


def _runs(found: Iterator[Member | Gap], gaps: list[Gap], num_unread: Counter[str]) -> Iterator[_Run]:
    """The samples of a walk; stretches that cannot be read go to `gaps`, what is not read is counted."""
    run: _Run | None = None
    behind_gap = False
    for item in found:
        if isinstance(item, Gap):
            if item.why:
                gaps.append(item)
                behind_gap = True
            if run is not None:
                run.torn = run.torn or behind_gap
                yield run
                run = None
            continue
        split = split_name(item.name)
        if split is None or not (is_read(split[1]) or item.other):
            num_unread[f".{split[1]}" if split else "files without a sample's name"] += 1
        if split is None:
            continue
        if run is not None and run.key != split[0]:
            yield run
            run = None
        if run is None:
            run = _Run(key=split[0], start=item.header, end=item.end, torn=behind_gap)
            behind_gap = False
        run.end = item.end
    if run is not None:
        yield run


def scan_shard(shard: Path, max_member_bytes: int = MAX_MEMBER_BYTES) -> Scan:
    """Walk over the headers of a tar; where they are broken the walk goes on behind, and `gaps` says so.

    Args:
        shard: the tar.
        max_member_bytes: of a member; a larger one costs its sample, and is not read into memory.

    Raises:
        ValueError: the file is compressed.
    """
    scan = Scan(starts=[], ends=[], rows=[])
    gaps: list[Gap] = []
    torn: set[int] = set()
    with shard.open("rb") as file:
        read, num_bytes = read_from(file.fileno()), os.fstat(file.fileno()).st_size
        if read(0, 4)[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5"):
            raise ValueError(
                f"shard {shard}: it is compressed, so no sample can be fetched by itself. Unpack it to .tar."
            )
        for run in _runs(walk(read, num_bytes), gaps, scan.num_unread):
            record = _record(shard.name, read, run, max_member_bytes)
            if run.torn and isinstance(record, Record) and record.is_caption and not record.meta:
                torn.add(len(scan.rows))
                record = BadSampleError(shard.name, run.key, TORN)
            scan.starts.append(run.start)
            scan.ends.append(run.end)
            scan.rows.append(_row(run.key, record))
    if not num_bytes:
        gaps.append(Gap(0, 0, "the file is empty; it is not written yet, or was cut"))
    return replace(scan, gaps=tuple(gaps), torn=frozenset(torn))


def _record(shard: str, read: ReadAt, run: _Run, max_member_bytes: int) -> Record | BadSampleError:
    size = run.end - run.start
    if size > 2 * max_member_bytes:
        return BadSampleError(shard, run.key, f"it has {size} bytes; at most {2 * max_member_bytes} a sample.")
    try:
        return to_record(raw_sample(shard, read(run.start, size), max_member_bytes))
    except BadSampleError as bad:
        return bad


def _sha256(shard: Path) -> str:
    with shard.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_index(shard: Path, scan: Scan, folder: Path | None = None) -> ShardEntry:
    """Write the shard's index and sidecar, and say how `dataset.json` lists it.

    Args:
        shard: the tar.
        scan: of the shard.
        folder: where to; None is beside the shard.
    """
    header = {"schema_version": SCHEMA_VERSION, "shard": shard.name, "num_bytes": shard.stat().st_size}
    lines = [json.dumps(header), *(json.dumps(_compact(row), ensure_ascii=False) for row in scan.rows)]
    text = "\n".join(lines) + "\n"
    atomic.write(sidecar_path(shard, folder), text.encode("utf-8", "backslashreplace"))
    atomic.write(index_path(shard, folder), scan.offsets.tobytes())
    return ShardEntry(
        name=shard.name, num_samples=len(scan.rows), num_bytes=shard.stat().st_size, sha256=_sha256(shard)
    )


def _compact(row: Row) -> dict[str, object]:
    fields = asdict(row)
    return {k: v for k, v in fields.items() if k not in ("share_image", "error") or v}


def build_index(shard: Path, folder: Path | None = None, max_member_bytes: int = MAX_MEMBER_BYTES) -> ShardEntry:
    """Index one shard: writes `SHARD.idx` and `SHARD.meta.jsonl`.

    Args:
        shard: the tar.
        folder: where to; None is beside the shard.
        max_member_bytes: of a member.

    Raises:
        ValueError: the tar is cut, broken or compressed; the message names it and the byte.
    """
    scan = scan_shard(shard, max_member_bytes)
    if scan.cut:
        raise ValueError(damaged(shard, scan))
    return write_index(shard, scan, folder)


def damaged(shard: Path, scan: Scan) -> str:
    """What a shard that is not whole is refused with."""
    return (
        f"shard {shard}: {scan.cut}. Fetch or write it again, or set on_error: skip to read what is whole: "
        f"{sum(not row.error for row in scan.rows)} samples."
    )


def index_path(shard: Path, folder: Path | None = None) -> Path:
    """Where the offsets of a shard's samples lie: beside it, or in another folder."""
    return (folder or shard.parent) / (shard.name + INDEX_SUFFIX)


def sidecar_path(shard: Path, folder: Path | None = None) -> Path:
    """Where the rows of a shard's samples lie: beside it, or in another folder."""
    return (folder or shard.parent) / (shard.name + SIDECAR_SUFFIX)


def read_rows(shard: Path, folder: Path | None = None) -> list[Row]:
    """The sidecar's rows, in the shard's order.

    Args:
        shard: the tar.
        folder: of the sidecar; None is beside the shard.

    Raises:
        ValueError: the sidecar is another shard's or another version's, or is damaged.
    """
    path = sidecar_path(shard, folder)
    way_out = f"Write it anew: python -m data_prep index {shard.parent}"
    try:
        # Not splitlines: a key may hold any of the other characters that Unicode ends a line with.
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
        version = json.loads(lines[0]).get("schema_version")
        if version == SCHEMA_VERSION:
            return [Row(**json.loads(line)) for line in lines[1:]]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}). {way_out}") from None
    raise ValueError(f"{path}: schema version {version}, this reader has {SCHEMA_VERSION}. {way_out}")


def is_outdated(shard: Path) -> bool:
    """Whether an index of an earlier version misses samples of its shard: joined archives, or names it did not read."""
    with index_path(shard).open("rb") as index, shard.open("rb") as file:
        index.seek(-8, os.SEEK_END)
        covered = int.from_bytes(index.read(8), "little")
        if not is_covered(file.fileno(), covered):
            return True
    return sidecar_path(shard).is_file() and b'"error": ' in sidecar_path(shard).read_bytes()


def is_covered(fd: int, covered: int) -> bool:
    """Whether no sample, and nothing that cannot be read, lies behind the first `covered` bytes of an open shard."""
    behind = walk(read_from(fd), os.fstat(fd).st_size, covered)
    return not any(item.why if isinstance(item, Gap) else split_name(item.name) for item in behind)


def write_dataset_file(folder: Path, entries: list[ShardEntry], *, licence: str = "") -> None:
    """Write `dataset.json`: schema version, licence, number of samples, and the shards in order."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "reader_version": READER_VERSION,
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
        entries = [_entry(entry) for entry in fields["shards"]] if version == SCHEMA_VERSION else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a list of shards ({error}). {way_out}") from None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema version {version}, but this reader has {SCHEMA_VERSION}. {way_out}")
    strays = [e.name for e in entries if "/" in e.name or not e.name.endswith(".tar")]
    if strays:
        raise ValueError(f"{path} lists {strays[0]!r}: a shard is a .tar in the same folder. {way_out}")
    return entries


def _entry(fields: dict[str, object]) -> ShardEntry:
    entry = ShardEntry(**fields)  # type: ignore[arg-type]  # whatever the file says, which is checked here
    for name, kind in (("name", str), ("sha256", str), ("num_samples", int), ("num_bytes", int)):
        value = getattr(entry, name)
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
            raise ValueError(f"{name} is {value!r:.60}")
    return entry


def read_dataset_facts(content: bytes | str) -> tuple[int, str]:
    """Version of the reader that made a `dataset.json`, which `read_dataset_file` took, and the licence it names."""
    fields = json.loads(content)
    version = fields.get("reader_version")
    return version if isinstance(version, int) else 1, str(fields.get("licence", ""))


def index_folder(folder: Path, *, licence: str = "") -> list[ShardEntry]:
    """Index every `*.tar` of a folder, in the order of their names, and write `dataset.json`."""
    entries = [build_index(shard) for shard in sorted(folder.glob("*.tar"))]
    write_dataset_file(folder, entries, licence=licence)
    return entries
