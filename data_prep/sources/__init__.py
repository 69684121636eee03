"""Published formats, a module each: `rows(path, options)` reads a file, `conversation(row, options)` converts a row.

Rows are plain picklable values, so that workers convert them; an error of `conversation` is an error of that row alone.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

SOURCES = ("table", "llava", "dragonfly", "messages", "parquet", "captions", "vqa_rad", "slake", "path_vqa", "roco")

SHARING = ("table", "parquet", "vqa_rad", "slake", "path_vqa")
"""Formats whose rows are questions about an image, so that `--share-image` can put those about one together."""

BOXED = ("llava", "messages", "parquet")
"""Formats whose rows may have boxes, so that `--boxes text` can write them into their turns."""


@cache
def source(name: str) -> ModuleType:
    """The module of one of `SOURCES`."""
    if name not in SOURCES:
        raise ValueError(f"--from {name} is not a format. Use one of {', '.join(SOURCES)}.")
    return import_module(f".{name}", __package__)
