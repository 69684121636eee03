"""PathVQA as Parquet: `image` with bytes, `question`, `answer`. The original pickles are refused: they can run code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.medical_vqa import answer_type
from dragonfly_lit.spec.rows import Row, RowError

from .conversations import Options, RawConversation
from .files import read_rows
from .parquet import IMAGES
from .questions import by_image, questions_about


def rows(path: Path, options: Options) -> Iterator[list[Row] | RowError]:
    """Questions; with `share_image` those that follow one another about the same image together."""
    return by_image(read_rows(path), "image", options)


def conversation(row: list[Row], options: Options) -> RawConversation:
    """The questions of one image that follow one another, or one question."""
    types = [answer_type(q.values.get("answer")).upper() for q in row]
    return questions_about(row, options, *IMAGES, answer_types=types)
