"""A folder of shards as a sequence of samples: one `pread` a sample, whatever its place."""

from __future__ import annotations

import hashlib
import logging
import os
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
from dragonfly_lit.data.index import (
    READER_VERSION,
    ShardEntry,
    damaged,
    index_path,
    is_covered,
    is_outdated,
    read_dataset_facts,
    read_dataset_file,
    read_rows,
    sidecar_path,
    write_dataset_file,
    write_index,
)
from dragonfly_lit.data.making import how_to_make
from dragonfly_lit.data.remote import TRIES, Cache, is_remote, read_bytes
from dragonfly_lit.data.samples import BadSampleError, RawSample, raw_sample, to_record
from dragonfly_lit.data.scan import TORN, Row, Scan, scan_shard
from dragonfly_lit.data.table_files import without_shards
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES
from dragonfly_lit.spec.samples import Record
from dragonfly_lit.spec.shard import DATASET_FILE, INDEX_SUFFIX

OPEN_FILES = 128
"""Shards and indices kept open by a process."""
MAX_LISTING_BYTES = 256 * 2**20
"""Of a remote `dataset.json`: a million shards."""

Report = Callable[[BadSampleError], None]
log = logging.getLogger(__name__)


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


class Shards:
    """The samples of a folder of shards, numbered in the order of `dataset.json`.

    Args:
        path: a local folder, or the URL of one (with a `dataset.json`).
        report: where a damaged shard is reported, so that what is whole of it is read; None refuses it.
        cache_dir: where copies of remote shards lie, and indices of folders that cannot be written to.
        cache_bytes: how much the copies may take.
        max_member_bytes: of a member; a sample with a larger one is bad, and is not read into memory.

    Raises:
        ValueError: no such folder, no shard in it, a shard that is not listed, missing, damaged, or of another size.
    """

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
        self.remote = is_remote(self.path)
        self._report = report
        self._max_member_bytes = max_member_bytes
        self._salvaged: dict[int, Salvaged] = {}
        self._suspect: dict[int, list[str] | None] = {}
        self._cache = Cache(Path(cache_dir or Path(gettempdir()) / "dragonfly_lit_shards"), cache_bytes)
        self._spare: Path | None = None
        """Where indices lie that could not be written beside their shards."""
        self._is_current = True
        self.entries = self._remote_entries() if self.remote else self._local_entries(Path(self.path))
        self._starts = [0, *accumulate(entry.num_samples for entry in self.entries)]
        self._open: OrderedDict[int, OpenedShard] = OrderedDict()
        self._offsets: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        """Of every shard that was read from, 8 bytes a sample: a remote index is fetched once, however few files are
        open."""

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
        if shard in self._suspect and (keys := self._listed_keys(shard)) is not None and raw.key != keys[place]:
            raise BadSampleError(name, raw.key, f"the index has {keys[place]!r} in this place.")
        return raw

    def _read(self, shard: int, opened: OpenedShard, start: int, size: int) -> bytes:
        for _ in range(TRIES):
            try:
                return opened.read(start, size)
            except FileNotFoundError:
                if not self.remote:
                    raise
                del self._open[shard]  # the cache let the copy go
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
        """The sidecar of shard number `shard`, built where it is missing."""
        path = self._local(shard)
        if self.remote or shard in self._salvaged:
            return scan_shard(path, self._max_member_bytes).rows
        folder = self._index_folder(path, sidecar_path)
        if not sidecar_path(path, folder).is_file():
            self._build(path)
            folder = self._index_folder(path, sidecar_path)
        return read_rows(path, folder)

    def keys(self) -> Iterator[str]:
        """The key of every sample, in their order."""
        return (row.key for shard in range(len(self.entries)) for row in self.rows(shard))

    def _listed_keys(self, shard: int) -> list[str] | None:
        """Keys of a shard whose size is not the listed one, as the sidecar has them; None if it does not say."""
        if self._suspect[shard] is None:
            path = self._local(shard)
            try:
                keys = [row.key for row in read_rows(path, self._index_folder(path, sidecar_path))]
            except (OSError, ValueError):
                keys = []
            self._suspect[shard] = keys if len(keys) == self.entries[shard].num_samples else []
        return self._suspect[shard] or None

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
        path = self._local(shard)
        if shard not in self._offsets:
            self._offsets[shard] = self._bounds(shard, path)
        starts, ends = self._offsets[shard]
        return OpenedShard(path, starts, ends, keep_open=not self.remote)

    def _bounds(self, shard: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Where each sample of a shard starts and ends."""
        if shard in self._salvaged:
            return self._salvaged[shard].starts, self._salvaged[shard].ends
        entry = self.entries[shard]
        size = 8 * (entry.num_samples + 1)
        if self.remote:
            content = read_bytes(f"{self.path}/{entry.name}{INDEX_SUFFIX}", size)
        else:
            if not index_path(path, self._index_folder(path)).is_file():
                self._build(path)
            content = index_path(path, self._index_folder(path)).read_bytes()
        if len(content) != size:
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
        if self.remote and not self._is_current:
            with path.open("rb") as file:
                if not is_covered(file.fileno(), int(offsets[-1])):
                    raise ValueError(
                        f"shard {self.path}/{entry.name}: its index, of an earlier version, ends before its samples "
                        "do. Index it again where it was made: python -m data_prep index FOLDER"
                    )
        return offsets[:-1], offsets[1:]

    def _index_folder(self, path: Path, which: Callable[[Path, Path | None], Path] = index_path) -> Path | None:
        """Where the index of a shard lies: None beside it."""
        return None if self._spare is None or which(path, None).is_file() else self._spare

    def _build(self, path: Path, scan: Scan | None = None) -> ShardEntry:
        """Index a shard: beside it or, where that cannot be, in the cache."""
        scan = scan or scan_shard(path, self._max_member_bytes)
        if scan.cut:
            raise ValueError(damaged(path, scan))
        if self._spare is None or index_path(path).is_file():
            try:
                return write_index(path, scan)
            except OSError as error:
                self._use_spare(path.parent, error)
        return write_index(path, scan, self._spare)

    def _use_spare(self, folder: Path, error: OSError) -> None:
        """From now on write indices of `folder` into the cache."""
        self._spare = self._spare_of(folder)
        self._spare.mkdir(parents=True, exist_ok=True)
        log.warning("%s cannot be written to (%s): its index is kept in %s", folder, error.strerror, self._spare)

    def _spare_of(self, folder: Path) -> Path:
        """A folder of the cache for these very shards: another one as soon as a size or a time of theirs changes."""
        with os.scandir(folder) as found:
            states = sorted((i.name, i.stat().st_size, i.stat().st_mtime_ns) for i in found if i.name.endswith(".tar"))
        name = hashlib.sha256(f"{READER_VERSION} {folder.resolve()} {states}".encode("utf-8", "replace")).hexdigest()
        return self._cache.folder / f"index-{name[:32]}"

    def _remote_entries(self) -> list[ShardEntry]:
        url = f"{self.path}/{DATASET_FILE}"
        try:
            content = read_bytes(url, MAX_LISTING_BYTES)
            entries = read_dataset_file(content, url)
            self._is_current = read_dataset_facts(content)[0] >= READER_VERSION
            return entries
        except ValueError as error:
            raise RemoteError(
                f"{error} A remote folder needs its {DATASET_FILE} and indices: index it where it was made."
            ) from error.__cause__

    def _local_entries(self, folder: Path) -> list[ShardEntry]:
        if not folder.is_dir():
            raise without_shards(folder)
        with os.scandir(folder) as found:
            sizes = {item.name: item.stat().st_size for item in found if item.name.endswith(".tar")}
        listing = folder / DATASET_FILE
        if not listing.exists():
            spare = self._spare_of(folder)
            if not (spare / DATASET_FILE).exists():
                return self._index_all(folder, sorted(sizes))
            self._spare, listing = spare, spare / DATASET_FILE
        content = listing.read_bytes()
        entries = read_dataset_file(content, str(listing))
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
            raise ValueError(f"{listing} lists no shard. Write some first: {how_to_make(str(folder))}")
        version, licence = read_dataset_facts(content)
        return entries if version >= READER_VERSION else self._renewed(folder, entries, licence)

    def _renewed(self, folder: Path, entries: list[ShardEntry], licence: str) -> list[ShardEntry]:
        """The shards of a listing by an earlier version, those of which it missed something indexed anew."""
        for number, entry in enumerate(entries):
            path = folder / entry.name
            if number not in self._suspect and index_path(path).is_file() and is_outdated(path):
                entries[number] = self._indexed(number, path)
        if not self._salvaged and not self._suspect:
            with suppress(OSError):  # it is looked at once more the next time
                write_dataset_file(folder, entries, licence=licence)
        return entries

    def _damaged(self, number: int, name: str, reason: str) -> None:
        if self._report is None:
            raise ValueError(f"shard {self.path}/{name}: {reason}")
        self._report(BadSampleError(name, "*", reason))
        self._suspect[number] = None

    def _index_all(self, folder: Path, names: list[str]) -> list[ShardEntry]:
        """Index a foreign folder on its first use; of a damaged shard nothing is kept."""
        if not names:
            raise without_shards(folder)
        entries = [self._indexed(number, folder / name) for number, name in enumerate(names)]
        if not self._salvaged:
            if self._spare is None:
                try:
                    write_dataset_file(folder, entries)
                except OSError as error:
                    self._use_spare(folder, error)
            if self._spare is not None:
                write_dataset_file(self._spare, entries)
        return entries

    def _indexed(self, number: int, path: Path) -> ShardEntry:
        """Index one shard, or under `report` say what is damaged and read what is whole."""
        scan = scan_shard(path, self._max_member_bytes)
        if not scan.cut or self._report is None:
            return self._build(path, scan)
        self._report(BadSampleError(path.name, "*", f"{scan.cut}."))
        self._salvaged[number] = Salvaged.of(scan)
        return ShardEntry(name=path.name, num_samples=len(scan.rows), num_bytes=path.stat().st_size, sha256=scan.cut)


def open_dataset(path: str | Path) -> Shards:
    """The samples of a folder of shards in plain order: `len(shards)`, `shards[i]` is a Record."""
    return Shards(path)
