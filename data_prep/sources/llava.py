"""LLaVA's JSON: `{"id", "image": name or names, "conversations": [{"from": "human|gpt", "value": "<image> ..."}]}`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError

from .conversations import NOT_IMAGES, Options, RawConversation, finish, label, refuse_cells, turns_of
from .images import images_of


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The samples of a LLaVA file, JSON or JSON lines."""
    return read_rows(path)


def conversation(row: Row, options: Options) -> RawConversation:
    """One sample; one without an image is text only."""
    refuse_cells(row, *NOT_IMAGES)
    images = images_of(row, options.image_columns, "image", "images")
    return finish(row, label(row, "id"), turns_of(row, "conversations", options), images, boxes=bool(options.boxes))
