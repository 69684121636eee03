"""SLAKE's JSON: one object a question, `img_name` (`xmlab1/source.jpg`), `question`, `answer`, `q_lang` (`en`|`zh`).

A question without `q_lang`, as copies in one language have it, is taken whatever language is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError

from .conversations import Options, RawConversation, label
from .questions import questions_about

SELECTED_BY = "language"
IMAGES = ("img_name",)


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """Questions in `options.language`; each split of SLAKE is a file of its own."""
    return (row for row in read_rows(path) if isinstance(row, RowError) or _is_wanted(row, options.language))


def _is_wanted(row: Row, language: str) -> bool:
    return language == "all" or not row.has("q_lang") or row.raw("q_lang") == language


def conversation(row: list[Row], options: Options) -> RawConversation:
    """The questions of one image, or one question."""
    ids = [label(q, "qid") for q in row]
    types = [label(q, "answer_type").strip().upper() for q in row]
    return questions_about(row, options, *IMAGES, name=ids[0], question_ids=ids, answer_types=types)
