"""Which samples of a folder of shards are exact copies of earlier ones, by the checksums of the sidecars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dragonfly_lit.data.index import read_rows

AT_A_TIME = 2**16


def find_duplicates(shards: Sequence[Path]) -> list[dict[str, str]]:
    """Samples whose turns and image bytes equal those of an earlier one, by the checksums of the sidecars.

    Two numbers a sample are held and no key, but of the copies: there may be millions.
    """
    checksums = np.fromiter((int(row.checksum or "0", 16) for shard in shards for row in read_rows(shard)), np.uint64)
    ordered = np.sort(checksums)
    several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    several = several[several != 0]  # of those without a checksum nothing is known
    places: dict[int, list[int]] = {}
    for start in range(0, len(checksums), AT_A_TIME):
        some = checksums[start : start + AT_A_TIME]
        for place in np.flatnonzero(np.isin(some, several)).tolist():
            places.setdefault(int(some[place]), []).append(start + place)
    keys = _keys_at({place for alike in places.values() for place in alike}, shards)
    copies = sorted((place, alike[0]) for alike in places.values() for place in alike[1:])
    return [{"key": keys[place], "same_as": keys[first]} for place, first in copies]


def _keys_at(places: set[int], shards: Sequence[Path]) -> dict[int, str]:
    """The keys of some samples, which are counted over all shards."""
    if not places:
        return {}
    rows = (row for shard in shards for row in read_rows(shard))
    return {place: row.key for place, row in enumerate(rows) if place in places}
