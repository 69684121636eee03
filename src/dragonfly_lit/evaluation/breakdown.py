"""Scores by what a question is like: its split and category, its image's size, the asked object's size and its crop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.metrics.base import mean
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.selection import asked_objects, found

MEGAPIXELS = (0.25, 0.5, 1, 2, 4, 8, 16, 32)
"""Bounds of the groups by the size of the image, the largest one of a question with several."""
SHARES = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Bounds of the groups by the size of the smallest asked object: the root of its share of the image's area."""
CROPS = ("all selected", "some selected", "none selected")

Group = dict[str, Any]


def groups(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, dict[str, Group]]:
    """The number of questions and their mean scores, by each way in which there are several groups or a known size.

    Args:
        questions: of a benchmark.
        answers: one a question, in the same order.
    """
    kinds: Mapping[str, Callable[[Question, Answer], str]] = {
        "split": lambda question, answer: question.split or "(none)",
        "category": lambda question, answer: question.category or "(none)",
        "image_size": _image_size,
        "object_size": _object_size,
        "object_crop": _object_crop,
    }
    orders = {
        "image_size": _names(MEGAPIXELS, _megapixels),
        "object_size": _names(SHARES, _share),
        "object_crop": CROPS,
    }
    broken: dict[str, dict[str, Group]] = {}
    for kind, name_of in kinds.items():
        members: dict[str, list[Answer]] = {}
        for question, answer in zip(questions, answers, strict=True):
            members.setdefault(name_of(question, answer), []).append(answer)
        unknown = members.pop("", None)
        if members and (kind in orders or len(members) > 1):
            named = [name for name in orders.get(kind, sorted(members)) if name in members]
            broken[kind] = {name: _group(members[name]) for name in named}
            if unknown:
                broken[kind]["(unknown)"] = _group(unknown)
    return broken


def _group(answers: Sequence[Answer]) -> Group:
    return {
        "num_questions": len(answers),
        "score": mean([answer.score or 0.0 for answer in answers]),
        "lenient_score": mean([answer.lenient_score or 0.0 for answer in answers]),
    }


def _image_size(question: Question, answer: Answer) -> str:
    areas = [width * height / 1e6 for width, height in answer.sizes or ()]
    return _name(max(areas), MEGAPIXELS, _megapixels) if areas else ""


def _object_size(question: Question, answer: Answer) -> str:
    asked = asked_objects(question, answer)
    if asked is None:
        return ""
    boxes, (width, height) = asked
    shares = [math.sqrt((right - left) * (bottom - top) / (width * height)) for left, top, right, bottom in boxes]
    return _name(min(shares), SHARES, _share)


def _object_crop(question: Question, answer: Answer) -> str:
    share, _ = found(question, answer)
    if math.isnan(share):
        return ""
    return CROPS[0] if share == 1 else CROPS[1] if share else CROPS[2]


def _megapixels(bound: float) -> str:
    return f"{bound:g} MP"


def _share(bound: float) -> str:
    return f"{100 * bound:g}%"


def _name(value: float, bounds: Sequence[float], write: Callable[[float], str]) -> str:
    names = [*_names(bounds, write)]
    return names[sum(value >= bound for bound in bounds)]


def _names(bounds: Sequence[float], write: Callable[[float], str]) -> Iterable[str]:
    """Of the groups between bounds, smallest first."""
    between = [f"{write(low).rstrip(' MP%')} to {write(high)}" for low, high in pairwise(bounds)]
    return [f"under {write(bounds[0])}", *between, f"{write(bounds[-1])} and more"]
