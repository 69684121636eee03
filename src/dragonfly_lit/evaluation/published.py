"""Rows of published tables, each verified in the text of its source; nothing here is from memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One number of a published table.

    Attributes:
        task: our name of the benchmark.
        metric: the key of our metric that it stands beside; `note` says where the source leaves its own rule open.
        model: the row's model.
        value: in the source's units, percent unless the metric is in points.
        source: where the number was read.
        note: what keeps it from being comparable digit by digit.
    """

    task: str
    metric: str
    model: str
    value: float
    source: str
    note: str = ""


ROWS: tuple[PublishedRow, ...] = ()


def rows_of(task: str) -> tuple[PublishedRow, ...]:
    """The published rows of one benchmark."""
    return tuple(row for row in ROWS if row.task == task)
