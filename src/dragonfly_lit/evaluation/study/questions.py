"""The questions that a study was scored on, read again from where its jobs read them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.study.cells import Study


def questions_of(study: Study) -> Sequence[Question]:
    """Questions of the study's benchmark; none where the data is gone."""
    config = next(result["config"] for cell in study.cells for result in cell.results.values())
    settings = {key: value for key, value in config["benchmark"].items() if key != "_target_"}
    try:
        return BENCHMARKS[study.benchmark](**settings).questions(config["data_root"])
    except (KeyError, TypeError, ValueError):
        return ()


def chance(questions: Sequence[Question]) -> float | None:
    """Accuracy of always giving the most frequent answer to each kind of question; None without questions."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        answers[question.category or ""][question.references[0]] += 1
    right = sum(count.most_common(1)[0][1] for count in answers.values())
    return right / len(questions) if questions else None
