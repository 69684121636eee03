"""Rows of JSON, JSON lines, CSV, TSV, XLSX, Parquet and Arrow files, one after the other; nothing here can run code.

A row that cannot be read is a `RowError` in its place, so that the rows around it are.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, datetime, time
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from dragonfly_lit.io.text import read_text, text_lines
from dragonfly_lit.spec.cells import Written, shown, shown_name
from dragonfly_lit.spec.rows import Place, Row, RowError
from dragonfly_lit.spec.shard import NAMED_IMAGE_EXTENSIONS

ROWS_A_BATCH = 64
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".npy")
MAX_LINES = 1000
"""Lines of a CSV that a quoted text may take; more, and its quote was never closed."""
MISSING = ("nan", "NaN", "<NA>", "null", "NULL")
"""Cells of a CSV or TSV that hold nothing."""
EXCEL_ERRORS = ("#N/A", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!")
_IMAGE_NAME = re.compile(rf"\S\.(?:{'|'.join(NAMED_IMAGE_EXTENSIONS)})\W*$", re.IGNORECASE)
csv.field_size_limit(2**24)

Cells = tuple[int | None, Any]
"""Line of a file of text, counted from 1, and the cells of its row, or what is wrong with it as a text."""


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
            except (ValueError, RecursionError) as error:
                yield number, ValueError(f"is not JSON: {error}.")


class _Lines:
    """Lines that are counted, and can be given back to be read once more."""

    def __init__(self, lines: Iterator[str]):
        self.lines = lines
        self.taken: list[str] = []
        """Lines since `start`."""
        self.first = 1
        """Number of the first of them."""

    def start(self) -> None:
        """Forget the lines that were taken: a new row begins."""
        self.first += len(self.taken)
        self.taken = []

    def give_back(self) -> None:
        """Read again all lines since `start` but the first."""
        self.lines = chain(self.taken[1:], self.lines)
        self.taken = self.taken[:1]

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_LINES:
            raise csv.Error("its quoted text does not end")
        line = next(self.lines)
        self.taken.append(line)
        return line


def _csv(path: Path) -> Iterator[Cells]:
    """Rows by the header's names. A TSV knows no quotes: they are letters like others.

    A CSV whose header has semicolons and no comma is divided by them: so Excel writes it where numbers have commas.
    """
    tabs = _suffix(path) == ".tsv"
    found = text_lines(path, newline="")
    first_line = next(found, "")
    separator = "\t" if tabs else ";" if ";" in first_line and "," not in first_line else ","
    rules: dict[str, Any] = {"delimiter": separator, **({"quoting": csv.QUOTE_NONE} if tabs else {})}
    lines = _Lines(chain([first_line], found))
    header = [name.strip() for name in next(csv.reader(lines, strict=True, **rules), [])]
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise ValueError(f"{path}: two columns are called {shown_name(twice)}. Rename one.")
    while True:
        lines.start()
        try:
            fields = next(csv.reader(lines, strict=True, **rules), None)
        except csv.Error as error:
            lines.give_back()
            yield lines.first, ValueError(f"is not CSV ({error}); a quote that opens a text must close it.")
            continue
        if fields is None:
            return
        if not fields:
            continue
        problem = _problem(fields, header, lines.taken, separator)
        if problem:
            first = lines.first
            lines.give_back()
            yield first, ValueError(problem)
        else:
            yield lines.first, {name: _cell(text) for name, text in zip(header, fields, strict=True)}


def _cell(text: str) -> str | None:
    """A cell of a table of texts; what pandas writes for a missing one is missing."""
    return None if text.strip() in MISSING else text


def _problem(fields: list[str], header: list[str], lines: list[str], separator: str) -> str:
    """What shows that a row of a CSV or TSV is not what its writer meant."""
    tabs = separator == "\t"
    if len(fields) != len(header):
        called = {",": "comma", ";": "semicolon"}
        hint = "" if tabs else f" A text with a {called[separator]} in it needs quotes around it."
        return f"has {len(fields)} fields where the header has {len(header)}.{hint}"
    if tabs and any(len(text) > 2 and text[0] == text[-1] == '"' and '""' in text[1:-1] for text in fields):
        return "has a text in quotes with doubled quotes inside. A TSV has no quoting; save the table as .csv."
    for line in lines[1:]:  # of a text over several lines
        inside = next(csv.reader([line], delimiter=separator), [])
        if len(inside) == len(header) and any(map(_IMAGE_NAME.search, inside)):
            return f"opens a quote that closes only after what looks like another row: {line.strip()!r:.60}."
    return ""


def _xlsx(path: Path) -> Iterator[Cells]:
    """Rows of the first sheet, by the names in its first row; of a formula the value that was saved with it."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise ValueError(
            f"{path}: needs openpyxl: pip install 'dragonfly_lit[tables]', or save the table as CSV."
        ) from error
    with ExitStack() as stack:
        with _reading_excel(path):
            book: Any = load_workbook(path, read_only=True, data_only=True)
            stack.callback(book.close)
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some programs write a size that is not the sheet's
        rows = _excel_rows(path, sheet.iter_rows(values_only=True))
        header = ["" if cell is None else str(cell).strip() for cell in _filled(next(rows, ()))]
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise ValueError(f"{path}: two columns are called {shown_name(twice)}. Rename one.")
        for line, cells in enumerate(rows, 2):
            found = _filled(cells)
            if len(found) > len(header):
                yield line, ValueError(f"has {len(found)} cells where the first row has {len(header)}.")
            elif found:
                whole = [*found, *[None] * (len(header) - len(found))]
                yield line, {name: _excel_cell(cell) for name, cell in zip(header, whole, strict=True)}


@contextmanager
def _reading_excel(path: Path) -> Iterator[None]:
    """A damaged archive, or a damaged sheet in it, raises anything from KeyError to BadZipFile."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path}: cannot be read as a table of Excel: {said}.") from error


def _excel_rows(path: Path, rows: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """The cells of each row; a sheet is decoded as they are asked for."""
    while True:
        with _reading_excel(path):
            cells = next(rows, None)
        if cells is None:
            return
        yield cells


def _filled(cells: Sequence[Any]) -> list[Any]:
    """Cells of a row without the empty ones behind the last that holds something."""
    found = list(cells)
    while found and found[-1] in (None, ""):
        found.pop()
    return found


def _excel_cell(cell: Any) -> Any:
    """A cell as JSON would have it: a date becomes its text, an error such as `#N/A` nothing."""
    if isinstance(cell, datetime | date | time):
        return cell.isoformat()
    if isinstance(cell, str):
        return None if cell in EXCEL_ERRORS else _cell(cell)
    return cell


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
    ".json": _json, ".jsonl": _json_lines, ".csv": _csv, ".tsv": _csv, ".xlsx": _xlsx, ".parquet": _parquet,
    ".arrow": _arrow,
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
