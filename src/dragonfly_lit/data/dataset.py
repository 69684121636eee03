"""A folder of shards, here or far away, as a sequence of samples; what packs and lists them needs no torch for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dragonfly_lit.data.listed_shards import ListedShards
from dragonfly_lit.data.local_shards import LocalShards
from dragonfly_lit.data.remote import is_remote
from dragonfly_lit.data.shards import Shards


def open_dataset(path: str | Path, **options: Any) -> Shards:
    """The samples of an indexed folder of shards in plain order: `len(shards)`, `shards[i]` is a Record.

    Args:
        path: a local folder, indexed on first use, or the URL of one with a `dataset.json`.
        options: of `Shards`.

    Raises:
        ValueError: as `Shards` has it.
    """
    return (ListedShards if is_remote(str(path)) else LocalShards)(path, **options)
