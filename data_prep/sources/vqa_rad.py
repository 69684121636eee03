"""VQA-RAD's JSON: one object a question, `image_name`, `question`, `answer`, `phrase_type` (`test_...`: test split)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.medical_vqa import vqa_rad_split
from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError

from .conversations import Options, RawConversation, label
from .questions import questions_about

SELECTED_BY = "split"
IMAGES = ("image_name",)


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """Questions of `options.split`."""
    return (row for row in read_rows(path) if isinstance(row, RowError) or _is_wanted(row, options.split))


def _is_wanted(row: Row, split: str) -> bool:
    return split in ("all", vqa_rad_split(row.values))


def conversation(row: list[Row], options: Options) -> RawConversation:
    """The questions of one image, or one question; answers that are numbers become their digits."""
    ids = [label(q, "qid") for q in row]
    types = [label(q, "answer_type").strip().upper() for q in row]
    return questions_about(row, options, *IMAGES, name=ids[0], question_ids=ids, answer_types=types)
