"""Cells of a user's row that nobody has read and that look like an image, or like the choices of its question."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from dragonfly_lit.spec.cells import is_given, shown_name
from dragonfly_lit.spec.rows import Row
from dragonfly_lit.spec.shard import NAMED_IMAGE_EXTENSIONS

_IMAGE_WORD = r"(?:images?|imgs?|pictures?|photos?|pics?|jpe?g|png|webp)"
_NUMBERED_COLUMN = re.compile(rf"{_IMAGE_WORD}[ _-]?\d+", re.IGNORECASE)
_IMAGE_COLUMN = re.compile(rf"{_IMAGE_WORD}(?:[ _-]?\d+)?", re.IGNORECASE)
_IMAGE_COLUMN_IN_PART = re.compile(
    rf"(?:\w+[_-])?{_IMAGE_WORD}(?:[_-]?\d+)?(?:[_-](?:paths?|names?|files?|urls?|bytes|data|list))?", re.IGNORECASE
)
_IMAGE_PATH = re.compile(
    rf"(?:data:image/.*|[^\n]{{1,255}}\.(?:{'|'.join(NAMED_IMAGE_EXTENSIONS)}))", re.IGNORECASE | re.DOTALL
)
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_CHOICE_COLUMN = re.compile(
    r"(?:choices?|options?|candidates|answer[ _-]choices|mc[ _-]options)(?:[ _-]?(?:[a-z]|\d+))?", re.IGNORECASE
)


def check_no_images(row: Row, way_out: str, *, has_images: bool, known: Container[str] = ()) -> None:
    """Raise where a cell that was not read looks like an image that its row would lack.

    Args:
        row: after its images were read.
        way_out: what to do about it.
        has_images: whether the row has images anyway: then only a further one by number counts, such as `image_2`.
        known: names of cells that are not images.

    Raises:
        RowError: it does; the message names the cell.
    """
    for name in row.given(*map(str, row.values)):
        if name in row.read or name in known:
            continue
        if _NUMBERED_COLUMN.fullmatch(name) or (not has_images and looks_like_image(name, row.values[name])):
            raise row.error(shown_name(name), f"looks like an image, and would be left out. {way_out}")


def looks_like_image(name: str, value: Any) -> bool:
    """Whether a cell is an image or names one, by its column's name or by what it holds."""
    if isinstance(value, list | tuple):
        return any(looks_like_image(name, each) for each in value if is_given(each))
    if isinstance(value, int):
        return (
            not isinstance(value, bool) and bool(_IMAGE_COLUMN.fullmatch(name)) and not name.endswith("s")
        )  # else how many there are
    if _IMAGE_COLUMN.fullmatch(name):
        return True
    if isinstance(value, Mapping):
        return bool({"bytes", "path"} & set(value)) and any(looks_like_image(name, each) for each in value.values())
    if isinstance(value, bytes):
        return value.startswith(_IMAGE_MAGIC)
    return isinstance(value, str) and bool(_IMAGE_COLUMN_IN_PART.fullmatch(name) or _IMAGE_PATH.fullmatch(value))


def check_no_choices(row: Row, *names: str) -> None:
    """Raise where a row whose choices nobody found has a cell that looks like some.

    Args:
        row: after its question was read.
        names: of the cells that choices are read from.

    Raises:
        RowError: it has; the message names the cell.
    """
    for name in row.given(*map(str, row.values)):
        if name not in row.read and _CHOICE_COLUMN.fullmatch(name):
            raise row.error(
                shown_name(name),
                f"looks like choices of the question; they are read from {', '.join(names)} or A, B, ... Rename it.",
            )
