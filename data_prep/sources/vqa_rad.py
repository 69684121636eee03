"""VQA-RAD's JSON: one object a question, `image_name`, `question`, `answer`, `phrase_type` (`test_...`: test split)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragonfly_lit.spec.medical_vqa import vqa_rad_split
from dragonfly_lit.spec.rows import Row, RowError

from .conversations import Options, RawConversation, label
from .files import read_rows
from .questions import by_image, questions_about

SELECTED_BY = "split"


def rows(path: Path, options: Options) -> Iterator[list[Row] | RowError]:
    """Questions of `options.split`; with `share_image` all of one image together."""
    found = [row for row in read_rows(path) if isinstance(row, RowError) or _is_wanted(row, options.split)]
    if options.share_image:
        order: dict[str, int] = {}
        found.sort(key=lambda row: order.setdefault(_image(row), len(order)))
    return by_image(found, "image_name", options)


def _is_wanted(row: Row, split: str) -> bool:
    return split in ("all", vqa_rad_split(row.values))


def _image(row: Row | RowError) -> str:
    """What rows of one image have in common; what is not a name, `conversation` refuses."""
    name = None if isinstance(row, RowError) else row.values.get("image_name")
    return name if isinstance(name, str) else f"\0{id(row)}"


def conversation(row: list[Row], options: Options) -> RawConversation:
    """The questions of one image, or one question; answers that are numbers become their digits."""
    ids = [label(q, "qid") for q in row]
    types = [label(q, "answer_type").strip().upper() for q in row]
    return questions_about(row, options, "image_name", name=ids[0], question_ids=ids, answer_types=types)
