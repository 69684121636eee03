"""Rows of an Excel file, of its first visible sheet that has any, by the names in the first filled row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, datetime, time
from functools import lru_cache
from pathlib import Path
from typing import Any

from dragonfly_lit.io.text import counted
from dragonfly_lit.spec.cells import shown_name
from dragonfly_lit.spec.delimited import Cells, cell

ERRORS = ("#N/A", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!")

log = logging.getLogger(__name__)


def excel_rows(path: Path) -> Iterator[Cells]:
    """Rows of the first visible sheet that has any; of a formula the value that was saved with it.

    Args:
        path: the file.

    Raises:
        ValueError: it is damaged, openpyxl is not installed, or two columns have one name.
    """
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
            sheet = _sheet(path, book)
        rows = enumerate(_rows(path, sheet), 1)
        line, names = next(((line, found) for line, cells in rows if (found := _filled(cells))), (1, []))
        header = ["" if name is None else str(name).strip() for name in names]
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise ValueError(f"{path}: two columns are called {shown_name(twice)}. Rename one.")
        for number, cells in rows:
            found = _filled(cells)
            if len(found) > len(header):
                said = f"has {counted(len(found), 'cell')} where line {line}, of the columns' names, has {len(header)}."
                yield number, ValueError(said)
            elif found:
                whole = [*found, *[None] * (len(header) - len(found))]
                yield number, {name: _value(each) for name, each in zip(header, whole, strict=True)}


def _sheet(path: Path, book: Any) -> Any:
    """The sheet that is read; of several that might be meant the others are told."""
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # some programs write a size that is not the sheet's
    seen = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
    filled = [sheet for sheet in seen if any(map(_filled, sheet.iter_rows(values_only=True)))]
    if len(filled) > 1:
        _tell(path, filled[0].title, ", ".join(shown_name(sheet.title) for sheet in filled[1:]))
    return (filled or seen)[0]


@lru_cache(64)
def _tell(path: Path, read: str, others: str) -> None:
    """Once, however often the file is read."""
    log.warning("%s: sheet %s is read, %s not. Save a sheet by itself to read it.", path, shown_name(read), others)


@contextmanager
def _reading_excel(path: Path) -> Iterator[None]:
    """A damaged archive, or a damaged sheet in it, raises anything from KeyError to BadZipFile."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{path}: cannot be read as a table of Excel: {said}.") from error


def _rows(path: Path, sheet: Any) -> Iterator[Sequence[Any]]:
    """The cells of each row; a sheet is decoded as they are asked for."""
    rows = sheet.iter_rows(values_only=True)
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


def _value(value: Any) -> Any:
    """A cell as JSON would have it: a date becomes its text, an error such as `#N/A` nothing."""
    if isinstance(value, datetime) and value.time() == time():  # Excel has no type for days
        return value.date().isoformat()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, str):
        return None if value in ERRORS else cell(value)
    return value
