"""A folder of shards as a sequence of samples: one `pread` a sample, whatever its place."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from tempfile import gettempdir

import numpy as np

from dragonfly_lit.data.index import (
    Row,
    ShardEntry,
    build_index,
    index_path,
    read_dataset_file,
    read_rows,
    scan_shard,
    sidecar_path,
    write_dataset_file,
)
from dragonfly_lit.data.remote import Cache, is_remote, read_bytes
from dragonfly_lit.data.samples import BadSampleError, RawSample, raw_sample, to_record
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES
from dragonfly_lit.spec.records import Record
from dragonfly_lit.spec.shard import DATASET_FILE, INDEX_SUFFIX

OPEN_FILES = 128
"""Shards and indices kept open by a process."""
MAX_SAMPLE_BYTES = 2 * MAX_MEMBER_BYTES

Report = Callable[[BadSampleError], None]


class _Opened:
    """File descriptor and offsets of one shard."""

    def __init__(self, path: Path, offsets: np.ndarray):
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.offsets = offsets

    def __del__(self):
        with suppress(OSError, AttributeError):
            os.close(self.fd)


class Shards:
    """The samples of a folder of shards, numbered in the order of `dataset.json`.

    Args:
        path: a local folder, or the URL of one (with a `dataset.json`).
        report: where a damaged shard is reported, so that what is whole of it is read; None refuses it.
        cache_dir: where copies of remote shards lie.
        cache_bytes: how much they may take.

    Raises:
        ValueError: no such folder, no shard in it, a shard that is not listed, missing, cut, or of another size.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        report: Report | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int = 50 * 10**9,
    ):
        self.path = str(path).rstrip("/")
        self.remote = is_remote(self.path)
        self._report = report
        self._salvaged: dict[int, np.ndarray] = {}
        self._suspect: set[int] = set()
        self._cache = Cache(Path(cache_dir or Path(gettempdir()) / "dragonfly_lit_shards"), cache_bytes)
        self.entries = self._remote_entries() if self.remote else self._local_entries(Path(self.path))
        self._starts = [0, *accumulate(entry.num_samples for entry in self.entries)]
        self._open: OrderedDict[int, _Opened] = OrderedDict()

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
        start, end = int(opened.offsets[place]), int(opened.offsets[place + 1])
        if not 0 < end - start <= MAX_SAMPLE_BYTES:
            raise BadSampleError(
                name, f"#{place}", f"the index says bytes {start} to {end}; at most {MAX_SAMPLE_BYTES} a sample."
            )
        data = os.pread(opened.fd, end - start, start)
        if len(data) < end - start:
            raise BadSampleError(name, f"#{place}", f"the index says bytes {start} to {end}, but the file ends before.")
        raw = raw_sample(name, data)
        if shard in self._suspect and raw.key != self.rows(shard)[place].key:
            raise BadSampleError(name, raw.key, f"the index has {self.rows(shard)[place].key!r} in this place.")
        return raw

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
        """The sidecar of shard number `shard`, built where it is missing."""
        if shard in self._salvaged:
            return scan_shard(self._local(shard)).rows
        path = self._local(shard)
        if not sidecar_path(path).exists():
            build_index(path)
        return read_rows(path)

    @property
    def digest(self) -> str:
        """Of the shards' names, counts and checksums: it changes when the data do."""
        listed = "\n".join(f"{e.name} {e.num_samples} {e.num_bytes} {e.sha256}" for e in self.entries)
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    def _local(self, shard: int) -> Path:
        entry = self.entries[shard]
        if self.remote:
            return self._cache.fetch(f"{self.path}/{entry.name}", entry.sha256, entry.num_bytes)
        return Path(self.path) / entry.name

    def _opened(self, shard: int) -> _Opened:
        opened = self._open.get(shard)
        if opened is None:
            path = self._local(shard)
            opened = self._open[shard] = _Opened(path, self._offsets(shard, path))
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(shard)
        return opened

    def _offsets(self, shard: int, path: Path) -> np.ndarray:
        if shard in self._salvaged:
            return self._salvaged[shard]
        if self.remote:
            content = read_bytes(f"{self.path}/{self.entries[shard].name}{INDEX_SUFFIX}")
        else:
            if not index_path(path).exists():
                build_index(path)
            content = index_path(path).read_bytes()
        entry = self.entries[shard]
        if len(content) != 8 * (entry.num_samples + 1):
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

    def _remote_entries(self) -> list[ShardEntry]:
        url = f"{self.path}/{DATASET_FILE}"
        try:
            return read_dataset_file(read_bytes(url), url)
        except ValueError as error:
            raise ValueError(
                f"{error}\nA remote folder needs its {DATASET_FILE} and indices: index it where it was made."
            ) from None

    def _local_entries(self, folder: Path) -> list[ShardEntry]:
        if not folder.is_dir():
            raise ValueError(f"folder {folder} does not exist.")
        with os.scandir(folder) as found:
            sizes = {item.name: item.stat().st_size for item in found if item.name.endswith(".tar")}
        listing = folder / DATASET_FILE
        if not listing.exists():
            return self._index_all(folder, sorted(sizes))
        entries = read_dataset_file(listing.read_bytes(), str(listing))
        again = f"python -m data_prep index {folder}"
        missing = [entry.name for entry in entries if entry.name not in sizes]
        if missing:
            raise ValueError(
                f"shard {folder / missing[0]} is listed in {DATASET_FILE} but missing. Index again: {again}"
            )
        unlisted = sizes.keys() - {entry.name for entry in entries}
        if unlisted:
            raise ValueError(f"shard {folder / min(unlisted)} is not listed in {DATASET_FILE}. Index again: {again}")
        for number, entry in enumerate(entries):
            if sizes[entry.name] != entry.num_bytes:
                self._damaged(
                    number,
                    entry.name,
                    f"it has {sizes[entry.name]} bytes, but its index was made for {entry.num_bytes}. "
                    f"Restore it, or index it again: {again}",
                )
        if not entries:
            raise ValueError(f"{listing} lists no shard. Write some first: python -m data_prep pack --help")
        return entries

    def _damaged(self, number: int, name: str, reason: str) -> None:
        if self._report is None:
            raise ValueError(f"shard {self.path}/{name}: {reason}")
        self._report(BadSampleError(name, "*", reason))
        self._suspect.add(number)

    def _index_all(self, folder: Path, names: list[str]) -> list[ShardEntry]:
        """Index a foreign folder on its first use; a cut shard is kept out of `dataset.json`."""
        if not names:
            raise ValueError(f"folder {folder} has no shard (*.tar). Write some first: python -m data_prep pack --help")
        entries = []
        for number, name in enumerate(names):
            try:
                entries.append(build_index(folder / name))
            except ValueError:
                if self._report is None:
                    raise
                scan = scan_shard(folder / name)
                self._report(BadSampleError(name, "*", f"{scan.cut}; {len(scan.rows)} samples lie before."))
                self._salvaged[number] = scan.offsets
                num_bytes = (folder / name).stat().st_size
                entries.append(ShardEntry(name=name, num_samples=len(scan.rows), num_bytes=num_bytes, sha256=scan.cut))
        if not self._salvaged:
            write_dataset_file(folder, entries)
        return entries


def open_dataset(path: str | Path) -> Shards:
    """The samples of a folder of shards in plain order: `len(shards)`, `shards[i]` is a Record."""
    return Shards(path)
