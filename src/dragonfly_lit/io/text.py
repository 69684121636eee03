"""Text files of users: UTF-8 with or without a mark, or UTF-16 and UTF-32 as their first bytes say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path


def text_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a text file.

    A byte that is not UTF-8 (of Latin-1, of a damaged download) becomes a lone surrogate, as Python's
    `surrogateescape` has it: `spec.rows` refuses the row that holds it by name, and the other rows are read.

    Args:
        path: the file.
        newline: as for `open`; `""` keeps the ends of lines.

    Raises:
        ValueError: the file is not the UTF-16 or UTF-32 that its first bytes say.
    """
    with path.open("rb") as start:
        encoding = json.detect_encoding(start.read(4))
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    try:
        with path.open(encoding=encoding, errors=errors, newline=newline) as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} starts as {encoding.upper()} and is not: {error.reason}. Save it as UTF-8."
        ) from error


def read_text(path: Path) -> str:
    """The whole file, by the rules of `text_lines`."""
    return "".join(text_lines(path))


def counted(number: int, noun: str) -> str:
    """A number of things: `1 sample`, `2,000 samples`.

    Args:
        number: of them.
        noun: of one, whose plural has an s behind it.
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
