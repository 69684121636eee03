"""Selection recall: how often the high crop that holds the detail in question is among the kept ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.intervals import Resamples, bounded
from dragonfly_lit.evaluation.question import Question


def crop_of(box: Sequence[float], side: float, cols: int, rows: int) -> int:
    """Index, row by row, of the crop of a `cols` x `rows` grid that holds most of a box; the first one on a tie.

    Args:
        box: left, top, right, bottom in pixels.
        side: of the square canvas, in pixels.
        cols: crops a row.
        rows: crops a column.
    """

    def shared(start: float, end: float, place: int, number: int) -> float:
        return max(0.0, min(end, (place + 1) * side / number) - max(start, place * side / number))

    left, top, right, bottom = box
    areas = [
        shared(left, right, col, cols) * shared(top, bottom, row, rows) for row in range(rows) for col in range(cols)
    ]
    return areas.index(max(areas))


def found(box: Sequence[float] | None, side: float, zoom: Mapping[str, Any] | None) -> tuple[float, float]:
    """Whether the crop with the detail was kept, and how likely that is when as many crops are kept at random.

    Args:
        box: of the detail in question; None where a question is not about a single one.
        side: of the square canvas, in pixels.
        zoom: `high` (columns, rows) and `kept` (indices) of the image, as answers hold it.

    Returns:
        Both nan where there is no detail or nothing was selected.
    """
    if box is None or zoom is None or zoom["kept"] is None:
        return math.nan, math.nan
    cols, rows = zoom["high"]
    kept = zoom["kept"]
    return float(crop_of(box, side, cols, rows) in kept), len(kept) / (cols * rows)


def selection_recall(
    questions: Sequence[Question], answers: Sequence[Answer], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any] | None:
    """Recall over all questions with a `box` in their `meta`, and what a random choice of as many crops would find.

    Regions are equally large on the square canvases of the probes, so a random choice within each region finds a
    detail with the probability kept / all.

    Args:
        questions: with the `box` of the detail in question and the `side` of the canvas, in pixels.
        answers: one a question, in any order, with the crops that the zoom kept.
        resamples: of the bootstrap over images.
        seed: of the bootstrap.

    Returns:
        `recall`, its `interval`, `random` and `num_questions`, and `by_split` the recall of each of the questions'
        splits; None where nothing was selected.
    """
    zooms = {answer.id: answer.zoom[0] for answer in answers if answer.zoom}
    pairs = [found(q.meta.get("box"), q.meta.get("side", 0), zooms.get(q.id)) for q in questions]
    hits, chances = (np.array(column) for column in zip(*pairs, strict=True))
    known = np.isfinite(hits)
    if not known.any():
        return None
    draws = Resamples([q.image_keys for q in questions], num=resamples, seed=seed)
    by_split: dict[str, list[float]] = {}
    for question, hit in zip(questions, hits.tolist(), strict=True):
        if not math.isnan(hit):
            by_split.setdefault(question.split, []).append(hit)
    return {
        "recall": float(hits[known].mean()),
        "interval": bounded(draws.means(hits), float(hits[known].mean()), int(known.sum()), 1.0)[0],
        "random": float(chances[known].mean()),
        "num_questions": int(known.sum()),
        "by_split": {name: sum(values) / len(values) for name, values in sorted(by_split.items())},
    }
