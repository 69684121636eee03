"""Questions of one's own: a table (CSV, TSV, XLSX, JSON lines, Parquet) of image, question, answer, split, patient.

Columns are matched by their names (`spec.table`), or by --columns; images lie below --images, or beside the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase as LETTERS

from dragonfly_lit.spec.medical_vqa import answer_type
from dragonfly_lit.spec.rows import Row, RowError, with_numbers
from dragonfly_lit.spec.table import DIVIDING, table_rows

from .conversations import Options, RawConversation, label
from .questions import CHOICES, questions_about

IMAGES = ("images", "image")
ANSWERS = ("answers", "answer")


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The rows of the table."""
    return table_rows(path, dict(options.columns))


def conversation(row: list[Row], options: Options) -> RawConversation:
    """One question about an image, or all of those that share it."""
    found = [with_numbers(each, (*ANSWERS, *CHOICES, *LETTERS), whole=False) for each in row]
    for each, given in zip(found, row, strict=True):
        each.read = given.read  # what is read of the one is read of the other
        each.read.update(each.given(*DIVIDING, "answer_type"))
    ids = [label(each, "id") for each in found]
    categories = [label(each, "category") for each in found]
    types = [answer_type(each.texts(*ANSWERS, numbers=True)[0], each.values.get("answer_type")) for each in found]
    return questions_about(
        found,
        options,
        *IMAGES,
        answers=ANSWERS,
        name=ids[0],
        question_ids=[name for name in ids if name],
        answer_types=[kind.upper() for kind in types],
        categories=categories if any(categories) else [],
    )
