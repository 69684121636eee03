"""Where tables are printed."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

PIPED = 200
"""Columns of what goes to no terminal, so that nothing of a table is cut."""


def standard_output(**options: Any) -> Console:
    """A console on standard output, as wide as the terminal where that is one.

    Args:
        options: of rich's Console.
    """
    return Console(**options) if sys.stdout.isatty() else Console(width=PIPED, **options)
