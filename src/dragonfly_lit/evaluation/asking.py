"""How often and in which forms a question is put: once, drawn several times, or with its choices in every rotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import comb
from string import ascii_uppercase

from dragonfly_lit.evaluation.benchmarks.base import Benchmark
from dragonfly_lit.evaluation.metrics.base import RIGHT, Score, mean
from dragonfly_lit.evaluation.prompts import Template
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Asking:
    """One prompt.

    Attributes:
        question: as it is put; its id is that of the question of the benchmark.
        turn: which of the prompts about that question this is: the number of the draw, or of the rotation.
    """

    question: Question
    turn: int = 0

    @property
    def id(self) -> str:
        """Of the request: its own, since a draw has a generator of its own."""
        return self.question.id if self.turn == 0 else f"{self.question.id}, turn {self.turn}"


ALONE = Template(text="{context}{question}")
"""The prompt whose answers are the texts of choices, unless the user's set of prompts has another for the benchmark."""


def template_of(benchmark: Benchmark, settings: Settings) -> Template:
    """The template that a benchmark is asked with."""
    own = benchmark.name in settings.prompts.templates
    return ALONE if settings.by_text and not own else benchmark.template(settings.prompts)


def prompt_set(benchmark: Benchmark, settings: Settings) -> str:
    """The name of the set of prompts that a benchmark is asked with."""
    return "question alone" if template_of(benchmark, settings) is ALONE else benchmark.prompt_set(settings.prompts)


def prompt_of(benchmark: Benchmark, question: Question, settings: Settings) -> str:
    """The words that a question is put in.

    Raises:
        ValueError: the template does not show what the question needs.
    """
    template = template_of(benchmark, settings)
    if settings.by_text and not template.shows_options:
        question = replace(question, choices=None)  # the model need not see what is compared for it
    return template.render(question)


def asks(benchmark: Benchmark, questions: Sequence[Question], settings: Settings) -> list[Asking]:
    """All prompts, question by question.

    Raises:
        ValueError: the benchmark cannot be asked like that.
    """
    if benchmark.circular and not any(question.choices for question in questions):
        raise ValueError(f"benchmark.circular=true: the questions of {benchmark.name} have no choices to rotate.")
    if benchmark.circular and settings.draws > 1:
        raise ValueError(
            f"sampling.n={settings.draws}: {benchmark.name} is asked in every rotation of its choices; give "
            "benchmark.circular=false or sampling.n=1."
        )
    if benchmark.circular and settings.by_text and not template_of(benchmark, settings).shows_options:
        raise ValueError(
            f"benchmark.circular=true: with likelihood.of=text the prompt of {benchmark.name} shows no choices whose "
            "order could matter; give benchmark.circular=false or likelihood.of=letter."
        )
    bare = next((q for q in questions if not q.choices), None) if settings.scoring == "loglikelihood" else None
    if bare is not None:
        raise ValueError(
            f"scoring=loglikelihood: question {bare.id} of {benchmark.name} has no choices whose likelihoods could be "
            "compared; give scoring=generation."
        )
    if benchmark.judged and settings.draws > 1:
        raise ValueError(f"sampling.n={settings.draws}: a judge scores {benchmark.name}, one answer a question.")
    return [ask for question in questions for ask in _asks(benchmark, question, settings)]


def _asks(benchmark: Benchmark, question: Question, settings: Settings) -> Iterator[Asking]:
    if benchmark.circular:
        for turn in range(max(1, len(question.choices or ()))):
            yield Asking(question=rotated(question, turn), turn=turn)
        return
    for turn in range(settings.draws):
        yield Asking(question=question, turn=turn)


def rotated(question: Question, by: int) -> Question:
    """The question whose first `by` choices come last, with the letters of its answers where they went."""
    choices = question.choices
    if not by or not choices:
        return question
    places = {letter: (place - by) % len(choices) for place, letter in enumerate(ascii_uppercase[: len(choices)])}
    letters = tuple(ascii_uppercase[places[letter]] for letter in question.references)
    return replace(question, choices=(*choices[by:], *choices[:by]), references=letters)


def all_right(scores: Sequence[Score]) -> Score:
    """The score of a question in circular evaluation: what its worst rotation earned; counts are of any rotation."""
    if len(scores) == 1:
        return scores[0]
    least, first = min(scores, key=lambda score: score.score), scores[0]
    values = {
        name: (max if name.startswith("num_") else min)(score.values[name] for score in scores) for name in first.values
    }
    return Score(
        parsed=least.parsed,
        score=least.score,
        lenient_parsed=first.lenient_parsed,
        lenient_score=min(score.lenient_score for score in scores),
        values=values,
    )


def on_average(scores: Sequence[Score]) -> tuple[float, float]:
    """The mean of the official and of the lenient score over the draws of a question."""
    return mean([score.score for score in scores]), mean([score.lenient_score for score in scores])


def pass_at(k: int, scores: Sequence[Score]) -> float:
    """The chance that one of `k` draws is right: the unbiased estimate from all draws (Chen et al., 2021)."""
    num, right = len(scores), sum(score.score >= RIGHT for score in scores)
    return 1.0 - comb(num - right, k) / comb(num, k)


def majority(scores: Sequence[Score]) -> float:
    """What the answer earned that was read most often; the first drawn one where several were."""
    votes = Counter(score.parsed for score in scores if score.parsed is not None)
    if not votes:
        return scores[0].score
    winner = votes.most_common(1)[0][0]
    return next(score.score for score in scores if score.parsed == winner)
