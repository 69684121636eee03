"""PathVQA as Parquet: `image` with bytes, `question`, `answer`. The original pickles are refused: they can run code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dragonfly_lit.spec.medical_vqa import answer_type

from .conversations import Options, RawConversation, by_image, finish, question_turns
from .files import read_rows
from .parquet import row_images


def rows(path: Path, options: Options) -> Iterator[list[Any]]:
    """Questions; with `share_image` those that follow one another about the same image together."""
    return by_image(read_rows(path), "image", options)


def conversation(row: list[dict[str, Any]], options: Options) -> RawConversation:
    """The questions of one image that follow one another, or one question."""
    return finish(
        "",
        question_turns((q.get("question"), q.get("answer")) for q in row),
        row_images(row[0]),
        share_image=options.share_image,
        answer_types=[answer_type(q.get("answer")).upper() for q in row],
    )
