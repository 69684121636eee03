"""The value of one cell of a user's file: whether it holds anything, how a message shows it, what its text writes."""

from __future__ import annotations

import ast
import json
import reprlib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from string import ascii_uppercase as LETTERS
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class Written(float):
    """A number of a JSON file that knows how it was written: `0.50` is not `0.5` where texts are compared."""

    def __new__(cls, text: str) -> Written:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str


def is_given(value: Any, depth: int = 4) -> bool:
    """Whether a cell holds anything: null, NaN, a blank text, an empty list and a struct of nothing else do not.

    Args:
        value: the cell.
        depth: levels of lists and structs that are looked into; what lies deeper counts as something.
    """
    if isinstance(value, str):
        return bool(value) and not value.isspace()
    if value is None:
        return False
    if isinstance(value, int | float):
        return value == value  # NaN differs from itself
    if isinstance(value, dict | list | tuple | Mapping):
        inside = value if isinstance(value, list | tuple) else value.values()
        return not depth or any(is_given(each, depth - 1) for each in inside)
    return value == value


def shown(value: Any) -> str:
    """A value in a message: short, on one line, and printable whatever it holds."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, str) and not value.strip():
        return "an empty text"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    try:
        text = _SHORT.repr(value)
    except (ValueError, RecursionError):  # Python refuses to print a number of thousands of digits
        text = "a value that cannot be printed"
    kind = "float" if isinstance(value, float) else type(value).__name__
    return text if isinstance(value, str) else f"{text} (type {kind})"


def shown_name(name: Any) -> str:
    """A column's name in a message or a table: printable, and not longer than a line can bear."""
    text = name if isinstance(name, str) and name.isprintable() and name.strip() else repr(name)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parsed(text: str) -> Any:
    """The value that a text writes in JSON or as a Python literal; None for any other text. Nothing of it is run."""
    if text.strip()[:1] not in ("[", "{", "("):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of backslashes in the user's text
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                return parse(text.strip())
    return None


def by_letter(choices: Mapping[Any, Any]) -> list[Any] | None:
    """Choices in the order of their letters; those after the last that holds something are not there."""
    if isinstance(choices.get("text"), list | tuple) and set(choices) <= {"text", "label"}:
        return list(choices["text"])
    named = {str(name).strip().upper(): value for name, value in choices.items()}
    last = max((name for name, value in named.items() if is_given(value)), default="")
    letters = LETTERS[: len(named)]
    if len(named) != len(choices) or set(named) != set(letters):
        return None
    return [named[letter] for letter in letters if letter <= last]
