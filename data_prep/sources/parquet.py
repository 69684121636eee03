"""Parquet or Arrow as the Hugging Face hub serves it: `image` or `images` with bytes, and text in one of its layouts.

Texts: `conversations` or `messages`; `texts` with `user` and `assistant`; `question` with `answer` or `answers`, and
`choices` or `options` where it has some; `caption` or `text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.samples import Turn

from .conversations import (
    NOT_IMAGES,
    Options,
    RawConversation,
    caption_turns,
    finish,
    label,
    make_turn,
    refuse_cells,
    turns_of,
)
from .files import read_rows
from .images import images_of
from .questions import question_turns

META = ("answer_type", "question_type", "category", "source")
IMAGES = ("images", "image")


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The rows of a Parquet or Arrow file, or of a folder of them."""
    return read_rows(path)


def conversation(row: Row, options: Options) -> RawConversation:
    """One row; images lie in it as bytes, or as names of files in the image folder."""
    meta: dict[str, Any] = {key: row.text(key) for key in row.given(*META) if isinstance(row.values[key], str)}
    name = label(row, "id", "image_id", "question_id", "qid")
    images = images_of(row, options.image_columns, *IMAGES)
    return finish(row, name, row_turns(row, options), images, origin=meta.pop("source", ""), **meta)


def row_turns(row: Row, options: Options) -> list[Turn]:
    """The turns of a row, whichever of the layouts it has."""
    for name in row.given("conversations", "messages"):
        refuse_cells(row, *NOT_IMAGES)
        return turns_of(row, name, options)
    if row.has("texts"):
        return [
            make_turn(pair, role, role, pair.text(role), options)
            for pair in row.rows("texts")
            for role in ("user", "assistant")
        ]
    if "question" in row.values:
        return question_turns(row, options, ("question",), ("answer", "answers", "label"))
    if row.has("caption", "text"):
        return caption_turns(row, options, "caption", "text")
    row.pick("conversations", "messages", "texts", "question", "caption", "text")
    raise AssertionError("pick raises where nothing is given")
