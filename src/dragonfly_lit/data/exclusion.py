"""`exclude: FILE` of a source: shards without the samples whose keys a file lists, as if they had never been packed."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from dragonfly_lit.data.shards import Shards
from dragonfly_lit.io.text import text_lines
from dragonfly_lit.spec.samples import Record

log = logging.getLogger(__name__)


def read_keys(path: Path) -> list[str]:
    """The keys that a file lists, one a line; blank lines and those that begin with `#` say nothing.

    Raises:
        ValueError: there is no such file, or it is not text.
    """
    try:
        lines = [line.strip() for line in text_lines(path)]
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    return [line for line in lines if line and not line.startswith("#")]


class Kept:
    """The samples of shards that are not excluded, numbered anew: a `Reader` like the shards themselves.

    Their number and their digest are others than those of the shards, so that a checkpoint of another list is refused
    by name and order, mix and resume need to know nothing of it.

    Args:
        shards: of the source.
        keys: of the samples that are left out.

    Raises:
        ValueError: no sample has one of the keys, or all have.
    """

    def __init__(self, shards: Shards, keys: list[str]):
        self.shards, excluded = shards, set(keys)
        keys_here = [row.key for number in range(len(shards.entries)) for row in shards.rows(number)]
        self._kept = np.array([place for place, key in enumerate(keys_here) if key not in excluded], np.int64)
        unknown = len(excluded.difference(keys_here))
        if excluded and unknown == len(excluded):
            raise ValueError(f"lists {unknown} keys, and no sample here has one: it is the list of other shards.")
        if not len(self._kept):
            raise ValueError(f"lists all {len(keys_here)} samples. Take the source out in place of them.")
        if unknown:
            log.warning("%s: %d of the %d excluded keys are of no sample here.", shards.path, unknown, len(excluded))
        listed = "\n".join(sorted(excluded))
        self._digest = hashlib.sha256(f"{shards.digest}\n{listed}".encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def digest(self) -> str:
        """Of the shards and of what is left out of them."""
        return self._digest

    def __len__(self) -> int:
        return len(self._kept)

    def record(self, index: int, epoch: int = 0) -> Record:
        """The record at `index` of those that are kept."""
        return self.shards.record(int(self._kept[index]), epoch)

    def describe(self, index: int) -> tuple[str, str]:
        """Shard and place of the same."""
        return self.shards.describe(int(self._kept[index]))
