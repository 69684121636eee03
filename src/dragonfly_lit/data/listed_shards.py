"""A remote folder of shards that was indexed where it was made: its `dataset.json` lists them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dragonfly_lit.data.failures import RemoteError
from dragonfly_lit.data.index import READER_VERSION, ShardEntry, is_covered, read_dataset_facts, read_dataset_file
from dragonfly_lit.data.remote import read_bytes
from dragonfly_lit.data.shards import Shards
from dragonfly_lit.spec.shard import DATASET_FILE, INDEX_SUFFIX

MAX_LISTING_BYTES = 256 * 2**20
"""Of a remote `dataset.json`: a million shards."""


class ListedShards(Shards):
    """The samples of a remote folder; a shard is copied into the cache when one of its samples is read.

    Its arguments are those of `Shards`, `path` the URL of the folder. A list or an index that is missing or cannot be
    had is a `RemoteError`, an index that is not its shard's a `ValueError`.
    """

    _is_current = True
    """Whether the indices were made by this version, which knows where a shard's samples end."""

    def _list(self) -> list[ShardEntry]:
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

    def _file(self, shard: int) -> Path:
        entry = self.entries[shard]
        return self._cache.fetch(f"{self.path}/{entry.name}", entry.sha256, entry.num_bytes)

    def _offsets_of(self, shard: int, path: Path) -> np.ndarray:
        entry = self.entries[shard]
        offsets = self._from_index(shard, read_bytes(f"{self.path}/{entry.name}{INDEX_SUFFIX}", entry.index_bytes))
        if not self._is_current:
            with path.open("rb") as file:
                if not is_covered(file.fileno(), int(offsets[-1])):
                    raise ValueError(
                        f"shard {self.path}/{entry.name}: its index, of an earlier version, ends before its samples "
                        "do. Index it again where it was made: python -m data_prep index FOLDER"
                    )
        return offsets
