"""Rows of published tables, each verified in the text of its source; nothing here is from memory."""

from __future__ import annotations

from collections.abc import Sequence
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


GENERAL = ("VILA", "LLaVA-v1.5 (Vicuna-7B)", "LLaVA-v1.6 (Mistral-7B)", "Qwen-VL-chat", "Dragonfly v1 (Llama-3-8B)")
"""The models of the blog post's table of general benchmarks."""


def published_rows(
    metric: str, values: Sequence[float | None], *, models: Sequence[str] = GENERAL, source: str = BLOG, note: str = ""
) -> tuple[PublishedRow, ...]:
    """One column of a published table; None where the source has no number for a model."""
    return tuple(
        PublishedRow(metric=metric, model=model, value=value, source=source, note=note)
        for model, value in zip(models, values, strict=True)
        if value is not None
    )
