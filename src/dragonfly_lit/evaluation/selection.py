"""Selection recall: how often the high crop that holds the detail in question is among the kept ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.intervals import Resamples, bounded
from dragonfly_lit.evaluation.question import Question

Canvas = tuple[float, float]
"""Width and height that boxes are given in, in pixels."""


def crop_of(box: Sequence[float], canvas: float | Canvas, cols: int, rows: int) -> int:
    """Index, row by row, of the crop of a `cols` x `rows` grid that holds most of a box; the first one on a tie.

    Args:
        box: left, top, right, bottom in pixels.
        canvas: its width and height in pixels, one number where they are equal; it is stretched to the grid.
        cols: crops a row.
        rows: crops a column.
    """

    def shared(start: float, end: float, place: int, side: float, number: int) -> float:
        return max(0.0, min(end, (place + 1) * side / number) - max(start, place * side / number))

    width, height = canvas if isinstance(canvas, tuple) else (canvas, canvas)
    left, top, right, bottom = box
    areas = [
        shared(left, right, col, width, cols) * shared(top, bottom, row, height, rows)
        for row in range(rows)
        for col in range(cols)
    ]
    return areas.index(max(areas))


def asked_objects(question: Question, answer: Answer) -> tuple[list[Sequence[float]], Canvas] | None:
    """The boxes of what a question asks about, and the canvas that they are on; None where they are not known.

    A probe's `meta` has the `box` of one detail on a square canvas of `side` pixels; that of V*Bench's questions has
    `boxes` on the image, whose size the answer knows.
    """
    meta = question.meta
    if meta.get("box") is not None:
        return [meta["box"]], (meta["side"], meta["side"])
    if not meta.get("boxes") or not answer.sizes:
        return None
    width, height = answer.sizes[0]
    return meta["boxes"], (width, height)


def found(question: Question, answer: Answer) -> tuple[float, float]:
    """The share of the asked objects whose crop was kept, and what is expected when as many crops are kept at random.

    Args:
        question: whose `meta` says where its objects are.
        answer: to it, with the crops that the zoom kept.

    Returns:
        Both nan where no object is known or nothing was selected.
    """
    asked, zoom = asked_objects(question, answer), answer.zoom[0] if answer.zoom else None
    if asked is None or zoom is None or zoom["kept"] is None:
        return math.nan, math.nan
    (boxes, canvas), (cols, rows), kept = asked, zoom["high"], zoom["kept"]
    hits = [crop_of(box, canvas, cols, rows) in kept for box in boxes]
    return sum(hits) / len(hits), len(kept) / (cols * rows)


def selection_recall(
    questions: Sequence[Question], answers: Sequence[Answer], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any] | None:
    """Recall over all questions whose objects have known places, and what a random choice of as many crops would find.

    Regions are equally large, so a random choice within each region finds an object with the probability kept / all.

    Args:
        questions: of a benchmark; their `meta` says where the objects are.
        answers: one a question, in any order, with the crops that the zoom kept.
        resamples: of the bootstrap over images.
        seed: of the bootstrap.

    Returns:
        `recall`, its `interval`, `random` and `num_questions`, and `by_split` the recall of each of the questions'
        splits; None where nothing was selected.
    """
    given = {answer.id: answer for answer in answers}
    pairs = [found(q, given[q.id]) if q.id in given else (math.nan, math.nan) for q in questions]
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
