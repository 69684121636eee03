"""Answers of one benchmark to its entry in the results: scores, intervals, counts, breakdown, published rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.benchmarks.base import Question, Task
from dragonfly_lit.evaluation.intervals import Resamples, intervals
from dragonfly_lit.evaluation.metrics.base import QuestionMetric

if TYPE_CHECKING:
    from dragonfly_lit.evaluation.runner import Settings


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A benchmark with its answers, each scored unless a judge is still to do so.

    Attributes:
        questions: of the benchmark.
        answers: one a question, in the same order.
        entry: what the results file says of it.
    """

    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    entry: dict[str, Any]


def score(
    task: Task, questions: Sequence[Question], answers: Sequence[Answer], *, settings: Settings, out: Path
) -> Scored:
    """Marks all answers, writes them to `out/answers/TASK.jsonl`, and sums up.

    Of a judged benchmark the judge's requests are written first; without his scores the entry has none either.
    """
    judged = settings.judge.scores(task.name, questions, answers, out / "judge") if task.judged else None
    metric = None if task.judged and judged is None else task.metric(questions, judged)
    if metric is not None:
        metric.distributed_available_fn = _alone
        answers = [_scored(metric, question, answer) for question, answer in zip(questions, answers, strict=True)]
    path = out / "answers" / f"{task.name}.jsonl"
    store.replace(path, answers)
    template = settings.prompts.template(task.name)
    entry: dict[str, Any] = {
        "benchmark": task.name,
        "split": task.split,
        "num_questions": len(questions),
        "note": task.count_note(len(questions)),
        "headline": task.headline,
        "scale": task.scale,
        "metric": None if metric is None else type(metric).__name__,
        "parser": task.parser,
        "prompt": {"set": settings.prompts.name, **asdict(template)},
        "max_new_tokens": settings.max_new_tokens or task.max_new_tokens,
        "data": store.digest([[a.id, a.images, list(q.references)] for a, q in zip(answers, questions, strict=True)]),
        "answers": f"answers/{task.name}.jsonl",
        "published": [asdict(row) for row in task.published()],
    }
    if metric is None:
        requests = f"judge/{task.name}.requests.jsonl"
        entry |= {"scores": {}, "intervals": {}, "unparsed": None, "num_empty": _num_empty(answers), "groups": {}}
        entry["waiting"] = f"{requests} is for a judge; give the scores with judge.scores_file=FILE."
    else:
        entry |= _summary(metric, answers, settings)
    return Scored(questions=tuple(questions), answers=tuple(answers), entry=entry)


def _alone() -> bool:
    """All answers are here, so `compute` has nothing to gather; the other ranks wait elsewhere."""
    return False


def _scored(metric: QuestionMetric, question: Question, answer: Answer) -> Answer:
    metric.update(answer.output, question)
    return store.scored(answer, metric.score(answer.output, question))


def _summary(metric: QuestionMetric, answers: Sequence[Answer], settings: Settings) -> dict[str, Any]:
    scores = metric.compute()
    clusters = [tuple(answer.images) or answer.id for answer in answers]
    resamples = Resamples(clusters, num=settings.resamples, seed=settings.seed)
    found = intervals(metric, scores, resamples)
    return {
        "scores": {name: None if math.isnan(value) else value for name, value in scores.items()},
        "intervals": found,
        "unparsed": {
            "official": sum(answer.answer is None for answer in answers),
            "lenient": sum(answer.lenient_answer is None for answer in answers),
        },
        "num_empty": _num_empty(answers),
        "groups": _groups(metric.questions, answers),
    }


def _num_empty(answers: Sequence[Answer]) -> int:
    return sum(not answer.output.strip() for answer in answers)


def _groups(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, dict[str, dict[str, Any]]]:
    """The mean score of a question by split and by category, where there are several."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in ("split", "category"):
        names = [getattr(question, kind) for question in questions]
        counts = Counter(names)
        if len(counts) < 2:
            continue
        groups[kind] = {}
        for name in sorted(counts):
            members = [answer for answer, other in zip(answers, names, strict=True) if other == name]
            groups[kind][name or "(none)"] = {
                "num_questions": len(members),
                "score": math.fsum(answer.score or 0.0 for answer in members) / len(members),
                "lenient_score": math.fsum(answer.lenient_score or 0.0 for answer in members) / len(members),
            }
    return groups
