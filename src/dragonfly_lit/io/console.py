"""Where tables are printed."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console

PIPED = 200
"""Columns of what goes to no terminal, so that nothing of a table is cut."""


def standard_output(**options: Any) -> Console:
    """A console on standard output, as wide as the terminal, or as COLUMNS says.

    Args:
        options: of rich's Console.
    """
    fits = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(**options) if fits else Console(width=PIPED, **options)
