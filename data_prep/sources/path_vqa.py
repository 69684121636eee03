"""PathVQA as Parquet: `image` with bytes, `question`, `answer`. The original pickles are refused: they can run code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.medical_vqa import answer_type
from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError

from .conversations import Options, RawConversation
from .parquet import IMAGES
from .questions import questions_about


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """Questions."""
    return read_rows(path)


def conversation(row: list[Row], options: Options) -> RawConversation:
    """The questions of one image, or one question."""
    types = [answer_type(q.values.get("answer")).upper() for q in row]
    return questions_about(row, options, *IMAGES, answer_types=types)
