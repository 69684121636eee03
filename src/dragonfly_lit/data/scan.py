"""One walk over a shard: where its samples lie, what each of them holds, and what cannot be read."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dragonfly_lit.data.members import BadSampleError, is_read, raw_sample, split_name, to_record
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES, Gap, Member, ReadAt, read_from, walk
from dragonfly_lit.processing.images import FORMATS, read_header
from dragonfly_lit.spec.samples import Record

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
        preference: whether it has a chosen and a rejected answer.
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
    preference: bool = False
    checksum: str = ""
    image_checksum: str = ""
    error: str = ""


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
            size = _size(image)
            width, height = (width, height) if number else size
        except Exception as problem:  # a decoder fed with foreign bytes raises what it likes
            error = f"image {number} has no readable header ({type(problem).__name__})."
    said = [[t.role, t.text, t.num_images, *t.places] for t in record.turns]
    text = json.dumps(said + ([["rejected", record.rejected]] if record.rejected else [])).encode()
    return Row(
        key=key,
        width=width,
        height=height,
        turns=len(record.turns),
        chars=sum(len(t.text) for t in record.turns) + len(record.rejected),
        num_images=len(record.images),
        share_image=record.share_image,
        preference=bool(record.rejected),
        error=error,
        checksum=hashlib.sha256(images.digest() + text).hexdigest()[:16],
        image_checksum=images.hexdigest()[:16] if record.images else "",
    )


def _size(image: bytes) -> tuple[int, int]:
    """Width and height by the header, whatever a decoder thinks of the rest; whoever packs has just read it."""
    try:
        return read_header(image)[:2]
    except ValueError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(BytesIO(image), formats=FORMATS).size


def row_of(shard: str, key: str, written: bytes) -> Row:
    """The row of a sample whose bytes, from header to header, are `written`."""
    try:
        return _row(key, to_record(raw_sample(shard, written)))
    except BadSampleError as bad:
        return _row(key, bad)


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
