"""Questions of one's own: a table (CSV, TSV, XLSX, JSON lines, Parquet) of image, question, answer, split, patient.

A row may have `chosen` and `rejected`, a better and a worse answer, in place of one. Columns are matched by names
(`spec.table`), or by --columns; images lie below --images, or beside the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase as LETTERS

from dragonfly_lit.spec.medical_vqa import answer_type
from dragonfly_lit.spec.rows import Row, RowError, with_numbers
from dragonfly_lit.spec.table import DIVIDING, SPLIT_WORDS, table_rows

from .conversations import Options, RawConversation, finish, label
from .images import image_cells, images_of
from .questions import CHOICES, questions_about
from .turns import ANSWERS as PREFERENCE
from .turns import make_turn, preference_of

IMAGES = ("images", "image")
ANSWERS = ("answers", "answer")


def rows(path: Path, options: Options) -> Iterator[Row | RowError]:
    """The rows of the table."""
    return table_rows(path, dict(options.columns))


def _preference(row: list[Row], options: Options) -> RawConversation:
    first = row[0]
    if len(row) > 1:
        raise first.error("chosen", "is a preference, which is a sample of its own. Pack without --share-image.")
    first.read.update(first.given(*DIVIDING))
    first.pick(*image_cells(first, options.image_columns, *IMAGES))
    asked = make_turn(first, "question", "user", first.text("question"), options)
    chosen, rejected = preference_of(first, options)
    images = images_of(first, options.image_columns, *IMAGES)
    name = label(first, "id")
    return finish(
        first,
        name,
        [asked, *chosen],
        images,
        rejected=rejected,
        question_ids=[name] if name else [],
        categories=[found] if (found := label(first, "category")) else [],
    )


def _is_part(row: Row) -> bool:
    """Whether its cell `split` says a part; of who has asked, say, it divides nothing and is told as not read."""
    return str(row.values["split"]).strip().lower() in SPLIT_WORDS


def conversation(row: list[Row], options: Options) -> RawConversation:
    """One question about an image, or all of those that share it; or a question with a better and a worse answer."""
    if row[0].has(*PREFERENCE):
        return _preference(row, options)
    found = [with_numbers(each, (*ANSWERS, *CHOICES, *LETTERS), whole=False) for each in row]
    for each, given in zip(found, row, strict=True):
        each.read = given.read  # what is read of the one is read of the other
        each.read.update(name for name in each.given(*DIVIDING, "answer_type") if name != "split" or _is_part(each))
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
