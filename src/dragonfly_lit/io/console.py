"""Where tables are printed, and a line where nothing else would be for seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from rich.console import Console

PIPED = 200
"""Columns of what goes to no terminal, so that nothing of a table is cut."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Variables in which a launcher tells a process which of several it is."""
SLOW_S = 3.0
"""Seconds after which somebody who waits would like to know what for."""


def standard_output(**options: Any) -> Console:
    """A console on standard output, as wide as the terminal where that is one.

    Args:
        options: of rich's Console.
    """
    return Console(**options) if sys.stdout.isatty() else Console(width=PIPED, **options)


@contextmanager
def told_if_slow(line: str, *, after: float = SLOW_S) -> Iterator[None]:
    """Prints a line on standard error if the block takes longer; of several ranks the first one does.

    Args:
        line: what is being done.
        after: seconds.
    """
    if any(os.environ.get(name, "0") != "0" for name in RANKS):
        yield
        return
    timer = Timer(after, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
