"""Parquet or Arrow as the Hugging Face hub serves it: `image` or `images` with bytes, and text in one of its layouts.

Texts: `conversations` or `messages`; `texts` with `user` and `assistant`; `question` with `answer` or `answers`, and
`choices` or `options` where it has some; `caption` or `text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.samples import Turn

from .conversations import NOT_IMAGES, Options, RawConversation, finish, label, refuse_cells
from .images import images_of
from .questions import question_turns, questions_about
from .turns import caption_turns, make_turn, turns_of

META = ("answer_type", "question_type", "category", "source")
IMAGES = ("images", "image")
IDS = ("id", "image_id", "question_id", "qid")
ANSWERS = ("answer", "answers", "label")


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The rows of a Parquet or Arrow file, or of a folder of them."""
    return read_rows(path)


def conversation(same: list[Row], options: Options) -> RawConversation:
    """One row, or the questions that share an image; images lie in it as bytes, or as names in the image folder."""
    row = same[0]
    if len(same) > 1 or (options.share_image and "question" in row.values):
        return _shared(same, options)
    meta: dict[str, Any] = {key: row.text(key) for key in row.given(*META) if isinstance(row.values[key], str)}
    name = label(row, *IDS)
    images = images_of(row, options.image_columns, *IMAGES)
    boxes, origin = bool(options.boxes), meta.pop("source", "")
    return finish(row, name, row_turns(row, options), images, boxes=boxes, origin=origin, **meta)


def _shared(rows: list[Row], options: Options) -> RawConversation:
    """Questions that share an image; what is kept of each is a list."""
    for row in rows:
        for name in ("conversations", "messages", "texts"):
            if row.has(name):
                raise row.error(name, "is a conversation; --share-image is for rows of a question and its answer.")
    names = [label(row, *IDS) for row in rows]
    meta = {key: [row.text_or("", key) for row in rows] for key in META if any(row.has(key) for row in rows)}
    origin = next(iter(meta.pop("source", [])), "")
    return questions_about(
        rows,
        options,
        *IMAGES,
        answers=ANSWERS,
        name=names[0],
        origin=origin,
        question_ids=[n for n in names if n],
        **meta,
    )


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
        return question_turns(row, options, ("question",), ANSWERS)
    if row.has("caption", "text"):
        return caption_turns(row, options, "caption", "text")
    row.pick("conversations", "messages", "texts", "question", "caption", "text")
    raise AssertionError("pick raises where nothing is given")
