"""Files and folders that appear under their name whole or not at all; a kill leaves the old ones or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dragonfly_lit.io import disk

PARTIAL = ".partial"
"""End of the hidden name under which something is written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write a file to; it becomes `path`, on the disk, when the block ends well.

    The name is this process's own, so that two processes never write into one another's file: the last one wins.

    Raises:
        OSError: the disk refuses it; names `path`, which is as it was before.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with disk.naming(path):
        try:
            yield partial
            sync(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write(path: Path, data: str | bytes) -> None:
    """Write `data` so that a reader sees the old file or the whole new one; text as UTF-8."""
    with replacing(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: Path, folder: Path) -> None:
    """Give a finished folder its name, for good: the names in it and beside it are on the disk when this returns."""
    sync(partial)
    partial.rename(folder)
    sync(folder.parent)
