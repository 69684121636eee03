"""A progress bar on stderr, so that stdout has results only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")


def progress_bar() -> Progress:
    """What is done of what there is, and the time it took."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    # Whether a person looks on is asked of the stream itself: Rich also takes some environments for terminals.
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def follow(items: Iterable[Item], what: str, total: int | None = None) -> Iterable[Item]:
    """`items`, with a bar that says how far they are."""
    with progress_bar() as progress:
        yield from progress.track(items, total=total, description=what)
