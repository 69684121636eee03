"""Which cells of a row are its images, and what a row looks like whose images nobody read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dragonfly_lit.spec.cells import is_given, shown_name
from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.shard import NAMED_IMAGE_EXTENSIONS

_NUMBERED_TAG = re.compile(r"<image[ _-]?(\d{1,4})>", re.IGNORECASE)
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


def image_cells(row: Row, columns: Sequence[str], *names: str) -> list[str]:
    """The cells of a row where its images are: of the user's own `columns`, or the format's `names`."""
    return [row.cell_of(column) for column in columns] or list(names)


def images_of(row: Row, columns: Sequence[str], *names: str) -> list[str | bytes]:
    """The images of a row: those in the columns that the command line names, else in the format's own `names`."""
    if not columns:
        return row.images(*names)
    return [image for name in image_cells(row, columns) for image in row.images(name)]


def check_images(row: Row, texts: Iterable[str], images: Sequence[str | bytes]) -> None:
    """Raise where a text speaks of an image, or a cell that was not read looks like one, that the row would lack.

    Args:
        row: after its converter read it.
        texts: what the user and the system say.
        images: that were read.
    """
    for name, value in row.values.items():
        for inner in row.inner.get(name, ()):
            check_images(inner, (), images)
        if name in row.read or not is_given(value):
            continue
        if _NUMBERED_COLUMN.fullmatch(name) or (not images and looks_like_image(name, value)):
            raise row.error(
                shown_name(name),
                "looks like an image, and would be left out. Name it with --image-column, or take the column away.",
            )
    tags = [int(number) for text in texts for number in _NUMBERED_TAG.findall(text)]
    if tags and max(tags) > len(images):
        raise RowError(row.place, f"a text speaks of image {max(tags)}, and the row has {len(images)} images.")


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
