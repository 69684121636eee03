"""Reading published layouts from a local folder: JSON, JSON lines and Hugging Face parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dragonfly_lit.evaluation.benchmarks.images import StoredImage


@dataclass(frozen=True)
class Source:
    """What messages call a data set, and the layouts of it that are read."""

    name: str
    expects: str


def missing(task: Source, folder: Path, what: str) -> ValueError:
    """The error for a file that is not there: what was looked for, and both layouts."""
    return ValueError(
        f"{task.name}: {folder} has no {what}. Expected {task.expects}. "
        f"`python -m data_prep benchmark {task.name}` says where the data comes from."
    )


def read_json(task: Source, folder: Path, *names: str) -> Any:
    """The first of `names` that exists below `folder`, parsed; `.jsonl` files and files of one object a line as a list.

    Raises:
        ValueError: none of them exists, or it is not JSON.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise missing(task, folder, " or ".join(names))
    text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text) if path.suffix != ".jsonl" else [json.loads(x) for x in text.split("\n") if x.strip()]
    except json.JSONDecodeError as error:
        try:
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        except json.JSONDecodeError:
            raise ValueError(f"{task.name}: {path} is not JSON: {error}") from error


def parquet_files(folder: Path, split: str, *configs: str) -> list[Path]:
    """The parquet files of a split, in order: `[CONFIG/][data/]SPLIT-00000-of-00001.parquet` or `SPLIT.parquet`."""
    for place in (*configs, *(f"{config}/data" for config in configs), "data", "", "default"):
        found = sorted({*(folder / place).glob(f"{split}-*.parquet"), *(folder / place).glob(f"{split}.parquet")})
        if found:
            return found
    return []


def parquet_columns(file: Path) -> list[str]:
    """Names of the columns of a parquet file."""
    return list(pq.ParquetFile(file).schema_arrow.names)


def parquet_rows(
    task: Source, files: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of the files one after the other, without their images; each has `_file` and `_row` for `image_of`.

    Raises:
        ValueError: a column of `columns` is missing.
    """
    for file in files:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        absent = [column for column in columns if column not in names]
        if absent:
            raise ValueError(
                f"{task.name}: {file} has no column {', '.join(map(repr, absent))}; it has {', '.join(names)}. "
                f"Expected {task.expects}."
            )
        wanted = [name for name in (*columns, *optional) if name in names]
        row = 0
        for batch in table.iter_batches(columns=wanted):
            for fields in batch.to_pylist():
                yield {**fields, "_file": file, "_row": row}
                row += 1


def has_images(file: Path, column: str = "image") -> list[bool]:
    """Whether each row of an image column is filled, without reading the images."""
    table = pq.ParquetFile(file)
    field = table.schema_arrow.field(column) if column in table.schema_arrow.names else None
    if field is None:
        return [False] * table.metadata.num_rows
    leaf = f"{column}.path" if pa.types.is_struct(field.type) and "path" in [f.name for f in field.type] else column
    return table.read(columns=[leaf]).column(column).is_valid().to_pylist()


def image_of(row: dict[str, Any], column: str = "image", key: str | None = None) -> StoredImage:
    """The image of a row of `parquet_rows`; rows with the same `key` hold the same image."""
    file, number = row["_file"], row["_row"]
    return StoredImage(file=file, column=column, row=number, key=key or f"{file.name}#{column}#{number}")


def check_images(files: Sequence[Path], column: str = "image") -> list[bool]:
    """Whether each row of `parquet_rows(files)` has an image."""
    return [filled for file in files for filled in has_images(file, column)]


def first_existing(folder: Path, *names: str) -> Path:
    """The first of these files that exists, else the first of them: the check of images then names it."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
