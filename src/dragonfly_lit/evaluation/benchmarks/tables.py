"""Reading published layouts from a local folder: JSON, JSON lines, tables of text and Hugging Face parquet."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from dragonfly_lit.evaluation.images import EncodedImage, StoredImage
from dragonfly_lit.evaluation.parsers import LETTERS
from dragonfly_lit.io.inside import inside
from dragonfly_lit.io.text import read_text, text_lines
from dragonfly_lit.spec.cells import shown

ROW_NUMBER = 64
"""A cell of images that is not longer names another row: no image is that short."""
MARKED = {"utf-8-sig": ("utf-8", 3), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}
"""Encodings that a mark at the start of a file tells: how wide a letter is, and how long the mark."""


class Fields(dict[str, Any]):
    """A row or an object of a data set's file, which knows where it stands: a missing key is an error that says so."""

    place: str = "an object of the file"

    def __missing__(self, key: str) -> Any:
        there = ", ".join(map(str, list(self)[:20])) or "nothing"
        raise ValueError(f"{self.place} has no {key!r}; it has {there}.")


class Reader:
    """Reads the files of a data set; what is wrong with them names the data set and the layouts that are read."""

    name: ClassVar[str]
    expects: ClassVar[str] = ""
    """The layouts that `read` knows, for the message when a file is missing."""

    @property
    def origin_hint(self) -> str:
        """The end of a message about missing data: how to learn where a benchmark of this package comes from."""
        ours = type(self).__module__.startswith("dragonfly_lit.")
        return f" `python -m data_prep benchmark {self.name}` says where the data comes from." if ours else ""

    def missing(self, folder: Path, what: str) -> ValueError:
        """The error for a file that is not there: what was expected, and the layouts."""
        return ValueError(f"{self.name}: {folder} has no {what}. Expected {self.expects}.{self.origin_hint}")

    def read_json(self, folder: Path, *names: str) -> Any:
        """The first of `names` that exists below `folder`, parsed; JSON lines, whatever the suffix, as a list.

        Raises:
            ValueError: none of them exists, or it is not JSON, or not UTF-8 or UTF-16. An object that is read for a
                key that it lacks raises one too, with its place.
        """
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise self.missing(folder, " or ".join(names))
        text = self.read_text(path)
        try:
            return _placed(_parsed(text) if path.suffix != ".jsonl" else json_lines(text), path)
        except (ValueError, RecursionError) as error:
            try:
                return _placed(json_lines(text), path)
            except (ValueError, RecursionError):
                raise ValueError(f"{self.name}: {path} is not JSON: {error}") from error

    def read_text(self, path: Path) -> str:
        """A text file in UTF-8, or in UTF-16 with its mark; a ValueError names the line that is neither."""
        text = read_text(path)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            line = text.count("\n", 0, error.start) + 1
            raise ValueError(f"{self.name}: {path}: line {line} is not UTF-8. Save the file as UTF-8.") from error
        return text

    def parquet_rows(
        self, files: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Rows of the files one after the other, without their images; each has `_file` and `_row` for `image_of`.

        Raises:
            ValueError: a column of `columns` is missing.
        """
        for file in files:
            table = _table(file)
            names = table.schema_arrow.names
            absent = [column for column in columns if column not in names]
            if absent:
                raise ValueError(
                    f"{self.name}: {file} has no column {', '.join(map(repr, absent))}; it has {', '.join(names)}. "
                    f"Expected {self.expects}."
                )
            wanted = [name for name in (*columns, *optional) if name in names]
            row = 0
            for batch in table.iter_batches(columns=wanted):
                for fields in batch.to_pylist():
                    made = Fields(fields, _file=file, _row=row)
                    made.place = f"{file}: row {row + 1}"
                    yield made
                    row += 1

    def table_rows(
        self, path: Path, columns: Sequence[str], image: str | None = None, delimiter: str = "\t"
    ) -> Iterator[Fields]:
        """Rows of a table of text whose first line has the names, one after the other; the cells are texts.

        Args:
            path: the file, by the rules of `io.text`.
            columns: that it must have.
            image: the column of images in base64. Its cells are an `EncodedImage`, or the text where that is as short
                as the number of another row, which has the image.
            delimiter: between two cells.

        Raises:
            ValueError: a column is missing, or a row has more or fewer cells than the first line; the row is named.
        """
        csv.field_size_limit(sys.maxsize)  # an image of 8,000 pixels is one cell
        lines = _Lines(path)
        reader = csv.reader(lines, delimiter=delimiter)
        names = next(reader, [])
        absent = [column for column in columns if column not in names]
        if absent:
            raise ValueError(
                f"{self.name}: {path} has no column {', '.join(map(repr, absent))}; it has {', '.join(names)}. "
                f"Expected {self.expects}."
            )
        lines.take()
        for number, cells in enumerate(reader, start=1):
            if len(cells) != len(names):
                raise ValueError(
                    f"{self.name}: {path}: row {number} has {len(cells)} cells; its first line names {len(names)}."
                )
            made, taken = Fields(zip(names, cells, strict=True)), lines.take()
            made.place = f"{path}: row {number}"
            if image and len(made[image]) > ROW_NUMBER:
                made[image] = lines.encoded(taken, made[image], f"{path.name}#{image}#{number - 1}")
            yield made


class _Lines:
    """Lines of a file for `csv`, kept with their places in bytes until they are taken."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as start:
            encoding = json.detect_encoding(start.read(4))
        self.path, self.kept = path, list[tuple[int, str]]()
        self.codec, self.end = MARKED.get(encoding, (encoding, 0))

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(text_lines(self.path, newline=""), start=1):
            self.kept.append((self.end, line))
            try:
                self.end += len(line.encode(self.codec))
            except UnicodeEncodeError as error:
                raise ValueError(f"{self.path}: line {number} is not UTF-8. Save the file as UTF-8.") from error
            yield line

    def take(self) -> list[tuple[int, str]]:
        """The lines since the last call, each behind the place where it starts."""
        taken, self.kept = self.kept, []
        return taken

    def encoded(self, taken: Sequence[tuple[int, str]], cell: str, key: str) -> EncodedImage:
        """The place of a cell in its row: base64 has no quotes and no new lines, so it stands there as it is."""
        for start, line in taken:
            if (found := line.find(cell)) >= 0:
                before, length = len(line[:found].encode(self.codec)), len(cell.encode(self.codec))
                return EncodedImage(file=self.path, start=start + before, length=length, key=key)
        raise ValueError(f"{key}: its text is not an image in base64.")


def json_lines(text: str) -> list[Any]:
    """One JSON value a line."""
    return [_parsed(line) for line in text.split("\n") if line.strip()]


def _parsed(text: str) -> Any:
    return json.loads(text, object_hook=Fields)


def _placed(value: Any, path: Path) -> Any:
    """The same, whose objects know the file, and those of its list or table where they stand in it."""
    entries = (
        enumerate(value, start=1) if isinstance(value, list) else [*value.items()] if isinstance(value, Fields) else ()
    )
    for name, entry in entries:
        if isinstance(entry, Fields):
            entry.place = f"{path}: {'row' if isinstance(value, list) else 'entry'} {name}"
        if isinstance(entry, list) and isinstance(value, Fields):
            for number, each in enumerate(entry, start=1):
                if isinstance(each, Fields):
                    each.place = f"{path}: {name}, row {number}"
    if isinstance(value, Fields):
        value.place = str(path)
    return value


def _table(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error


def parquet_files(folder: Path, split: str, *configs: str) -> list[Path]:
    """The parquet files of a split, in order: `[CONFIG/][data/]SPLIT-00000-of-00001.parquet` or `SPLIT.parquet`."""
    for place in (*configs, *(f"{config}/data" for config in configs), "data", "", "default"):
        found = sorted({*(folder / place).glob(f"{split}-*.parquet"), *(folder / place).glob(f"{split}.parquet")})
        if found:
            return found
    return []


def parquet_columns(file: Path) -> list[str]:
    """Names of the columns of a parquet file."""
    return list(_table(file).schema_arrow.names)


def has_images(file: Path, column: str = "image") -> list[bool]:
    """Whether each row of an image column is filled, without reading the images."""
    table = _table(file)
    field = table.schema_arrow.field(column) if column in table.schema_arrow.names else None
    if field is None:
        return [False] * table.metadata.num_rows
    leaves = [table.schema.column(number).path for number in range(len(table.schema))]
    leaf = next((leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")), column)
    cells = table.read(columns=[leaf]).column(column)
    if pa.types.is_list(field.type):
        return [bool(cell) for cell in cells.to_pylist()]
    return cells.is_valid().to_pylist()


def image_of(
    row: Mapping[str, Any], column: str = "image", key: str | None = None, item: int | None = None
) -> StoredImage:
    """The image of a row of `parquet_rows`, or the one at the place `item` of its list.

    Rows with the same `key` hold the same image.
    """
    file, number = row["_file"], row["_row"]
    key = key or f"{file.name}#{column}#{number}" + (f"#{item}" if item else "")
    return StoredImage(file=file, column=column, row=number, key=key, item=item)


def check_images(files: Sequence[Path], column: str = "image") -> list[bool]:
    """Whether each row of `parquet_rows(files)` has an image."""
    return [filled for file in files for filled in has_images(file, column)]


def first_existing(folder: Path, *names: str) -> Path:
    """The first of these files that exists, else the first of them: the check of images then names it."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def image_in(folder: Path, name: str, *places: str) -> Path:
    """The image that a name from the data means, in the first of `places` below `folder` that has it.

    It need not exist. A place may be a link that the user made; the name may not lead out of it.

    Raises:
        ValueError: it does, or it cannot be a file's name.
    """
    found = [inside(folder / place, name) for place in places]
    return next((path for path in found if path.is_file()), found[0])


def word(value: Any, what: str) -> str:
    """A text, or a number as a text; a ValueError for anything else: nothing, a list, a struct, true or false."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        return str(value)
    raise ValueError(f"{what}: found {shown(value)}, wanted a text.")


def words(values: Any, what: str) -> tuple[str, ...]:
    """A list of those."""
    if not isinstance(values, list | tuple):
        raise ValueError(f"{what}: found {shown(values)}, wanted a list of texts.")
    return tuple(word(value, f"{what} {number}") for number, value in enumerate(values))


def one(answer: Any) -> tuple[Any, ...]:
    """The references of a question with one answer; none where it is empty, which the check of questions then names."""
    return (answer,) if answer else ()


def letter_of(name: str, key: str, index: int, options: Sequence[Any]) -> str:
    """The letter of choice `index` of a question; ValueError when there is no such choice."""
    if not 0 <= index < len(options):
        raise ValueError(f"{name}: question {key} has {len(options)} choices, and the answer is number {index} from 0.")
    if index >= len(LETTERS):
        raise ValueError(f"{name}: question {key} has {len(options)} choices; there are {len(LETTERS)} letters.")
    return LETTERS[index]


def lettered(row: Mapping[str, Any], letters: Sequence[str] = LETTERS, prefix: str = "") -> tuple[str, ...]:
    """The choices of a row with a column a letter, up to the first that is empty (missing, blank, or pandas' `nan`)."""
    found = (row.get(f"{prefix}{letter}") for letter in letters)
    given = takewhile(lambda cell: cell is not None and str(cell).strip() not in ("", "nan"), found)
    return tuple(word(cell, f"choice {letter}") for letter, cell in zip(letters, given, strict=False))


BRACKETED = re.compile(r"\(([A-Z])\)\s*(.*)", re.DOTALL)


def without_letter(choice: str, letter: str) -> str:
    """`(A) red` as `red`, where the data write the letter of a choice into its text."""
    found = BRACKETED.fullmatch(choice.strip())
    return found.group(2) if found and found.group(1) == letter else choice


def without_letters(choices: Any, what: str) -> tuple[str, ...]:
    """Choices whose texts begin with their letters in brackets, without them."""
    return tuple(without_letter(text, letter) for letter, text in zip(LETTERS, words(choices, what), strict=False))
