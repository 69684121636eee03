"""File names that come out of data: each means a file inside of a folder that the user chose, or it is refused."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path


class OutsideError(ValueError):
    """A name that means a place outside of its folder."""


def inside(folder: Path, name: object, *, allowed: Path | None = None) -> Path:
    """The place below `folder` that a name from data means; whether a file is there is not asked.

    Links count as what they lead to: `..`, an absolute path and a link may not leave the folder. `folder` itself may
    be a link, and a snapshot of the Hugging Face cache may link to its own blobs.

    Args:
        folder: where the name is looked up.
        name: from the data: a row, a table, an annotation file.
        allowed: a second folder that the file may lie in.

    Raises:
        OutsideError: the place lies outside of both folders.
        ValueError: the name is not a text, is empty, is an address, or cannot be a file's name.
    """
    if not isinstance(name, str):
        raise ValueError(f"{name!r:.60} cannot be the name of a file: it is not a text but {type(name).__name__}.")
    if not name.strip() or "\0" in name or not _encodes(name):
        raise ValueError(f"{name!r:.60} cannot be the name of a file.")
    if "://" in name or name.startswith("data:"):
        raise ValueError(f"{name!r:.60} is an address, and nothing is downloaded. Give the name of a local file.")
    path = folder / name
    if _stays(folder, name):
        return path
    real = os.path.realpath(path)
    roots = [root for place in (folder, allowed) if place is not None for root in _roots(place)]
    if any(real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
        return path
    place = "the current folder" if folder == Path() else folder
    raise OutsideError(f"{name!r:.200} leads to {real}, outside of {place}.")


def _stays(folder: Path, name: str) -> bool:
    """Whether a name leads down from the folder, through no link: what most names do, at the cost of a few looks."""
    parts = name.split("/")
    if os.sep != "/" or any(part in ("", ".", "..") for part in parts):
        return False
    place = os.fspath(folder)
    try:
        for part in parts:
            place = f"{place}/{part}"
            if stat.S_ISLNK(os.lstat(place).st_mode):
                return False
    except OSError:
        return False
    return True


@lru_cache(64)
def _roots(folder: Path) -> list[str]:
    real = Path(os.path.realpath(folder))
    # REPOSITORY/snapshots/REVISION of the Hugging Face cache holds links to REPOSITORY/blobs.
    cache = next((part.parent for part in real.parents if part.name == "snapshots"), None)
    return [str(real), str(cache / "blobs")] if cache is not None and "--" in cache.name else [str(real)]


def _encodes(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half a character
        return False
    return True
