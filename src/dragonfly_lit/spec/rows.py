"""A row of a user's file: each field in one of the documented shapes, or an error that says where the row stands.

Every reader of foreign rows goes through here: the converters of `data_prep pack` and the manifests of `evaluate.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from string import ascii_uppercase as LETTERS
from typing import Any, Literal

from dragonfly_lit.io.data_url import decode_data_url, is_data_url
from dragonfly_lit.spec.cells import Written, by_letter, is_given, parsed, shown, shown_name

IMAGE_SHAPES = "a file name, encoded bytes, a data: URL or {bytes, path}"
CHOICE_SHAPES = "a list of texts, the text of such a list, or texts by letter, {A: ..., B: ...}"
_LETTER = re.compile(r"\(?([A-Za-z])[).]?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_INT = 2**63


@dataclass(frozen=True)
class Place:
    """Where a row stands: the name of its file, its number there, and for files of text its line; both from 1 on."""

    file: str
    row: int
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file} row {self.row}" if self.line is None else f"{self.file} line {self.line}, row {self.row}"


class RowError(ValueError):
    """A row that is not read: one line with its place and the reason."""

    def __init__(self, place: Place, reason: str):
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = place, reason

    def __reduce__(self):
        return type(self), (self.place, self.reason)


class MissingColumnError(RowError):
    """A row without the column that its reader looks for: it may be of another format."""


@dataclass(kw_only=True, slots=True)
class Row:
    """The cells of a row and which of them were read.

    Where a method takes several names, they are names that one thing has in different files: the first that holds
    something is read, so an empty cell never hides a filled one.

    Attributes:
        values: cells by name, as JSON, Parquet or CSV gives them.
        place: where the row stands.
        prefix: of names in messages, for the rows inside a cell, such as `conversations[2].`.
        read: names of the cells that were read.
        inner: the rows inside cells, by the cell's name.
        called: what the user's file calls a cell that has another name here.
        way_out: what the message of a cell that is not there says behind the columns.
    """

    values: Mapping[str, Any]
    place: Place
    prefix: str = ""
    read: set[str] = field(default_factory=set)
    inner: dict[str, list[Row]] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)
    way_out: str = ""

    def error(self, name: str, reason: str) -> RowError:
        """The error of one cell."""
        cell, bracket, place = name.partition("[")
        return RowError(self.place, f"{self.prefix}{self.called.get(cell, cell)}{bracket}{place}: {reason}")

    def wrong(self, name: str, value: Any, wanted: str) -> RowError:
        """The error of a cell that holds something else than `wanted`."""
        return self.error(name, f"found {shown(value)}, wanted {wanted}.")

    def cell_of(self, column: str) -> str:
        """The name that a column of the user's file has here."""
        return next((name for name, called in self.called.items() if called == column), column)

    def given(self, *names: str) -> list[str]:
        """Those of `names` whose cells hold something."""
        return [name for name in names if is_given(self.values.get(name))]

    def has(self, *names: str) -> bool:
        """Whether one of these cells holds something."""
        return any(map(is_given, map(self.values.get, names)))

    def raw(self, name: str) -> Any:
        """The cell as it is; it counts as read."""
        self.read.add(name)
        return self.values.get(name)

    def pick(self, *names: str, wanted: str = "") -> str:
        """The first of `names` whose cell holds something.

        Args:
            names: of the cell.
            wanted: what it should hold, for the message; empty is anything.

        Raises:
            RowError: none does.
        """
        for name in names:
            if is_given(self.values.get(name)):
                return name
        if there := [name for name in names if name in self.values]:
            if not wanted:
                raise self.error(there[0], "is empty.")
            raise self.wrong(there[0], self.values[there[0]], wanted)
        columns = ", ".join(shown_name(self.called.get(name, name)) for name in list(self.values)[:20]) or "none"
        missing = f"is missing: looked for {', '.join(names)}; the columns are {columns}.{self.way_out}"
        raise MissingColumnError(self.place, self.error(names[0], missing).reason)

    def text(self, *names: str, numbers: bool = False) -> str:
        """A text that is not empty.

        Args:
            names: of the cell.
            numbers: whether a whole number will do, which becomes its digits. Any other number has several texts
                (3.0 may have been 3), so it is refused.

        Raises:
            RowError: it is missing, empty, something else, or holds half a character.
        """
        name = self.pick(*names, wanted="a text")
        return self.check_text(name, self.raw(name), numbers=numbers)

    def text_or(self, default: str, *names: str, numbers: bool = False) -> str:
        """The same, or `default` where no cell holds anything."""
        return self.text(*names, numbers=numbers) if self.has(*names) else default

    def texts(self, *names: str, numbers: bool = False, key: str = "answer") -> list[str]:
        """One text or a list of them; an entry of the list may be a struct that has the text under `key`.

        Blank entries of a list do not count: annotators leave fields empty. In a cell whose name ends in `s` the text
        of a list, as a CSV has it, is a list.

        Args:
            names: of the cell.
            numbers: as for `text`.
            key: of the structs.

        Raises:
            RowError: as for `text`.
        """
        name = self.pick(*names)
        value = self.raw(name)
        if isinstance(value, str) and name.endswith("s"):
            several = parsed(value)
            value = several if isinstance(several, list) else value
        if not isinstance(value, list | tuple):
            return [self.check_text(name, value, numbers=numbers)]
        entries = [each[key] if isinstance(each, Mapping) and key in each else each for each in value]
        kept = [(n, each) for n, each in enumerate(entries) if not (isinstance(each, str) and not each.strip())]
        if not kept:  # the text of a list of nothing
            raise self.wrong(name, self.values[name], "a text")
        return [self.check_text(f"{name}[{n}]", each, numbers=numbers) for n, each in kept]

    def check_text(self, name: str, value: Any, *, numbers: bool = False) -> str:
        """`value` as the text of the cell `name`, by the rules of `text`."""
        if numbers and isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MAX_INT:
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, value, "a text or a whole number" if numbers else "a text")
        if not value.isascii() and (half := _SURROGATE.search(value)):
            byte = ord(half[0]) - 0xDC00  # as `io.text` keeps a byte that is not UTF-8
            what = (
                f"the byte 0x{byte:02X}, which is not UTF-8,"
                if 0x80 <= byte <= 0xFF
                else f"half a character, {half[0]!r},"
            )
            raise self.error(name, f"holds {what} at place {half.start()}. Save the file as UTF-8.")
        return value

    def images(self, *names: str) -> list[str | bytes]:
        """The image or images of the row: names of files or encoded bytes; none where every cell is empty.

        Of `{bytes, path}` the bytes are taken where there are any. Two cells may both hold something if it is the same.

        Raises:
            RowError: a cell holds something else than `IMAGE_SHAPES` or a list of those, or two cells differ.
        """
        found = {name: self._images(name) for name in self.given(*names)}
        first, *others = found or [""]
        for name in others:
            if found[name] != found[first]:
                other = f"{self.prefix}{self.called.get(name, name)}"
                raise self.error(
                    first,
                    f"and {other} are both given and differ ({shown(found[first])}, {shown(found[name])}). "
                    "Leave one of them empty.",
                )
        return found.get(first, [])

    def _images(self, name: str) -> list[str | bytes]:
        value = self.raw(name)
        if not isinstance(value, list | tuple):
            return [self.check_image(name, value)]
        return [self.check_image(f"{name}[{number}]", each) for number, each in enumerate(value)]

    def check_image(self, name: str, value: Any) -> str | bytes:
        """`value` as a reference to an image, by the rules of `images`."""
        if isinstance(value, Mapping):
            keys = [key for key in ("bytes", "path", "url") if is_given(value.get(key))]
            if not keys or (keys[0] == "bytes") != isinstance(value[keys[0]], bytes):
                raise self.wrong(name, dict(value), IMAGE_SHAPES)
            value = value[keys[0]]
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, value, IMAGE_SHAPES)
        if not is_data_url(value):
            return self.check_text(name, value)
        try:
            return decode_data_url(value)
        except ValueError as error:
            raise self.error(name, f"is {error}") from error

    def rows(self, name: str, what: str = "structs") -> list[Row]:
        """The structs of a list, such as the turns of a conversation, as rows that stand where this one does.

        Args:
            name: of the cell.
            what: the structs are, for the message.

        Raises:
            RowError: it is not a list of structs, or an empty one.
        """
        value = self.raw(self.pick(name, wanted=f"a list of {what}"))
        if not isinstance(value, list | tuple):
            raise self.wrong(name, value, f"a list of {what}")
        made = self.inner[name] = []
        for number, each in enumerate(value):
            if not isinstance(each, Mapping):
                raise self.wrong(f"{name}[{number}]", each, "a struct with named fields")
            made.append(Row(values=each, place=self.place, prefix=f"{self.prefix}{name}[{number}]."))
        return made

    def choices(self, *names: str) -> tuple[str, ...] | None:
        """The texts of the choices of a question, in the order of their letters; None where there are none.

        They are `CHOICE_SHAPES`, or `{text: [...], label: [...]}`, or cells of their own named A, B, C ...

        Raises:
            RowError: they are something else, or more than there are letters.
        """
        if found := self.given(*names):
            name = found[0]
            value = self.raw(name)
        elif self.has("A") and self.has("B"):
            name = "A"
            value = {letter: self.raw(letter) for letter in LETTERS if letter in self.values}
        else:
            self._check_no_gap()
            return None
        made = parsed(value) if isinstance(value, str) else value
        if isinstance(made, Mapping):
            made = by_letter(made)
        if not isinstance(made, list | tuple) or not 0 < len(made) <= len(LETTERS):
            raise self.wrong(name, value, CHOICE_SHAPES)
        return tuple(self.check_text(f"{name}[{n}]", each, numbers=True).strip() for n, each in enumerate(made))

    def _check_no_gap(self) -> None:
        """Choices in cells of their own begin with A and B: one without the other would not be shown."""
        filled = self.given(*LETTERS)
        empty = next((letter for letter in "AB" if letter not in filled), "")
        if filled and empty in self.values and {"A", "B"} <= set(self.values):
            other = self.called.get(filled[0], filled[0])
            raise self.error(empty, f"is empty, and {other} is a choice. Fill the choices from A on, without a gap.")

    def letter(self, name: str, value: Any, choices: Sequence[str]) -> str:
        """The letter of the right choice.

        A text is the choice itself, else its letter, else its number; a whole number counts the choices from 0.

        Args:
            name: of the cell, for the message.
            value: what it says.
            choices: as `choices` gives them.

        Raises:
            RowError: there is no such choice, or a number is the place of one and the text of another.
        """
        said = self.check_text(name, value, numbers=True).strip()
        place = int(said) if said.isascii() and said.isdecimal() and len(said) < 4 else None
        letter = _LETTER.fullmatch(said)
        number = place if place is not None and place < len(choices) else None
        if said in choices:
            found = choices.index(said)
            if not isinstance(value, str) and number not in (None, found):
                raise self.error(name, f"{said} is the place of one choice and the text of another. Write its letter.")
            return LETTERS[found]
        if letter and letter[1].upper() in LETTERS[: len(choices)]:
            return letter[1].upper()
        if number is not None:
            return LETTERS[number]
        raise self.wrong(
            name,
            value,
            f"a choice, its letter or its number from 0 to {len(choices) - 1}; the choices are {shown(list(choices))}",
        )

    def columns(self) -> list[tuple[str, Literal["read", "unread", "empty"]]]:
        """What became of each cell, those of inner rows under names such as `conversations[].from`."""
        found = []
        for name, value in self.values.items():
            state = "empty" if not is_given(value) else "read" if name in self.read else "unread"
            found.append((self.called.get(name, name), state))
            for row in self.inner.get(name, ()):
                found += [(f"{name}[].{inside}", state) for inside, state in row.columns()]
        return found


def with_numbers(row: Row, names: tuple[str, ...], *, whole: bool) -> Row:
    """The row with numbers that have one text as this text, for cells that may hold numbers with a point.

    A number of JSON is as it is written. Of a table 2.5 is `2.5`; 3.0 may have been 3, which empty cells beside it made
    a number with a point.

    Args:
        row: as it was read.
        names: of the cells.
        whole: whether 3.0 will do as `3.0`, since numbers will be compared.
    """

    def text(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [text(each) for each in value]
        if isinstance(value, Mapping):
            return {key: text(each) for key, each in value.items()}
        if isinstance(value, Written):
            return value.text
        if isinstance(value, float) and isfinite(value) and "e" not in repr(value):
            return repr(value) if whole or not value.is_integer() else value
        return value

    changed = {name: text(row.values[name]) for name in names if name in row.values}
    return Row(values={**row.values, **changed}, place=row.place, called=row.called, way_out=row.way_out)
