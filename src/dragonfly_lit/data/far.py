"""Shards of a web server, a store or a hub without a list of ours: indexed on first use, streamed afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dragonfly_lit.data.failures import NoRangesError, RemoteError, is_absent
from dragonfly_lit.data.fetching import CHUNK, FarFile, facts_of, read_range
from dragonfly_lit.data.first_use import AT_ONCE, Known
from dragonfly_lit.data.index import READER_VERSION, ShardEntry, damaged
from dragonfly_lit.data.listing import SHARD, find_files, is_web, names_files
from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.remote import CHANGED, TRIES, Cache
from dragonfly_lit.data.scan import Scan, scan_shard
from dragonfly_lit.data.shards import OpenedShard, Report, Salvaged, Shards
from dragonfly_lit.data.table_files import SUFFIXES
from dragonfly_lit.spec.shard import DATASET_FILE

FOLDER = "index-far"
"""Of the cache: what is known of remote files, which is small and never taken away to make place."""
log = logging.getLogger(__name__)


def foreign_files(path: str) -> list[FarFile]:
    """The shards or tables that a URL means; none where it is a folder with a `dataset.json`.

    Raises:
        ValueError: it means none, or tables and shards at once; the message names the way out.
    """
    if not names_files(path, (SHARD, *SUFFIXES)):
        try:
            facts_of(f"{path.rstrip('/')}/{DATASET_FILE}")
            return []
        except RemoteError as error:
            if not is_absent(error):
                raise
        if is_web(path):
            raise ValueError(
                f"there is no {DATASET_FILE}, and a web server does not list its files. Name them: "
                f"{path.rstrip('/')}/{{000..127}}.tar"
            )
    files = find_files(path, (SHARD, *SUFFIXES))
    kinds = sorted({file.suffix for file in files})
    if SHARD in kinds and len(kinds) > 1:
        raise ValueError(f"it has {' and '.join(kinds)} files. Name one kind: {path.rstrip('/')}/*.tar")
    strange = [file for file in files if file.suffix not in (SHARD, *SUFFIXES)]
    if strange:
        raise ValueError(f"{strange[0]} is neither a shard (.tar) nor a table ({', '.join(SUFFIXES)}).")
    return files


def gives_ranges(file: FarFile) -> bool:
    """Whether the server of a file gives parts of it."""
    try:
        read_range(file.url, min(1, file.num_bytes), min(2, file.num_bytes))
    except NoRangesError:
        return False
    return True


class _Index(NamedTuple):
    """What is kept of a shard that is whole.

    Attributes:
        sha256: of the shard.
        chunks: checksums of its parts of `CHUNK` bytes.
        offsets: n+1 bytes at which its samples begin.
    """

    sha256: str
    chunks: list[str]
    offsets: np.ndarray

    def to_bytes(self) -> bytes:
        return json.dumps({"sha256": self.sha256, "chunks": self.chunks}).encode() + b"\n" + self.offsets.tobytes()

    @classmethod
    def of(cls, content: bytes) -> _Index:
        told, _, offsets = content.partition(b"\n")
        return cls(**json.loads(told), offsets=np.frombuffer(offsets, "<u8"))


class FarShards(Shards):
    """The samples of remote shards as they lie, numbered in the order of the files.

    Shards that fit twice into the cache are copied whole as soon as one is read from; of more than that, parts are.

    Args:
        path: that they were named by.
        files: in their order.
        report: where a damaged shard is reported, so that what is whole of it is read; None refuses it.
        cache_dir: where copies and indices lie.
        cache_bytes: how much the copies may take.
        options: of `Shards`.

    Raises:
        ValueError: a shard cannot be had, is damaged or not a tar.
    """

    def __init__(
        self,
        path: str,
        files: list[FarFile],
        *,
        report: Report | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int = 50 * 10**9,
        **options: Any,
    ):
        self.files = files
        self._paged = False
        self._indices: dict[int, _Index] = {}
        super().__init__(path, report=report, cache_dir=cache_dir, cache_bytes=cache_bytes, **options)

    def _list(self) -> list[ShardEntry]:
        numbers: dict[str, list[int]] = {}
        for number, file in enumerate(self.files):
            numbers.setdefault(file.key, []).append(number)
        largest = max(file.num_bytes for file in self.files)
        at_once = min(AT_ONCE, self._cache.max_bytes // (2 * max(1, largest)))

        def find_out(file: FarFile) -> bytes | None:
            return self._indexed_from(file, numbers[file.key])

        kind = f"shard {READER_VERSION} {self._max_member_bytes}"
        known = Known(self._cache.folder / FOLDER, kind, find_out).of(self.files, self.path, at_once)
        entries = [self._entry(number, content) for number, content in enumerate(known)]
        self._paged = self._is_paged()
        return entries

    def _entry(self, number: int, content: bytes | None) -> ShardEntry:
        file = self.files[number]
        if content is None:
            salvaged = self._salvaged[number]
            assert self._report is not None  # else the shard was refused
            self._report(BadSampleError(file.name, "*", f"{salvaged.cut}."))
            num_samples, sha256 = len(salvaged.starts), salvaged.cut
        else:
            self._indices[number] = index = _Index.of(content)
            num_samples, sha256 = len(index.offsets) - 1, index.sha256
        return ShardEntry(name=file.name, num_samples=num_samples, num_bytes=file.num_bytes, sha256=sha256)

    def _is_paged(self) -> bool:
        total = sum(file.num_bytes for file in self.files)
        if 2 * total <= self._cache.max_bytes:
            return False
        if gives_ranges(self.files[0]):
            return True
        log.warning(
            "%s: its server gives whole files only, and their %.1f GB fill more than half of data.cache_gb: shards will"
            " be fetched again and again. Raise data.cache_gb.",
            *(self.path, total / 1e9),
        )
        return False

    def _indexed_from(self, file: FarFile, numbers: list[int]) -> bytes | None:
        """The index of a shard, from a copy of it; nothing is kept of a damaged one, since it may be mended."""
        for _ in range(TRIES):
            copy = self._cache.copy(file, "")
            try:
                scan = scan_shard(copy, self._max_member_bytes)
                if scan.cut:
                    self._refuse_or_salvage(file, numbers, copy, scan)
                    return None
                return _index_of(copy, scan).to_bytes()
            except FileNotFoundError:  # the copy had to go to make place for another
                continue
            except RemoteError:
                raise
            except ValueError as error:
                raise RemoteError(str(error).replace(str(copy), file.url)) from None
        raise RemoteError(f"{file.url} does not stay in {self._cache.folder}. Raise data.cache_gb.")

    def _refuse_or_salvage(self, file: FarFile, numbers: list[int], copy: Path, scan: Scan) -> None:
        with copy.open("rb") as opened:
            page = opened.read(512).lstrip()[:1] == b"<"
        if page or self._report is None:
            copy.unlink(missing_ok=True)  # the next start asks for it again
        if page:
            raise RemoteError(f"{file.url} is a web page and not a tar: is the address right, and must one log in?")
        if self._report is None:
            raise RemoteError(damaged(copy, scan).replace(str(copy), file.url))
        self._salvaged.update(dict.fromkeys(numbers, Salvaged.of(scan)))

    def _file(self, shard: int) -> Path:
        known = "" if shard in self._salvaged else self.entries[shard].sha256
        return self._cache.copy(self.files[shard], known)

    def _offsets_of(self, shard: int, path: Path) -> np.ndarray:
        return self._indices[shard].offsets

    def _opening(self, shard: int) -> OpenedShard:
        if not self._paged or shard in self._salvaged:
            return super()._opening(shard)
        starts, ends = self._bounds(shard, Path())
        return _Paged(self._cache, self.files[shard], self._indices[shard].chunks, starts, ends)


def _index_of(copy: Path, scan: Scan) -> _Index:
    digest, chunks = hashlib.sha256(), []
    with copy.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            chunks.append(hashlib.sha256(chunk).hexdigest()[:32])
    return _Index(digest.hexdigest(), chunks, scan.offsets)


class _Paged(OpenedShard):
    """A shard of which the cache has parts, each verified when it comes."""

    def __init__(self, cache: Cache, file: FarFile, chunks: list[str], starts: np.ndarray, ends: np.ndarray):
        super().__init__(Path(), starts, ends, keep_open=False)
        self._cache, self._file, self._chunks = cache, file, chunks

    def read(self, start: int, size: int) -> bytes:
        first, last = start // CHUNK, (start + size - 1) // CHUNK
        data = b"".join(self._part(number) for number in range(first, last + 1)) if first < last else None
        if data is None:
            return self._part(first, start - first * CHUNK, size)
        return data[start - first * CHUNK :][:size]

    def _part(self, number: int, start: int = 0, size: int = CHUNK) -> bytes:
        for _ in range(TRIES):
            copy = self._cache.made(
                f"{self._file.url} (part {number})", f"{self._file.key}\npart {number}", lambda: self._fetch(number)
            )
            try:
                fd = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                return os.pread(fd, size, start)
            finally:
                os.close(fd)
        raise RemoteError(f"parts of {self._file.url} do not stay in {self._cache.folder}. Raise data.cache_gb.")

    def _fetch(self, number: int) -> bytes:
        start = number * CHUNK
        content = read_range(self._file.url, start, min(start + CHUNK, self._file.num_bytes))
        if hashlib.sha256(content).hexdigest()[:32] != self._chunks[number]:
            raise RemoteError(
                f"{self._file.url} is not the file that was there before: bytes from {start:,} on differ. {CHANGED}"
            )
        return content
