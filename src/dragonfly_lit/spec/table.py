"""A table of one's own questions: which column is what, and which rows are to train on, to validate and to test.

`data_prep pack --from table` and `benchmark=my_set` read tables through this module and `spec.row_files`, so that a
row means the same to both, and a row that one keeps for testing the other never trains on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any

from dragonfly_lit.spec.cells import shown, shown_name
from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Row, RowError

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "image_file", "image_name", "image_path", "file", "file_name", "filename", "path", "dicom",
              "dicom_file", "dicom_path"),
    "images": ("images",),
    "question": ("question", "query"),
    "answer": ("answer", "gold", "reference", "ground_truth"),
    "answers": ("answers",),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "split": ("split", "data_split", "partition"),
    "patient": ("patient", "patient_id", "subject", "subject_id"),
    "study": ("study", "study_id", "study_uid", "study_instance_uid", "accession", "accession_number"),
    "id": ("id", "question_id", "qid"),
    "choices": ("choices",),
    "options": ("options",),
    "category": ("category", "question_type"),
    "answer_type": ("answer_type",),
    "hint": ("hint",),
}  # fmt: skip
"""What a table may say, and what its columns may be called; capitals, spaces and hyphens do not matter."""
SPLIT_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "development": "validation", "test": "test", "testing": "test",
}  # fmt: skip
DIVIDING = ("split", "patient", "study")
"""The columns that divide a table unless somebody says otherwise: the first of them that is filled."""
SHARES = (80.0, 10.0, 10.0)
"""Of the patients, or of whatever divides: to train on, to validate, to test."""
WAY_OUT = " Name the column that it is, such as question=Frage, with --columns of pack or benchmark.columns."
"""What the message of a missing column ends with."""


@lru_cache(256)
def match_columns(names: tuple[str, ...], given: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """The column of each of `COLUMNS` that a table has.

    Args:
        names: of the table's columns.
        given: what is called how, by the user; it comes before what names alone would say.

    Raises:
        ValueError: a column is given that is not there, or two columns may be the same thing.
    """
    found: dict[str, str] = {}
    for meaning, name in given:
        if meaning not in COLUMNS:
            raise ValueError(f"{meaning}={name}: {meaning} is not among {', '.join(COLUMNS)}.")
        if name not in names:
            raise ValueError(f"{meaning}={name}: there is no column {name!r}; the columns are {_listed(names)}.")
        found[meaning] = name
    for meaning, aliases in COLUMNS.items():
        if meaning in found:
            continue
        free = [name for name in names if name not in found.values()]
        like = [name for name in free if _plain(name) in aliases]
        exact = [name for name in like if name == meaning] or [name for name in like if _plain(name) == meaning]
        if len(exact or like) > 1:
            first, second = (exact or like)[:2]
            raise ValueError(
                f"columns {shown_name(first)} and {shown_name(second)} may both be the {meaning}. Say which: "
                f"{meaning}={first}."
            )
        if like:
            found[meaning] = (exact or like)[0]
    return found | _letters(name for name in names if name not in found.values())


def _letters(names: Iterable[str]) -> dict[str, str]:
    """The columns that hold the choices: A, B and those that follow without a gap, capitals or not."""
    like = {name.strip().upper(): name for name in names}
    found = dict(takewhile(lambda each: each[1] is not None, ((letter, like.get(letter)) for letter in LETTERS)))
    return {letter: name for letter, name in found.items() if name is not None} if len(found) > 1 else {}


def _plain(name: Any) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name).strip())  # PatientID
    return re.sub(r"[\s_\-.]+", "_", spaced).strip("_").lower()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shown_name(name) for name in names[:20]) or "none"


def with_meanings(row: Row, given: Mapping[str, str]) -> Row:
    """The row with its cells under the names of `COLUMNS`; others keep theirs. Errors name the user's columns.

    Raises:
        RowError: the columns cannot be matched.
    """
    names = tuple(str(name) for name in row.values)
    try:
        found = match_columns(names, tuple(given.items()))
    except ValueError as error:
        raise RowError(row.place, str(error)) from None
    meanings = {column: meaning for meaning, column in found.items()}
    if all(column == meaning for column, meaning in meanings.items()):
        return replace(row, way_out=WAY_OUT)
    values = {
        meanings.get(name, name): value for name, value in row.values.items() if name not in found or name in meanings
    }
    return Row(values=values, place=row.place, called=found, way_out=WAY_OUT)


def table_rows(path: Path, columns: Mapping[str, str] = {}, *, encoded: bool = True) -> Iterator[Row | RowError]:
    """The rows of a CSV, TSV, XLSX, JSON, JSON-lines, Parquet or Arrow file, cells under the names of `COLUMNS`.

    Args:
        path: the file, or a folder of such files.
        columns: what is called how, as `match_columns` takes it.
        encoded: whether cells of bytes are read, as `read_rows` takes it.
    """
    for row in read_rows(path, encoded=encoded):
        if isinstance(row, RowError):
            yield row
            continue
        try:
            yield with_meanings(row, columns)
        except RowError as error:
            yield error


# Division


@dataclass(frozen=True, kw_only=True)
class Division:
    """Which rows of a table are to train on, to validate and to test.

    Attributes:
        by: the column that says so; empty where the table is not divided.
        parts: the part of each patient, or of whatever stands in the column.
        says: whether the column says the parts itself, as `split` does.
    """

    by: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    says: bool = False

    def part_of(self, row: Row) -> str:
        """One of `SPLITS`; empty where the table is not divided.

        Raises:
            RowError: the row does not say to whom it belongs, or names no part.
        """
        if not self.by:
            return ""
        value = group_of(row, self.by)
        if value not in self.parts:
            raise row.wrong(self.by, value, f"one of {', '.join(SPLIT_WORDS)}")
        return self.parts[value]


def group_of(row: Row, by: str) -> str:
    """The patient, or whatever a table is divided by, of a row.

    Raises:
        RowError: the cell holds nothing, or no text and no whole number.
    """
    name = row.cell_of(by)
    if not row.has(name):
        known = "is missing" if name not in row.values else "is empty"
        raise row.error(name, f"{known}, so the row may belong to somebody whose other rows are in another part.")
    return row.text(name, numbers=True).strip()


def divide(rows: Iterable[Row | RowError], by: str | None = None, shares: Sequence[float] = SHARES) -> Division:
    """How a table is divided; the same rows are divided alike on every machine.

    By a column that says the parts a row is where it says: by `split`, however the file calls it, by any whose words
    are all among `SPLIT_WORDS`, and by any but patients and studies that has a word for training; another word in it is
    an error of its row. By any other column all rows with the same value are in one part: the values are put in an
    order that their hashes give, and the first are to test, the next to validate, as many as `shares` say and at least
    one.

    Args:
        rows: of the table.
        by: a column; None takes the first of `DIVIDING` that is filled, if one is.
        shares: to train on, to validate, to test.

    Raises:
        ValueError: a patient is in two parts of a column that says them, or there are too few to divide.
    """
    wanted = [_Column(name) for name in (DIVIDING if by is None else (by,))]
    for row in rows:
        if not isinstance(row, RowError):
            for column in wanted:
                column.add(row)
    if by is None:  # a column split that says, for instance, who has asked divides nothing by itself
        wanted = [column for column in wanted if column.name != "split" or _are_parts(column.values)]
    found = next((column for column in wanted if column.values), None)
    if found is None:
        if by is not None:
            raise ValueError(f"nothing is divided by {by}: no row has it. Name a column that is filled.")
        return Division()
    if not found.says_parts:
        return Division(by=found.name, parts=parts_of(found.values, shares, found.name))
    if found.two_parts is not None:
        raise found.two_parts
    parts = {word: SPLIT_WORDS[word.lower()] for word in found.values if word.lower() in SPLIT_WORDS}
    return Division(by=found.name, parts=parts, says=True)


class _Column:
    """A column by which a table may be divided, as its rows go by."""

    def __init__(self, name: str) -> None:
        self.name, self.meaning = name, _like(name)
        self.values: dict[str, None] = {}
        self.two_parts: ValueError | None = None
        """Of the first patient, or study, whose rows are in two parts."""
        self._owners: dict[tuple[str, str], tuple[str, Row]] = {}

    def add(self, row: Row) -> None:
        """Take note of what it holds in a row."""
        try:
            value = group_of(row, self.name)
        except RowError:  # told when the row is dealt out
            return
        if (meaning := row.cell_of(self.name)) in COLUMNS:
            self.meaning = meaning
        self.values[value] = None
        if self.two_parts is None:
            self._check_owner(row, SPLIT_WORDS.get(value.lower()))

    @property
    def says_parts(self) -> bool:
        """Whether its words are the parts themselves."""
        if self.meaning in ("patient", "study"):  # of whom one may be called Train
            return all(word.lower() in SPLIT_WORDS for word in self.values)
        return self.meaning == "split" or _are_parts(self.values)

    def _check_owner(self, row: Row, part: str | None) -> None:
        """A patient whose rows are in two parts would be known to the model when it is tested."""
        if part is None:
            return
        for name in ("patient", "study"):
            if row.has(name):
                key = name, str(row.values[name]).strip()
                other, first = self._owners.setdefault(key, (part, row))
                if other != part:
                    self.two_parts = ValueError(
                        f"{row.place}: {name} {shown(row.values[name])} is in {part} here and in {other} in "
                        f"{first.place}. Put all rows of a {name} into one part, or divide by {name}."
                    )


def _like(name: str) -> str:
    """What a column means by its name alone; empty where that says nothing."""
    return next((meaning for meaning in DIVIDING if _plain(name) in COLUMNS[meaning]), "")


def _are_parts(words: Iterable[str]) -> bool:
    """Whether words say what is trained on, and not, say, who has asked."""
    parts = [SPLIT_WORDS.get(word.lower()) for word in words]
    return "train" in parts or (bool(parts) and all(parts))


def parts_of(groups: Iterable[str], shares: Sequence[float], by: str) -> dict[str, str]:
    """The part of each of these values, of which as many as `shares` say, and at least one, are in each part.

    Raises:
        ValueError: there are fewer values than parts.
    """
    ordered = sorted(set(groups), key=lambda value: hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest())
    whole = sum(shares)
    numbers = [max(1, round(len(ordered) * share / whole)) if share else 0 for share in shares]
    numbers[0] = len(ordered) - numbers[1] - numbers[2]
    if numbers[0] < bool(shares[0]):
        raise ValueError(
            f"{by} has {len(ordered)} value{'s' * (len(ordered) != 1)}, too few for {sum(map(bool, shares))} parts. "
            "Take fewer parts (--split-shares 80 0 20 of pack, benchmark.split_shares=[80,0,20]), divide nothing "
            "(--split-by none, benchmark.split=all), or name the parts in a column split."
        )
    names = ["test"] * numbers[2] + ["validation"] * numbers[1] + ["train"] * numbers[0]
    return dict(zip(ordered, names, strict=True))


def check_shares(shares: Sequence[float], key: str) -> tuple[float, float, float]:
    """Three shares, none below 0 and the first above it.

    Raises:
        ValueError: they are not; names `key`.
    """
    if len(shares) != 3 or not all(0 <= share < float("inf") for share in shares) or not shares[0] > 0:
        told = " ".join(f"{share:g}" for share in shares)
        raise ValueError(f"{key} {told}: give three shares, to train on, to validate and to test, such as 80 10 10.")
    return shares[0], shares[1], shares[2]
