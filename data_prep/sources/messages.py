"""Chats: OpenAI's `messages` with text and image parts, or ShareGPT's `conversations`, with `images` beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError

from .boxes import OBJECTS
from .conversations import NOT_IMAGES, Options, RawConversation, finish, label, refuse_cells
from .images import images_of
from .turns import turns_of

NOT_TEXTS = (*NOT_IMAGES, "bbox", "bboxes", "boxes")
PART_IMAGES = ("image_url", "image", "url", "path", "bytes")


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The conversations of a JSON, JSON-lines or Parquet file."""
    return read_rows(path)


def conversation(row: Row, options: Options) -> RawConversation:
    """One conversation; its images are those of its parts, else those of `images` or `image`."""
    refuse_cells(row, *NOT_TEXTS)
    if row.has(OBJECTS) and not options.boxes:
        raise row.error(
            OBJECTS, "is given, and a sample here has images and text only; --boxes text writes boxes as words."
        )
    name = row.pick("messages", "conversations")
    turns = turns_of(row, name, options)
    inside = list(_part_images(row.inner[name]))
    beside = images_of(row, options.image_columns, "images", "image")
    if inside and beside and inside != beside:
        raise row.error(name, "has images in its parts, and others beside it. Leave one of them empty.")
    return finish(row, label(row, "id"), turns, inside or beside, boxes=bool(options.boxes))


def _part_images(messages: list[Row]) -> Iterator[str | bytes]:
    for message in messages:
        for part in message.inner.get("content", ()):
            if part.values.get("type") in ("image", "image_url") and part.has(*PART_IMAGES):
                name = part.pick(*PART_IMAGES)
                yield part.check_image(name, part.raw(name))
