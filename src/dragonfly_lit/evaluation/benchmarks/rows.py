"""Rows of a user's own file of questions, each with its place and its images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.images import StoredImage
from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.table import table_rows

IMAGES = ("images", "image")
TABLES = (".csv", ".tsv", ".xlsx", ".arrow")
"""Files that other programs write, which may have columns that nobody reads."""

ImageCell = str | bytes | StoredImage
"""The name of a file, an encoded image, or where one lies in a table."""


def question_rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[Row, list[ImageCell]]]:
    """Each row of the file with its images, those of a parquet file where they lie; cells under the names that
    `spec.table` gives to what they mean.

    Args:
        path: the file.
        columns: what is called how, by the user.

    Raises:
        ValueError: the file cannot be read, or its suffix is of no format with rows; it is named.
        RowError: a row is not an object, or its images are not images.
    """
    stored = path.suffix.lower() == ".parquet"
    for number, row in enumerate(table_rows(path, columns)):
        place = replace(row.place, file=str(path))  # several benchmarks may have files of one name
        if isinstance(row, RowError):
            raise RowError(place, row.reason)
        row.place = place
        yield row, _stored(row, path, number) if stored else [*row.images(*IMAGES)]


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
