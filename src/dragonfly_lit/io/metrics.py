"""What a run has logged: the rows of its metrics.csv, which it may be writing, or have been killed while it wrote."""

from __future__ import annotations

import csv
import math
from pathlib import Path

METRICS_FILE = "metrics.csv"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows that are whole, each with the numbers that it has; `step` is among them.

    A row without its end of line, with fewer or more columns than the head, without a step or with a value that is not
    a number is one that was cut, or that is being written: it is left out.

    Args:
        path: of the file; an empty one, or one whose head is being written, has no rows.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    text = path.read_bytes().decode("utf-8", errors="replace")
    head, *whole = text[: text.rfind("\n") + 1].split("\n")
    names = _columns(head)
    rows = []
    for line in whole:
        try:
            row = {name: float(value) for name, value in zip(names, _columns(line), strict=True) if value}
        except ValueError:
            continue
        if math.isfinite(row.get("step", math.nan)):
            rows.append(row)
    return rows


def _columns(line: str) -> list[str]:
    """Of one line by itself, so that a quote in a damaged one takes no other along."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a stretch without a comma that is longer than any value
        return []
