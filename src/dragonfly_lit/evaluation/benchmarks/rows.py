"""Rows of a user's own file of questions: JSON lines, JSON or parquet, each with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dragonfly_lit.evaluation.images import StoredImage
from dragonfly_lit.io.text import read_text
from dragonfly_lit.spec.rows import Place, Row, RowError, Written, shown
from dragonfly_lit.spec.table import table_rows, with_meanings

IMAGES = ("images", "image")
TABLES = (".csv", ".tsv", ".xlsx", ".arrow")
"""Files that other programs write, which may have columns that nobody reads."""
ROWS_A_BATCH = 32
"""Of a parquet file that may hold its images."""

ImageCell = str | bytes | StoredImage
"""The name of a file, an encoded image, or where one lies in a table."""


def question_rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[Row, list[ImageCell]]]:
    """Each row of the file with its images, those of a parquet file where they lie; cells under the names that
    `spec.table` gives to what they mean.

    Args:
        path: the file.
        columns: what is called how, by the user.

    Raises:
        ValueError: the file cannot be read; it is named.
        RowError: a row is not an object, or its images are not images.
    """
    if path.suffix == ".parquet":
        yield from _parquet(path, columns)
        return
    if path.suffix in TABLES:
        for row in table_rows(path, columns):
            if isinstance(row, RowError):
                raise row
            yield row, [*row.images(*IMAGES)]
        return
    for place, values in _json(path):
        if not isinstance(values, Mapping):
            raise RowError(place, f"found {shown(values)}, wanted an object with a question.")
        row = with_meanings(Row(values=values, place=place), columns)
        yield row, [*row.images(*IMAGES)]


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


def _parquet(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[Row, list[ImageCell]]]:
    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROWS_A_BATCH):
            for values in batch.to_pylist():
                number += 1
                row = with_meanings(Row(values=values, place=Place(str(path), number)), columns)
                yield row, _stored(row, path, number - 1)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as parquet: {error}") from error


def _stored(row: Row, path: Path, number: int) -> list[ImageCell]:
    """The images of a row: encoded ones stay in the file until they are needed."""
    found = row.images(*IMAGES)
    cell = next(iter(row.given(*IMAGES)), "")
    column, several = row.called.get(cell, cell), isinstance(row.values.get(cell), list)
    return [
        image
        if isinstance(image, str) or _is_written_out(row.values[cell], item)
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
