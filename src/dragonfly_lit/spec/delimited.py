"""Rows of CSV and TSV files, by the names in the first line that holds something."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from dragonfly_lit.io.text import counted, text_lines
from dragonfly_lit.spec.cells import shown_name
from dragonfly_lit.spec.shard import NAMED_IMAGE_EXTENSIONS

MAX_LINES = 1000
"""Lines of a CSV that a quoted text may take; more, and its quote was never closed."""
MISSING = ("nan", "NaN", "<NA>", "null", "NULL")
"""Cells of a CSV or TSV that hold nothing."""
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_IMAGE_NAME = re.compile(rf"\S\.(?:{'|'.join(NAMED_IMAGE_EXTENSIONS)})\W*$", re.IGNORECASE)
_SEPARATOR_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"')
csv.field_size_limit(2**24)

Cells = tuple[int | None, Any]
"""Line of a file of text, counted from 1, and the cells of its row, or what is wrong with it as a text."""


class _Lines:
    """Lines that are counted, and can be given back to be read once more."""

    def __init__(self, lines: Iterator[str], first: int = 1):
        self.lines = lines
        self.taken: list[str] = []
        """Lines since `start`."""
        self.first = first
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


def delimited_rows(path: Path) -> Iterator[Cells]:
    """Rows by the header's names. A TSV knows no quotes: they are letters like others.

    A CSV is divided by what its first line says as Excel does (`sep=;`), else by semicolons where its header has more
    of them than commas: so Excel writes it where numbers have commas. Rows without a filled cell are passed over.

    Args:
        path: a CSV, or a TSV by its suffix.

    Raises:
        ValueError: two columns have one name, or the header is divided by something else.
    """
    tabs = path.suffix.lower() == ".tsv"
    found = text_lines(path, newline="")
    first_line, said, number = _header_line(found)
    separator = "\t" if tabs else said or _separator(first_line)
    rules: dict[str, Any] = {"delimiter": separator, **({"quoting": csv.QUOTE_NONE} if tabs else {})}
    lines = _Lines(chain([first_line], found), number)
    header = [name.strip() for name in next(csv.reader(lines, strict=True, **rules), [])]
    _check_header(path, header, separator)
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
        if not any(map(str.strip, fields)):
            continue
        problem = _problem(fields, header, lines.taken, separator)
        if problem:
            first = lines.first
            lines.give_back()
            yield first, ValueError(problem)
        else:
            yield lines.first, {name: cell(text) for name, text in zip(header, fields, strict=True)}


def _header_line(lines: Iterable[str]) -> tuple[str, str, int]:
    """The line with the columns' names, the separator that a line before it names, and its number."""
    said = ""
    for number, line in enumerate(lines, 1):
        if mark := _SEPARATOR_LINE.fullmatch(line.strip("\r\n")):
            said = mark[1]
        elif line.strip(",; \t\r\n"):
            return line, said, number
    return "", said, 1


def _separator(header: str) -> str:
    bare = _QUOTED.sub("", header)
    return ";" if bare.count(";") > bare.count(",") else ","


def _check_header(path: Path, header: list[str], separator: str) -> None:
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise ValueError(f"{path}: two columns are called {shown_name(twice)}. Rename one.")
    others = [each for each in SEPARATORS if each != separator and len(header) == 1 and each in header[0]]
    if others:
        way_out = {"\t": "Save it as .tsv", ",": "Save it as .csv"}.get(others[0], "Divide it by commas")
        raise ValueError(
            f"{path}: by {SEPARATORS.get(separator, separator)}s its first line is one name, {shown_name(header[0])}, "
            f"which {SEPARATORS[others[0]]}s seem to divide. {way_out}."
        )


def cell(text: str) -> str | None:
    """A cell of a table of texts; what pandas writes for a missing one is missing."""
    return None if text.strip() in MISSING else text


def _problem(fields: list[str], header: list[str], lines: list[str], separator: str) -> str:
    """What shows that a row of a CSV or TSV is not what its writer meant."""
    tabs = separator == "\t"
    if len(fields) != len(header):
        hint = "" if tabs else f" A text with a {SEPARATORS.get(separator, separator)} in it needs quotes around it."
        return f"has {counted(len(fields), 'field')} where the header has {len(header)}.{hint}"
    if tabs and any(len(text) > 2 and text[0] == text[-1] == '"' and '""' in text[1:-1] for text in fields):
        return "has a text in quotes with doubled quotes inside. A TSV has no quoting; save the table as .csv."
    for line in lines[1:]:  # of a text over several lines
        inside = next(csv.reader([line], delimiter=separator), [])
        if len(inside) == len(header) and any(map(_IMAGE_NAME.search, inside)):
            return f"opens a quote that closes only after what looks like another row: {line.strip()!r:.60}."
    return ""
