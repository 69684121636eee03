"""LLaVA's JSON: `{"id", "image": name or names, "conversations": [{"from": "human|gpt", "value": "<image> ..."}]}`.

A conversation that ends with a question may have `chosen` and `rejected` beside it, two answers: a preference.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError

from .conversations import NOT_IMAGES, Options, RawConversation, finish, label, refuse_cells
from .images import images_of
from .turns import preference_of, turns_of


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The samples of a LLaVA file, JSON or JSON lines."""
    return read_rows(path)


def conversation(row: Row, options: Options) -> RawConversation:
    """One sample; one without an image is text only."""
    refuse_cells(row, *NOT_IMAGES)
    images = images_of(row, options.image_columns, "image", "images")
    turns, (chosen, rejected) = turns_of(row, "conversations", options), preference_of(row, options)
    if chosen and turns[-1].role != "user":
        raise row.error("chosen", "answers the last turn, which must be the user's.")
    return finish(row, label(row, "id"), [*turns, *chosen], images, boxes=bool(options.boxes), rejected=rejected)
