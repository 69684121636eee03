"""Reading published layouts from a local folder: JSON, JSON lines and Hugging Face parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from dragonfly_lit.evaluation.images import StoredImage
from dragonfly_lit.evaluation.parsers import LETTERS


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
            ValueError: none of them exists, or it is not JSON.
        """
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise self.missing(folder, " or ".join(names))
        text = path.read_text(encoding="utf-8-sig")
        try:
            return json.loads(text) if path.suffix != ".jsonl" else json_lines(text)
        except json.JSONDecodeError as error:
            try:
                return json_lines(text)
            except json.JSONDecodeError:
                raise ValueError(f"{self.name}: {path} is not JSON: {error}") from error

    def parquet_rows(
        self, files: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = ()
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
                    f"{self.name}: {file} has no column {', '.join(map(repr, absent))}; it has {', '.join(names)}. "
                    f"Expected {self.expects}."
                )
            wanted = [name for name in (*columns, *optional) if name in names]
            row = 0
            for batch in table.iter_batches(columns=wanted):
                for fields in batch.to_pylist():
                    yield {**fields, "_file": file, "_row": row}
                    row += 1


def json_lines(text: str) -> list[Any]:
    """One JSON value a line."""
    return [json.loads(line) for line in text.split("\n") if line.strip()]


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


def has_images(file: Path, column: str = "image") -> list[bool]:
    """Whether each row of an image column is filled, without reading the images."""
    table = pq.ParquetFile(file)
    field = table.schema_arrow.field(column) if column in table.schema_arrow.names else None
    if field is None:
        return [False] * table.metadata.num_rows
    leaf = f"{column}.path" if pa.types.is_struct(field.type) and "path" in [f.name for f in field.type] else column
    return table.read(columns=[leaf]).column(column).is_valid().to_pylist()


def image_of(row: Mapping[str, Any], column: str = "image", key: str | None = None) -> StoredImage:
    """The image of a row of `parquet_rows`; rows with the same `key` hold the same image."""
    file, number = row["_file"], row["_row"]
    return StoredImage(file=file, column=column, row=number, key=key or f"{file.name}#{column}#{number}")


def check_images(files: Sequence[Path], column: str = "image") -> list[bool]:
    """Whether each row of `parquet_rows(files)` has an image."""
    return [filled for file in files for filled in has_images(file, column)]


def first_existing(folder: Path, *names: str) -> Path:
    """The first of these files that exists, else the first of them: the check of images then names it."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def one(answer: str | None) -> tuple[str, ...]:
    """The references of a question with one answer; none where it is empty, which the check of questions then names."""
    return (answer,) if answer else ()


def letter_of(name: str, key: str, index: int, options: Sequence[Any]) -> str:
    """The letter of choice `index` of a question; ValueError when there is no such choice."""
    if not 0 <= index < len(options):
        raise ValueError(f"{name}: question {key} has {len(options)} choices, and the answer is number {index} from 0.")
    return LETTERS[index]
