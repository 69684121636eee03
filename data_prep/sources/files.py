"""Rows of JSON, JSON lines, CSV, Parquet and Arrow files, one after the other; nothing here can run code."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

ROWS_A_BATCH = 64
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".npy")
csv.field_size_limit(2**24)


def row_files(path: Path) -> list[Path]:
    """The file itself, or the files with rows of a folder in the order of their names.

    Raises:
        ValueError: nothing is there that can be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in READERS)
        if not files:
            raise ValueError(f"{path}: no file with rows is in this folder ({', '.join(READERS)}).")
        return files
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder.")
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path}: a pickle can run code when it is read. Use the Parquet files of the data set instead."
        )
    if path.suffix not in READERS:
        suffix = path.suffix or "no suffix"
        raise ValueError(f"{path}: {suffix} is not a format with rows. Use one of {', '.join(READERS)}.")
    return [path]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file, or of all such files of a folder.

    Raises:
        ValueError: a file is broken or a row is not a mapping; it names the file and the place.
    """
    return chain.from_iterable(_checked(file) for file in row_files(path))


def _checked(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for number, row in enumerate(READERS[path.suffix](path)):
            if not isinstance(row, Mapping):
                raise ValueError(f"row {number} is not a mapping of columns, but {row!r:.60}.")
            yield dict(row)
    except (json.JSONDecodeError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _json(path: Path) -> Iterator[Any]:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError(f"holds no list of rows, but {rows!r:.60}.")
    return iter(rows)


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {number}: {error}") from error


def _csv(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")


def _parquet(path: Path) -> Iterator[Any]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_A_BATCH):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[Any]:
    """Arrow's stream format, in which Hugging Face's library keeps its cache, or its file format."""
    with pa.memory_map(str(path)) as file:
        if bytes(file.read(6)) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = iter(pa.ipc.open_stream(file))
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_A_BATCH):
                yield from batch.slice(start, ROWS_A_BATCH).to_pylist()


READERS = {
    ".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".arrow": _arrow,
}  # fmt: skip


def num_rows(path: Path) -> int | None:
    """How many rows there are, where that is known without reading them (Parquet)."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or any(file.suffix != ".parquet" or not file.is_file() for file in files):
        return None
    try:
        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
