"""Rows of JSON, JSON lines, CSV, TSV, XLSX, Parquet and Arrow files, one after the other; nothing here can run code.

A row that cannot be read is a `RowError` in its place, so that the rows around it are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from dragonfly_lit.io.text import read_text, text_lines
from dragonfly_lit.spec.cells import Written, shown
from dragonfly_lit.spec.delimited import Cells, delimited_rows
from dragonfly_lit.spec.excel import excel_rows
from dragonfly_lit.spec.rows import Place, Row, RowError

ROWS_A_BATCH = 64
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".npy")


def row_files(path: Path) -> list[Path]:
    """The file itself, or the files with rows of a folder in the order of their names.

    Raises:
        ValueError: nothing is there that can be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _suffix(file) in READERS)
        if not files:
            raise ValueError(f"{path}: no file with rows is in this folder ({', '.join(READERS)}).")
        return files
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder.")
    if _suffix(path) in PICKLES:
        raise ValueError(
            f"{path}: a pickle can run code when it is read. Use the Parquet files of the data set instead."
        )
    if _suffix(path) not in READERS:
        suffix = path.suffix or "no suffix"
        raise ValueError(f"{path}: {suffix} is not a format with rows. Use one of {', '.join(READERS)}.")
    return [path]


def read_rows(path: Path, *, encoded: bool = True) -> Iterator[Row | RowError]:
    """Rows of a file, or of all such files of a folder; they are numbered from 1 in each.

    Args:
        path: the file or folder.
        encoded: whether cells of bytes are read, such as images; else they are empty, where the format has columns.

    Raises:
        ValueError: a file is broken as a whole; it is named.
    """
    return chain.from_iterable(_checked(file, encoded) for file in row_files(path))


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _unreadable(suffix: str) -> str:
    return f"cannot be read as {suffix.removeprefix('.')}"


def _checked(path: Path, encoded: bool) -> Iterator[Row | RowError]:
    suffix = _suffix(path)
    try:
        rows = READERS[suffix](path) if encoded or suffix not in COLUMNAR else COLUMNAR[suffix](path, encoded=False)
        for number, (line, cells) in enumerate(rows, 1):
            place = Place(path.name, number, line)
            if isinstance(cells, Mapping):
                yield Row(values=cells, place=place)
            elif isinstance(cells, ValueError):
                yield RowError(place, str(cells))
            else:
                yield RowError(place, f"found {shown(cells)}, wanted a struct with named fields.")
    except OSError as error:
        raise ValueError(f"{path}: {_unreadable(suffix)}: {error.strerror or error}.") from error
    except (ValueError, RecursionError, pa.ArrowException, csv.Error) as error:
        said = f"{path}: {_unreadable(suffix)}: {error}"
        raise ValueError(str(error) if str(path) in str(error) else said) from error


def _json(path: Path) -> Iterator[Cells]:
    """The rows of a list, the one that an object is, or one object a line under this name."""
    text = read_text(path)
    try:
        rows = json.loads(text, parse_float=Written)
    except (ValueError, RecursionError):
        if text.lstrip().startswith("["):
            raise
        return _json_lines(path)
    return ((None, row) for row in (rows if isinstance(rows, list) else [rows]))


def _json_lines(path: Path) -> Iterator[Cells]:
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            try:
                yield number, json.loads(line, parse_float=Written)
            except json.JSONDecodeError as error:
                yield number, ValueError(f"is not JSON: {error.msg} at character {error.pos + 1}.")
            except (ValueError, RecursionError) as error:
                yield number, ValueError(f"is not JSON: {error}.")


def _parquet(path: Path, *, encoded: bool = True) -> Iterator[Cells]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        kept = names if encoded else _without_bytes(file.schema_arrow)
        for batch in file.iter_batches(batch_size=ROWS_A_BATCH, columns=None if kept == names else kept):
            yield from _batch(batch, names)


def _arrow(path: Path, *, encoded: bool = True) -> Iterator[Cells]:
    """Arrow's stream format, in which Hugging Face's library keeps its cache, or its file format."""
    with pa.memory_map(str(path)) as file:
        if bytes(file.read(6)) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            file.seek(0)
            batches = iter(pa.ipc.open_stream(file))
        for batch in batches:
            kept = batch if encoded else batch.select(_without_bytes(batch.schema))
            for start in range(0, batch.num_rows, ROWS_A_BATCH):
                yield from _batch(kept.slice(start, ROWS_A_BATCH), batch.schema.names)


def _without_bytes(schema: pa.Schema) -> list[str]:
    """The columns that hold no bytes, at whatever depth."""
    return [field.name for field in schema if "binary" not in str(field.type)]


def _batch(batch: pa.RecordBatch, names: Sequence[str]) -> Iterator[Cells]:
    """The rows, with empty cells in the columns of `names` that were not read."""
    left_out = dict.fromkeys(name for name in names if name not in batch.schema.names)
    for line, cells in _cells(batch):
        yield line, {**left_out, **cells} if left_out and isinstance(cells, Mapping) else cells


def _cells(batch: pa.RecordBatch) -> Iterator[Cells]:
    try:
        rows = batch.to_pylist()
    except (ValueError, pa.ArrowException):  # one cell, such as a text that is not UTF-8, spoils them all
        for number in range(batch.num_rows):
            try:
                yield None, batch.slice(number, 1).to_pylist()[0]
            except (ValueError, pa.ArrowException) as error:
                yield None, ValueError(f"cannot be read: {error}.")
    else:
        yield from ((None, row) for row in rows)


READERS = {
    ".json": _json, ".jsonl": _json_lines, ".csv": delimited_rows, ".tsv": delimited_rows, ".xlsx": excel_rows,
    ".parquet": _parquet, ".arrow": _arrow,
}  # fmt: skip
COLUMNAR = {".parquet": _parquet, ".arrow": _arrow}
"""Of those the ones that read some columns without the others."""


def num_rows(path: Path) -> int | None:
    """How many rows there are, where that is known without reading them (Parquet)."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or any(_suffix(file) != ".parquet" or not file.is_file() for file in files):
        return None
    try:
        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
