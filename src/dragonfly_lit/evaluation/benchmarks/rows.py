"""Rows of a user's own file of questions: JSON lines, JSON or parquet, each with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dragonfly_lit.evaluation.images import StoredImage
from dragonfly_lit.io.text import read_text
from dragonfly_lit.spec.rows import Place, Row, RowError, shown

IMAGES = ("images", "image")
ROWS_A_BATCH = 32
"""Of a parquet file that may hold its images."""

ImageCell = str | bytes | StoredImage
"""The name of a file, an encoded image, or where one lies in a table."""


class Written(float):
    """A number of a JSON file that knows how it was written: `0.50` is not `0.5` where texts are compared."""

    def __new__(cls, text: str) -> Written:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str


def question_rows(path: Path) -> Iterator[tuple[Row, list[ImageCell]]]:
    """Each row of the file with its images, those of a parquet file where they lie.

    Raises:
        ValueError: the file cannot be read; it is named.
        RowError: a row is not an object, or its images are not images.
    """
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    for place, values in _json(path):
        if not isinstance(values, Mapping):
            raise RowError(place, f"found {shown(values)}, wanted an object with a question.")
        row = Row(values=values, place=place)
        yield row, [*row.images(*IMAGES)]


def with_numbers(row: Row, names: tuple[str, ...], *, whole: bool) -> Row:
    """The row with numbers that have one text as this text, for cells that may hold numbers with a point.

    A number of JSON is as it is written. Of a table 2.5 is `2.5`; 3.0 may have been 3, which empty cells beside it made
    a number with a point.

    Args:
        row: as it was read.
        names: of the cells.
        whole: whether 3.0 will do as `3.0`, since numbers will be compared.
    """

    def text(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [text(each) for each in value]
        if isinstance(value, Mapping):
            return {key: text(each) for key, each in value.items()}
        if isinstance(value, Written):
            return value.text
        if isinstance(value, float) and isfinite(value) and "e" not in repr(value):
            return repr(value) if whole or not value.is_integer() else value
        return value

    changed = {name: text(row.values[name]) for name in names if name in row.values}
    return Row(values={**row.values, **changed}, place=row.place)


def _json(path: Path) -> Iterator[tuple[Place, Any]]:
    text = read_text(path)
    if path.suffix != ".jsonl":
        try:
            whole = json.loads(text, parse_float=Written)
        except (ValueError, RecursionError):
            pass  # JSON lines under another name, or not JSON: said below
        else:
            for number, values in enumerate(whole if isinstance(whole, list) else [whole], start=1):
                yield Place(str(path), number), values
            return
    number = 0
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            number += 1
            yield Place(str(path), number, line), _value(content, Place(str(path), number, line))


def _value(text: str, place: Place) -> Any:
    try:
        return json.loads(text, parse_float=Written)
    except (ValueError, RecursionError) as error:
        raise RowError(place, f"is not JSON: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[Row, list[ImageCell]]]:
    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROWS_A_BATCH):
            for values in batch.to_pylist():
                number += 1
                row = Row(values=values, place=Place(str(path), number))
                yield row, _stored(row, path, number - 1)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as parquet: {error}") from error


def _stored(row: Row, path: Path, number: int) -> list[ImageCell]:
    """The images of a row: encoded ones stay in the file until they are needed."""
    found = row.images(*IMAGES)
    column = next(iter(row.given(*IMAGES)), "")
    several = isinstance(row.values.get(column), list)
    return [
        image
        if isinstance(image, str) or _is_written_out(row.values[column], item)
        else StoredImage(
            file=path,
            column=column,
            row=number,
            item=item if several else None,
            key=f"{path.name}#{column}#{number}" + (f"#{item}" if several else ""),
        )
        for item, image in enumerate(found)
    ]


def _is_written_out(cell: Any, item: int) -> bool:
    """Whether the image stands in the cell as a text, a `data:` URL."""
    value = cell[item] if isinstance(cell, list) else cell
    return isinstance(value, str) or (isinstance(value, Mapping) and not value.get("bytes"))
