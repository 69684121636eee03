"""A folder of images and a CSV, TSV or JSON-lines file of their captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError

from .conversations import Options, RawConversation, finish, label
from .images import image_cells, images_of
from .turns import caption_turns

IMAGE_COLUMNS = ("image", "file_name", "filename", "image_path", "path")
CAPTION_COLUMNS = ("caption", "text", "description")


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The rows of the caption file."""
    return read_rows(path)


def conversation(row: Row, options: Options) -> RawConversation:
    """One image and its caption as the answer to `options.prompt`."""
    row.pick(*image_cells(row, options.image_columns, *IMAGE_COLUMNS))
    images = images_of(row, options.image_columns, *IMAGE_COLUMNS)
    name = label(row, "id") or (images[0] if isinstance(images[0], str) else "")
    return finish(row, name, caption_turns(row, options, *CAPTION_COLUMNS), images)
