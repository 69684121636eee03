"""Which file a name that finds none was meant to be, for the message that says so."""

from __future__ import annotations

import mimetypes
import os
import unicodedata
from functools import lru_cache
from pathlib import Path

LOOKED_AT = 100_000
"""Files of a folder; a larger one is not listed for a hint."""


def likely(folder: Path, name: str) -> str:
    """A sentence that names the file that `name` may mean, with a space before it; empty where there is none.

    Tried are names that differ in upper and lower case, in how accents are coded (macOS takes them apart), in `\\` for
    `/`, in folders before them that `folder` has in it already, and in the ending.

    Args:
        folder: where the name was looked up.
        name: as the data have it; nothing lies there.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        return ""
    for start in range(len(parts)):
        found = _below(folder, parts[start:])
        if found is not None and str(found).isprintable():
            return f" {found.relative_to(folder)} is there: write the name as the file has it."
    return ""


def _below(folder: Path, parts: list[str]) -> Path | None:
    place = folder
    for number, part in enumerate(parts):
        listed = _listed(str(place))
        exact = listed.get(_folded(part))
        if exact is None and number == len(parts) - 1:
            exact = listed.get(_stem(part))
        if exact is None:
            return None
        place /= exact
    return place if place.is_file() else None


@lru_cache(256)
def _listed(folder: str) -> dict[str, str]:
    """Names in a folder as they are, by how they are compared: whole, and those of images without their ending."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    if len(names) > LOOKED_AT:
        return {}
    return {_stem(name): name for name in names if _is_image(name)} | {_folded(name): name for name in names}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _stem(name: str) -> str:
    return _folded(os.path.splitext(name)[0])


def _is_image(name: str) -> bool:
    return name.lower().endswith(".dcm") or (mimetypes.guess_type(name)[0] or "").startswith("image/")
