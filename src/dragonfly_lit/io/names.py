"""Names of files from texts of any kind and length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

LONGEST = 180
"""Bytes of a name that was made from a text; file systems take 255, and what is written beside it adds some."""


def shortened(name: str) -> str:
    """`name`, or where it is longer than a file's may be its beginning and a digest of all of it."""
    data = name.encode("utf-8", "replace")
    if len(data) <= LONGEST:
        return name
    return f"{data[:LONGEST].decode('utf-8', 'ignore')}-{hashlib.sha256(data).hexdigest()[:8]}"


def job_folder(values: Sequence[tuple[str, str]]) -> str:
    """The folder of a job of a sweep, from what it overrides: `cell=low,seed=0`; never longer than a file's name.

    Args:
        values: key and value of each override.
    """
    items = [f"{key}={value}".replace("/", "-").replace("\0", "-") for key, value in values]
    seeds = [item for item in items if item.startswith("seed=")]
    named = ",".join(items)
    if named != shortened(named):  # the seed stays legible: a cell is all that has the rest of its name
        named = ",".join([shortened(",".join(item for item in items if item not in seeds)), *seeds])
    return named or "default"
