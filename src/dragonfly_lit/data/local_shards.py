"""A folder of shards on this machine: its list and indices are made on first use, and looked at ever after."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dragonfly_lit.data.index import (
    READER_VERSION,
    ShardEntry,
    damaged,
    index_path,
    is_outdated,
    read_dataset_facts,
    read_dataset_file,
    read_rows,
    sidecar_path,
    write_dataset_file,
    write_index,
)
from dragonfly_lit.data.making import how_to_make
from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.scan import Row, Scan, scan_shard
from dragonfly_lit.data.shards import Salvaged, Shards
from dragonfly_lit.data.table_files import without_shards
from dragonfly_lit.spec.shard import DATASET_FILE

log = logging.getLogger(__name__)


class LocalShards(Shards):
    """The samples of a folder, numbered in the order of its `dataset.json`.

    Args:
        path: the folder.
        options: of `Shards`.

    Raises:
        ValueError: no such folder, no shard in it, a shard that is not listed, missing, damaged, or of another size.
    """

    keeps_open = True

    def __init__(self, path: str | Path, **options: Any):
        self._suspect: dict[int, list[str] | None] = {}
        """Keys of shards whose size is not the listed one, once they were looked up."""
        self._spare: Path | None = None
        """Where indices lie that could not be written beside their shards."""
        super().__init__(path, **options)

    def _list(self) -> list[ShardEntry]:
        folder = Path(self.path)
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

    def _file(self, shard: int) -> Path:
        return Path(self.path) / self.entries[shard].name

    def _offsets_of(self, shard: int, path: Path) -> np.ndarray:
        if not index_path(path, self._index_folder(path)).is_file():
            self._build(path)
        return self._from_index(shard, index_path(path, self._index_folder(path)).read_bytes())

    def rows(self, shard: int) -> list[Row]:
        """The sidecar of shard number `shard`, built where it is missing."""
        path = self._file(shard)
        if shard in self._salvaged:
            return super().rows(shard)
        folder = self._index_folder(path, sidecar_path)
        if not sidecar_path(path, folder).is_file():
            self._build(path)
            folder = self._index_folder(path, sidecar_path)
        return read_rows(path, folder)

    def _listed_key(self, shard: int, place: int) -> str | None:
        """As the sidecar has it, of a shard whose size is not the listed one; None if it does not say."""
        if shard not in self._suspect:
            return None
        keys = self._suspect[shard]
        if keys is None:
            path = self._file(shard)
            try:
                keys = [row.key for row in read_rows(path, self._index_folder(path, sidecar_path))]
            except (OSError, ValueError):
                keys = []
            self._suspect[shard] = keys = keys if len(keys) == self.entries[shard].num_samples else []
        return keys[place] if keys else None

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
