"""Rows of published tables, each verified in the text of its source; nothing here is from memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BLOG = "together.ai/blog/dragonfly-v1, 2024-06-06"
ABSTRACT = "arXiv 2406.00977v2, abstract"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One number of a published table.

    Attributes:
        metric: the key of our metric that it is shown beside; `note` says where the source leaves its own rule open.
        model: the row's model.
        value: in the source's units, percent unless the metric is in points.
        source: where the number was read.
        note: what keeps it from being comparable digit by digit.
    """

    metric: str
    model: str
    value: float
    source: str
    note: str = ""


def published_rows(source: str, metric: str, values: Mapping[str, float], note: str = "") -> tuple[PublishedRow, ...]:
    """The rows of one column of a table: `values` by model."""
    return tuple(
        PublishedRow(metric=metric, model=model, value=value, source=source, note=note)
        for model, value in values.items()
    )
