"""Answers of one benchmark to its entry in the results: scores, intervals, counts, breakdown, published rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.intervals import Resamples, intervals
from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, mean
from dragonfly_lit.evaluation.prompts import Template
from dragonfly_lit.evaluation.settings import Settings


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


@dataclass(kw_only=True)
class Scorer:
    """Scores each answer once, and keeps the score for the summary.

    Attributes:
        metric: of the benchmark; None while a judge has not scored it.
        scores: by the answers' keys.
    """

    metric: QuestionMetric | None
    scores: dict[str, Score] = field(default_factory=dict)

    @classmethod
    def of(cls, benchmark: Benchmark, questions: Sequence[Question]) -> Scorer:
        """The scorer of these questions."""
        return cls(metric=None if benchmark.judged else benchmark.metric(questions))

    def scored(self, answer: Answer) -> Answer:
        """The answer with its score; as it is without a metric."""
        if self.metric is None:
            return answer
        if answer.key not in self.scores:
            question = self.metric.questions[self.metric.rows[answer.id]]
            self.scores[answer.key] = self.metric.read(answer.output, question)
        return store.scored(answer, self.scores[answer.key])


def score(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    *,
    settings: Settings,
    out: Path,
    scorer: Scorer | None = None,
) -> Scored:
    """Scores what is not scored yet, writes all answers to `out/answers/BENCHMARK.jsonl`, and sums up.

    Of a judged benchmark the judge's requests are written first; without the judge's scores the entry has none either.

    Args:
        benchmark: that was answered.
        questions: of it.
        answers: one a question, in the same order.
        settings: of the evaluation.
        out: folder of the results.
        scorer: with the scores that answers already have.
    """
    scorer = scorer or Scorer.of(benchmark, questions)
    if benchmark.judged:
        judged = settings.judge.scores(benchmark.name, questions, answers, out / "judge")
        scorer.metric = None if judged is None else benchmark.metric(questions, judged)
    answers = [scorer.scored(answer) for answer in answers]
    store.replace(out / "answers" / f"{benchmark.name}.jsonl", answers)
    metric = scorer.metric or benchmark.metric_type
    data = [[answer.id, answer.images, list(q.references)] for answer, q in zip(answers, questions, strict=True)]
    entry = {
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "num_questions": len(questions),
        "note": benchmark.count_note(len(questions)),
        "headline": metric.headline,
        "scale": metric.scale,
        "metric": None if scorer.metric is None else type(scorer.metric).__name__,
        "parser": benchmark.parser,
        "prompt": {"set": settings.prompts.name, **asdict(_asked(benchmark.template(settings.prompts), questions))},
        "max_new_tokens": settings.max_new_tokens or benchmark.max_new_tokens,
        "data": store.digest(data),
        "answers": f"answers/{benchmark.name}.jsonl",
        "published": [{"task": benchmark.name, **asdict(row)} for row in benchmark.published],
    }
    if scorer.metric is None:
        entry |= {"scores": {}, "intervals": {}, "unparsed": None, "num_empty": _num_empty(answers), "groups": {}}
        requests = f"judge/{benchmark.name}.requests.jsonl"
        entry["waiting"] = f"{requests} is for a judge; give the scores with judge.scores_file=FILE."
    else:
        entry |= _summary(scorer.metric, scorer.scores, answers, settings)
    return Scored(questions=tuple(questions), answers=tuple(answers), entry=entry)


def _asked(template: Template, questions: Sequence[Question]) -> Template:
    """The template as it was used: of one with a form for each, that of questions without choices if none has any."""
    if template.open is None or any(question.choices for question in questions):
        return template
    return replace(template, text=template.open, open=None)


def _summary(
    metric: QuestionMetric, found: dict[str, Score], answers: Sequence[Answer], settings: Settings
) -> dict[str, Any]:
    for question, answer in zip(metric.questions, answers, strict=True):
        metric.update(found[answer.key], question)
    metric.distributed_available_fn = _alone
    scores = metric.compute()
    clusters = [tuple(answer.images) or answer.id for answer in answers]
    resamples = Resamples(clusters, num=settings.resamples, seed=settings.seed)
    return {
        "scores": {name: None if math.isnan(value) else value for name, value in scores.items()},
        "intervals": intervals(metric, scores, resamples),
        "unparsed": {
            "official": sum(answer.answer is None for answer in answers),
            "lenient": sum(answer.lenient_answer is None for answer in answers),
        },
        "num_empty": _num_empty(answers),
        "groups": _groups(metric.questions, answers),
    }


def _alone() -> bool:
    """All scores are here, so `compute` has nothing to gather; the other ranks wait elsewhere."""
    return False


def _num_empty(answers: Sequence[Answer]) -> int:
    return sum(not answer.output.strip() for answer in answers)


def _groups(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, dict[str, dict[str, Any]]]:
    """The mean score of a question by split and by category, where there are several."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in ("split", "category"):
        members: dict[str, list[Answer]] = {}
        for question, answer in zip(questions, answers, strict=True):
            members.setdefault(getattr(question, kind), []).append(answer)
        if len(members) > 1:
            groups[kind] = {
                name or "(none)": {
                    "num_questions": len(group),
                    "score": mean([answer.score or 0.0 for answer in group]),
                    "lenient_score": mean([answer.lenient_score or 0.0 for answer in group]),
                }
                for name, group in sorted(members.items())
            }
    return groups
