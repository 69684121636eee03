"""Rows of published tables, verified in the text of their source; nothing here is from memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One number of a published table, in the paper's units (percent unless the metric says otherwise)."""

    task: str
    metric: str
    """The key of our metric that it compares with, or a key of ours with a note where the paper does not name its own."""
    model: str
    value: float
    source: str
    note: str = ""


ROWS: tuple[PublishedRow, ...] = ()


def rows_of(task: str) -> tuple[PublishedRow, ...]:
    """The published rows of one benchmark."""
    return tuple(row for row in ROWS if row.task == task)
