"""Released Dragonfly records: `{"image_url", "conversations": text in Llama-3's format, "source"}`, Parquet or JSON.

A record with `text` instead of `conversations` is a caption, as the released loader has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.processing.prompts import find_turns
from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.samples import Turn
from dragonfly_lit.spec.shard import ROLES
from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, END_HEADER, END_OF_TEXT, START_HEADER

from .conversations import Options, RawConversation, finish, label
from .images import images_of
from .turns import caption_turns, make_turn


def parse_turns(text: str) -> list[Turn]:
    """Turns of a text with Llama-3's headers.

    Raises:
        ValueError: a role is unknown, or something is outside the turns.
    """
    text = text.strip().removeprefix(BEGIN_OF_TEXT).removesuffix(END_OF_TEXT)
    turns, end = [], 0
    for span in find_turns(text):
        opening = f"{START_HEADER}{span.role}{END_HEADER}"
        before = text[end : span.start].strip()
        if before != opening:
            raise ValueError(f"{before.removesuffix(opening)!r:.60} is outside of any turn.")
        if span.role not in ROLES:
            raise ValueError(f"turn of {span.role!r}: the roles are system, user, assistant.")
        turns.append(Turn(role=ROLES[span.role], text=text[span.start : span.end].strip()))
        end = span.close
    if not turns or text[end:].strip():
        raise ValueError(f"{text[end:]!r:.60} has no header of a turn: expected {START_HEADER}user{END_HEADER}.")
    return turns


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The records of a Parquet, JSON or JSON-lines file, or of a folder of them."""
    return read_rows(path)


def conversation(row: Row, options: Options) -> RawConversation:
    """One record; an empty `image_url` means text only."""
    images = images_of(row, options.image_columns, "image_url", "image", "images")
    if row.has("conversations") or not row.has("text"):
        turns = _turns(row, options)
    else:
        turns = caption_turns(row, options, "text")
    return finish(row, label(row, "id"), turns, images, origin=label(row, "source"))


def _turns(row: Row, options: Options) -> list[Turn]:
    text = row.text("conversations")
    try:
        turns = parse_turns(text)
    except ValueError as error:
        raise row.error("conversations", str(error)) from None
    return [make_turn(row, "conversations", turn.role, turn.text, options) for turn in turns]
