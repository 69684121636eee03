"""Numbers of a command line, each by what it counts: argparse says what is wrong with another in one line."""

from __future__ import annotations

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    return _whole(text, least=1)


def whole(text: str) -> int:
    """A whole number of at least 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    return _whole(text, least=0)


def share(text: str) -> float:
    """A part of a whole: above 0 and at most 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise ArgumentTypeError(f"{text!r:.40} is not a share, above 0 and at most 1")
    return found


def _whole(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise ArgumentTypeError(f"{text!r:.40} is not a whole number, {least} or more")
    return int(text)
