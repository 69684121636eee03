"""A folder of shards as a sequence of samples: one `pread` a sample, whatever its place."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import gettempdir

import numpy as np

from dragonfly_lit.data.failures import RemoteError
from dragonfly_lit.data.index import ShardEntry
from dragonfly_lit.data.members import BadSampleError, RawSample, raw_sample, to_record
from dragonfly_lit.data.remote import TRIES, Cache
from dragonfly_lit.data.scan import TORN, Row, Scan, scan_shard
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES
from dragonfly_lit.spec.samples import Record
from dragonfly_lit.spec.shard import DATASET_FILE

OPEN_FILES = 128
"""Shards and indices kept open by a process."""

Report = Callable[[BadSampleError], None]


class OpenedShard:
    """Where the samples of one shard lie, and its file descriptor.

    A copy in the cache has none between two reads, so that its place on the disk is free as soon as it must go.
    """

    def __init__(self, path: Path, starts: np.ndarray, ends: np.ndarray, *, keep_open: bool):
        self.path, self.starts, self.ends = path, starts, ends
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if keep_open else None

    def read(self, start: int, size: int) -> bytes:
        if self.fd is not None:
            return os.pread(self.fd, size, start)
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, size, start)
        finally:
            os.close(fd)

    def __del__(self):
        with suppress(OSError, AttributeError, TypeError):
            os.close(self.fd)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Salvaged:
    """What can be read of a damaged shard; nothing of it is kept on the disk, since the shard may be mended."""

    starts: np.ndarray
    ends: np.ndarray
    torn: frozenset[int]
    cut: str

    @classmethod
    def of(cls, scan: Scan) -> Salvaged:
        return cls(starts=np.array(scan.starts, "<u8"), ends=np.array(scan.ends, "<u8"), torn=scan.torn, cut=scan.cut)


class Shards(ABC):
    """The samples of shards, numbered in the order in which they are listed.

    Where the shards lie, and who has listed them, is a class of its own each; `dataset.open_dataset` chooses.

    Args:
        path: of a local folder, or a URL.
        report: where a damaged shard is reported, so that what is whole of it is read; None refuses it.
        cache_dir: where copies of remote shards lie, and indices of folders that cannot be written to.
        cache_bytes: how much the copies may take.
        max_member_bytes: of a member; a sample with a larger one is bad, and is not read into memory.

    Raises:
        ValueError: no such folder, no shard in it, a shard that is not listed, missing, damaged, or of another size.
    """

    keeps_open = False
    """Whether a shard's file stays open between two reads."""

    def __init__(
        self,
        path: str | Path,
        *,
        report: Report | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int = 50 * 10**9,
        max_member_bytes: int = MAX_MEMBER_BYTES,
    ):
        self.path = str(path).rstrip("/") or "/"
        self._report = report
        self._max_member_bytes = max_member_bytes
        self._salvaged: dict[int, Salvaged] = {}
        self._cache = Cache(Path(cache_dir or Path(gettempdir()) / "dragonfly_lit_shards"), cache_bytes)
        self.entries = self._list()
        self._starts = [0, *accumulate(entry.num_samples for entry in self.entries)]
        self._open: OrderedDict[int, OpenedShard] = OrderedDict()
        self._offsets: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        """Of every shard that was read from, 8 bytes a sample: a remote index is fetched once, however few files are
        open."""

    @abstractmethod
    def _list(self) -> list[ShardEntry]:
        """The shards, in the order of their samples; called once, before anything is read."""

    @abstractmethod
    def _file(self, shard: int) -> Path:
        """The shard as a file of this machine, fetched where it has to be."""

    @abstractmethod
    def _offsets_of(self, shard: int, path: Path) -> np.ndarray:
        """Where the samples of a shard begin and the last one ends, n+1 bytes; not asked of a salvaged one.

        Args:
            shard: its number.
            path: of its file.
        """

    def _listed_key(self, shard: int, place: int) -> str | None:
        """The key that the sample in this place must have, where the shard may have changed under its index."""
        return None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, counted from the first shard's first sample."""
        return to_record(self.read(index))

    def record(self, index: int, epoch: int = 0) -> Record:
        """The same, as a `Reader` of a source gives it; shards hold the same record for every epoch."""
        return self[index]

    def __getstate__(self):
        return {**self.__dict__, "_open": OrderedDict()}

    def read(self, index: int) -> RawSample:
        """The members of the sample at `index`, by one read.

        Raises:
            BadSampleError: what lies there is not that sample.
        """
        shard, place = self.locate(index)
        name = self.entries[shard].name
        opened = self._opened(shard)
        start, end = int(opened.starts[place]), int(opened.ends[place])
        limit = 2 * self._max_member_bytes
        if not 0 < end - start <= limit:
            raise BadSampleError(name, f"#{place}", f"the index says bytes {start} to {end}; at most {limit} a sample.")
        data = self._read(shard, opened, start, end - start)
        if len(data) < end - start:
            raise BadSampleError(name, f"#{place}", f"the index says bytes {start} to {end}, but the file ends before.")
        raw = raw_sample(name, data, self._max_member_bytes)
        if shard in self._salvaged and place in self._salvaged[shard].torn:
            raise BadSampleError(name, raw.key, TORN)
        if (listed := self._listed_key(shard, place)) is not None and raw.key != listed:
            raise BadSampleError(name, raw.key, f"the index has {listed!r} in this place.")
        return raw

    def _read(self, shard: int, opened: OpenedShard, start: int, size: int) -> bytes:
        for _ in range(TRIES):
            try:
                return opened.read(start, size)
            except FileNotFoundError:  # the cache let the copy go
                del self._open[shard]
                opened = self._opened(shard)
        raise RemoteError(f"{self.path}: its shards do not stay in {self._cache.folder}. Raise data.cache_gb.")

    def locate(self, index: int) -> tuple[int, int]:
        """Shard number, and place within the shard, of the sample at `index`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]

    def describe(self, index: int) -> tuple[str, str]:
        """Shard name and place of the sample at `index`, for messages."""
        shard, place = self.locate(index)
        return self.entries[shard].name, f"#{place}"

    def rows(self, shard: int) -> list[Row]:
        """What each sample of shard number `shard` holds."""
        return scan_shard(self._file(shard), self._max_member_bytes).rows

    def keys(self) -> Iterator[str]:
        """The key of every sample, in their order."""
        return (row.key for shard in range(len(self.entries)) for row in self.rows(shard))

    @property
    def digest(self) -> str:
        """Of the shards' names, counts and checksums: it changes when the data do."""
        listed = "\n".join(f"{e.name} {e.num_samples} {e.num_bytes} {e.sha256}" for e in self.entries)
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    def _opened(self, shard: int) -> OpenedShard:
        opened = self._open.get(shard)
        if opened is None:
            opened = self._open[shard] = self._opening(shard)
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(shard)
        return opened

    def _opening(self, shard: int) -> OpenedShard:
        path = self._file(shard)
        if shard not in self._offsets:
            self._offsets[shard] = self._bounds(shard, path)
        starts, ends = self._offsets[shard]
        return OpenedShard(path, starts, ends, keep_open=self.keeps_open)

    def _bounds(self, shard: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Where each sample of a shard starts and ends."""
        if shard in self._salvaged:
            return self._salvaged[shard].starts, self._salvaged[shard].ends
        offsets = self._offsets_of(shard, path)
        return offsets[:-1], offsets[1:]

    def _from_index(self, shard: int, content: bytes) -> np.ndarray:
        """The offsets that an index file holds.

        Raises:
            ValueError: it is of another shard, or of another state of it.
        """
        entry = self.entries[shard]
        if len(content) != entry.index_bytes:
            raise ValueError(
                f"shard {self.path}/{entry.name}: its index has {len(content) // 8 - 1} samples, {DATASET_FILE} "
                f"{entry.num_samples}. Index it again: python -m data_prep index {self.path}"
            )
        offsets = np.frombuffer(content, "<u8")
        if offsets[-1] > entry.num_bytes or (np.diff(offsets.astype(np.int64)) <= 0).any():
            raise ValueError(
                f"shard {self.path}/{entry.name}: its index does not fit a file of {entry.num_bytes} bytes. "
                f"Index it again: python -m data_prep index {self.path}"
            )
        return offsets
