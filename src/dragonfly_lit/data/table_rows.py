"""A row of a hub's table as a record: its images, and turns of a conversation, pairs of texts, or a caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dragonfly_lit.data.table_files import PACK
from dragonfly_lit.spec.rows import Row
from dragonfly_lit.spec.samples import Record, Turn
from dragonfly_lit.spec.shard import CHOSEN, REJECTED, SYSTEM, TURNS, record_from_json

IMAGES, PAIRS, CAPTIONS = ("images", "image"), "texts", ("caption", "text")
TEXTS = (*TURNS, PAIRS, *CAPTIONS)
"""Columns of which a row needs one."""
ANSWERS = (CHOSEN, REJECTED)
COLUMNS = (*IMAGES, *TEXTS, *ANSWERS, SYSTEM)


def record_of(key: str, row: Row, check: Callable[[bytes], None] = lambda image: None) -> Record:
    """The record of a row: turns of `conversations` or `messages`, pairs of `texts`, or a caption.

    Turns that end with a question may have `chosen` and `rejected` answers beside them, all turns a `system` text.

    Args:
        key: of the record.
        row: with its images as bytes.
        check: raises for an image that is too large.

    Raises:
        ValueError: it is in no form that is read.
    """
    images = []
    for image in row.images(*IMAGES):
        if isinstance(image, str):
            name, told = row.given(*IMAGES)[0], f"found the name {image!r:.60}"
            raise row.error(name, f"{told}; only images that lie in the row are read. Pack it: {PACK}")
        check(image)
        images.append(image)
    said = row.given(*TURNS, PAIRS)
    if said:
        turns = list(_pairs(row)) if said[0] == PAIRS else [_turn(turn) for turn in row.rows(said[0], "turns")]
        answers = {name: _answer(row, name) for name in row.given(*ANSWERS)}
        return record_from_json(key, {TURNS[0]: turns, SYSTEM: row.raw(SYSTEM), **answers}, tuple(images))
    if answers := row.given(*ANSWERS):
        raise row.error(answers[0], f"is an answer, but {', '.join(TURNS)} have no question to it. Pack it: {PACK}")
    caption = row.text(*CAPTIONS)
    if not images:
        raise row.error(row.pick(*CAPTIONS), "is a caption, but there is no image beside it.")
    turns = (Turn(role="user", text="", num_images=len(images)), Turn(role="assistant", text=caption.strip()))
    return Record(key=key, source="", turns=turns, images=tuple(images), is_caption=True)


def _pairs(row: Row) -> Iterator[dict[str, Any]]:
    for pair in row.rows(PAIRS, "pairs of user and assistant"):
        for role in ("user", "assistant"):
            yield {"from": role, "value": pair.text(role)}


def _answer(row: Row, name: str) -> Any:
    """An answer of a preference: a text, or turns."""
    if isinstance(row.values[name], str):
        return row.text(name)
    return [_turn(turn) for turn in row.rows(name, "turns")]


def _turn(turn: Row) -> dict[str, Any]:
    """A turn as LLaVA has it; Parquet gives every turn, and every part, all names that any of them has."""
    content = turn.raw(turn.pick("content", "value", wanted="a text or a list of parts"))
    if isinstance(content, list):
        content = [
            {name: value for name, value in part.items() if value is not None} if isinstance(part, Mapping) else part
            for part in content
        ]
    return {"from": turn.text("role", "from"), "value": content}
