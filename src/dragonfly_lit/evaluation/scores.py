"""Answers of one benchmark to its entry in the results: scores, intervals, counts, breakdown, published rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation import submission
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.asking import (
    all_right,
    majority,
    on_average,
    pass_at,
    prompt_set,
    rotated,
    template_of,
)
from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.breakdown import groups
from dragonfly_lit.evaluation.intervals import Resamples, intervals
from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, mean
from dragonfly_lit.evaluation.prompts import Template
from dragonfly_lit.evaluation.selection import selection_recall
from dragonfly_lit.evaluation.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A benchmark with its answers, each scored unless a judge is still to do so.

    Attributes:
        questions: of the benchmark.
        answers: one a question, in the same order; where a question was asked several times, the first one with what
            all of them earned together.
        turns: all answers to each question.
        entry: what the results file says of it.
    """

    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    turns: tuple[tuple[Answer, ...], ...]
    entry: dict[str, Any]


@dataclass(kw_only=True)
class Scorer:
    """Scores each answer once, and keeps the score for the summary.

    Attributes:
        metric: of the benchmark; None while a judge has not scored it.
        circular: whether the turns of a question are rotations of its choices.
        scores: by the answers' keys.
    """

    metric: QuestionMetric | None
    circular: bool = False
    scores: dict[str, Score] = field(default_factory=dict)

    @classmethod
    def of(cls, benchmark: Benchmark, questions: Sequence[Question], settings: Settings) -> Scorer:
        """The scorer of these questions."""
        metric = None if benchmark.judged or settings.predict else _metric(benchmark, questions, settings)
        return cls(metric=metric, circular=benchmark.circular)

    def scored(self, answers: Sequence[Answer]) -> list[Answer]:
        """The answers with their scores; as they are without a metric."""
        if self.metric is None:
            return [*answers]
        self.metric.prepare([answer.output.strip() for answer in answers if answer.key not in self.scores])
        return [self._scored(self.metric, answer) for answer in answers]

    def _scored(self, metric: QuestionMetric, answer: Answer) -> Answer:
        if answer.key not in self.scores:
            question = metric.questions[metric.rows[answer.id]]
            question = rotated(question, answer.turn) if self.circular else question
            self.scores[answer.key] = metric.read(answer.output, question)
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
        answers: to each question in their order, its turns one after the other.
        settings: of the evaluation.
        out: folder of the results.
        scorer: with the scores that answers already have.
    """
    scorer = scorer or Scorer.of(benchmark, questions, settings)
    if benchmark.judged and not settings.predict:
        judged = settings.judge.scores(benchmark.name, questions, answers, out / "judge")
        scorer.metric = None if judged is None else _metric(benchmark, questions, settings, judged)
    answers = scorer.scored(answers)
    store.keep(out / "answers", benchmark.name, answers)
    turns = _by_question(questions, answers)
    metric = scorer.metric or benchmark.metric_type
    data = [[of[0].id, of[0].images, list(q.references)] for of, q in zip(turns, questions, strict=True)]
    limited, template = benchmark.limited(len(questions)), template_of(benchmark, settings)
    entry = {
        "benchmark": benchmark.name,
        "split": benchmark.split,
        "num_questions": len(questions),
        "limit": benchmark.limit,
        "limited": limited,
        "note": _note(benchmark, len(questions)),
        "headline": metric.headline,
        "scale": metric.scale,
        "metric": None if scorer.metric is None else type(scorer.metric).__name__,
        "parser": (scorer.metric.rule if scorer.metric else "") or benchmark.parser,
        "prompt": {"set": prompt_set(benchmark, settings), **asdict(_asked(template, questions))},
        "asked": {
            "draws": settings.draws,
            "circular": benchmark.circular,
            "scoring": settings.scoring,
            "texts": settings.likelihood_length if settings.by_text else None,
            "shots": settings.shots,
            "shots_seed": settings.shots_seed if settings.shots else None,
            "perturb": settings.perturb.name if settings.perturb else None,
        },
        "max_new_tokens": settings.max_new_tokens or benchmark.max_new_tokens,
        "data": store.digest(data),
        "answers": f"answers/{benchmark.name}.jsonl",
        "published": [] if limited else [{"task": benchmark.name, **asdict(row)} for row in benchmark.published],
    }
    if benchmark.judged and not settings.predict and settings.judge.name:
        entry["judge"] = settings.judge.name
    if scorer.metric is None:
        entry |= {
            "scores": {},
            "intervals": {},
            "unparsed": None,
            "num_empty": _num_empty(answers),
            "groups": {},
            "selection": None,
        }
        firsts = tuple(of[0] for of in turns)
        entry["waits_for"] = "a server" if settings.predict else "a judge"
        entry["waiting"] = _waiting(benchmark, questions, firsts, settings, out)
    else:
        found = [[scorer.scores[answer.key] for answer in of] for of in turns]
        firsts = tuple(_together(of[0], scores, benchmark) for of, scores in zip(turns, found, strict=True))
        entry |= _summary(benchmark, scorer.metric, found, answers, firsts, settings)
        # One number of a paper may stand beside several of ours, of which the settings chose one.
        entry["published"] = [row for row in entry["published"] if row["metric"] in entry["scores"]]
    return Scored(questions=tuple(questions), answers=firsts, turns=tuple(turns), entry=entry)


def _metric(
    benchmark: Benchmark, questions: Sequence[Question], settings: Settings, *judged: Mapping[str, int | float]
) -> QuestionMetric:
    """A metric over these questions, as the settings want it."""
    metric = benchmark.metric(questions, *judged)
    metric.take(settings.metrics)
    return metric


def _waiting(
    benchmark: Benchmark, questions: Sequence[Question], answers: Sequence[Answer], settings: Settings, out: Path
) -> str:
    """Whom the scores are waited for of; the file for a server is written first."""
    if settings.predict:
        path = submission.write(out, benchmark, questions, answers)
        return f"submission/{path.name} is for {benchmark.server}, which scores it."
    return f"judge/{benchmark.name}.requests.jsonl is for a judge; give the scores with judge.scores_file=FILE."


def _note(benchmark: Benchmark, num_questions: int) -> str | None:
    if benchmark.limited(num_questions):
        return f"limited to the first {num_questions:,} questions: not comparable with published scores."
    return benchmark.count_note(num_questions)


def _by_question(questions: Sequence[Question], answers: Sequence[Answer]) -> list[tuple[Answer, ...]]:
    found: dict[str, list[Answer]] = {question.id: [] for question in questions}
    for answer in answers:
        found[answer.id].append(answer)
    return [tuple(of) for of in found.values()]


def _together(first: Answer, scores: Sequence[Score], benchmark: Benchmark) -> Answer:
    """The first answer to a question, with what all answers to it earned."""
    if len(scores) == 1:
        return first
    if benchmark.circular:
        one = all_right(scores)
        return replace(first, score=one.score, lenient_score=one.lenient_score)
    official, lenient = on_average(scores)
    return replace(first, score=official, lenient_score=lenient)


def _asked(template: Template, questions: Sequence[Question]) -> Template:
    """The template as it was used: of one with a form for each, that of questions without choices if none has any."""
    if template.open is None or any(question.choices for question in questions):
        return template
    return replace(template, text=template.open, open=None)


def _summary(
    benchmark: Benchmark,
    metric: QuestionMetric,
    found: Sequence[Sequence[Score]],
    answers: Sequence[Answer],
    firsts: Sequence[Answer],
    settings: Settings,
) -> dict[str, Any]:
    """Scores and intervals; of several draws the means over the draws, with pass@k and the majority vote beside."""
    if benchmark.circular:
        found = [[all_right(scores)] for scores in found]
    metrics = [metric, *(_metric(benchmark, metric.questions, settings) for _ in found[0][1:])]
    for question, scores in zip(metric.questions, found, strict=True):
        for one, draw in zip(metrics, scores, strict=True):
            one.update(draw, question)
    computed = []
    for one in metrics:
        one.distributed_available_fn = _alone
        computed.append(one.compute())
    scores = {name: mean([each.get(name, math.nan) for each in computed]) for name in computed[0]}
    resamples = Resamples(
        [tuple(answer.images) or answer.id for answer in firsts], num=settings.resamples, seed=settings.seed
    )
    extra = _of_draws(found) if len(metrics) > 1 else {}
    bounds, by_wilson = intervals(metrics, scores, resamples, extra)
    scores |= {name: mean(values) for name, values in extra.items()}
    return {
        "scores": {name: None if math.isnan(value) else value for name, value in scores.items()},
        "intervals": bounds,
        "wilson": by_wilson,
        "unparsed": {
            "official": sum(answer.answer is None for answer in answers),
            "lenient": sum(answer.lenient_answer is None for answer in answers),
        },
        "num_empty": _num_empty(answers),
        "groups": groups(metric.questions, firsts),
        "selection": selection_recall(metric.questions, firsts, resamples=settings.resamples, seed=settings.seed),
    }


def _of_draws(found: Sequence[Sequence[Score]]) -> dict[str, list[float]]:
    """Of each question pass@1 to pass@n, and what the majority vote earned."""
    rows = {f"pass@{k}": [pass_at(k, scores) for scores in found] for k in range(1, len(found[0]) + 1)}
    return {**rows, "majority": [majority(scores) for scores in found]}


def _alone() -> bool:
    """All scores are here, so `compute` has nothing to gather; the other ranks wait elsewhere."""
    return False


def _num_empty(answers: Sequence[Answer]) -> int:
    return sum(not answer.output.strip() for answer in answers)
