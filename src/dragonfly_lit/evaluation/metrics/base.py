"""The frame of every metric: one row of numbers a question, so that ranks add up exactly and in any order."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from dragonfly_lit.evaluation.question import Question

RIGHT = 0.5
"""From this score on an answer counts as right where it must be one or the other."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What an evaluation says of how answers are scored.

    Attributes:
        caption_metrics: `python`, or `java` for coco-caption's own tokeniser and METEOR 1.5.
        bertscore_model: folder of a model whose BERTScore captions get too.
        bertscore_layer: whose outputs it compares; the last one unless given.
        bertscore_device: where that model runs; every process has one of its own.
    """

    caption_metrics: str = "python"
    bertscore_model: str | Path | None = None
    bertscore_layer: int | None = None
    bertscore_device: str = "cpu"

    def __post_init__(self) -> None:
        if self.caption_metrics not in ("python", "java"):
            raise ValueError(f"caption_metrics={self.caption_metrics}: use python or java.")
        if self.bertscore_layer is not None and self.bertscore_model is None:
            raise ValueError(f"bertscore.layer={self.bertscore_layer} is of no model: give bertscore.model=FOLDER.")

    @property
    def of_captions(self) -> str:
        """The setting that only scores of captions take, as it was given; empty where there is none."""
        if self.caption_metrics != "python":
            return f"caption_metrics={self.caption_metrics}"
        return "" if self.bertscore_model is None else f"bertscore.model={self.bertscore_model}"


@dataclass(frozen=True, kw_only=True)
class Score:
    """How one output was read, and what it earned.

    Attributes:
        parsed: the answer that the official rule read out of the output; None when it found none.
        score: what the official rule gives, 0..1.
        lenient_parsed: the same by the second rule; equal to the official one where a benchmark has only one.
        lenient_score: likewise.
        values: the numbers that the metric keeps, by column; nan where a column does not apply to the question.
    """

    parsed: str | None
    score: float
    lenient_parsed: str | None
    lenient_score: float
    values: Mapping[str, float]


class QuestionMetric(Metric):
    """A metric over a known list of questions.

    The state is a row of numbers a question: a rank fills the rows of the questions that it answered and leaves zeros
    elsewhere, so summing over ranks is exact, and scores do not depend on how the work was dealt.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    columns: ClassVar[tuple[str, ...]]
    """What is kept of each question: means are reported, except of columns named `num_...`, which are summed."""
    broken_down: ClassVar[tuple[str, ...]] = ()
    """Columns that are also reported by split and by category, as `column/group`."""
    headline: str = ""
    """The score that tables show, of the class or, where the questions decide, of an instance; that of the first column
    unless given."""
    scale: ClassVar[float] = 100.0
    """What papers multiply it by."""
    scores_captions: ClassVar[bool] = False
    """Whether `Scoring.of_captions` is a setting of it."""

    seen: Tensor
    values: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.headline = cls.headline or next(iter(getattr(cls, "columns", ())), "")

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__()
        self.questions = tuple(questions)
        self.rows = {question.id: row for row, question in enumerate(self.questions)}
        self.add_state("seen", torch.zeros(len(self.questions), dtype=torch.int64), dist_reduce_fx="sum")
        shape = (len(self.questions), len(self.columns))
        self.add_state("values", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    @classmethod
    def check(cls, scoring: Scoring) -> None:
        """A ValueError where `scoring` asks for what is not there; called before anything is asked or loaded."""

    def take(self, scoring: Scoring) -> None:
        """Takes what such a metric needs to know of `scoring`; called before the first answer."""

    @property
    def rule(self) -> str:
        """What reads the outputs, in place of the benchmark's `parser`, where that follows from the settings."""
        return ""

    def prepare(self, outputs: Sequence[str]) -> None:
        """Does at once, for many outputs as `score` will get them, what would be slow for each."""

    @abstractmethod
    def score(self, prediction: str, question: Question) -> Score:
        """How `prediction` is read and scored; a pure function of its arguments."""

    def read(self, output: str, question: Question) -> Score:
        """How an output is scored: white space at its ends goes first, whatever the rule, as in lmms-eval's runner."""
        return self.score(output.strip(), question)

    def top(self, name: str) -> float | None:
        """The most that a score can be, and is when the gold answers are the outputs; None of counts and of ratios.

        Args:
            name: of a score, with the group that it is of: `accuracy/human`.
        """
        return None if name.startswith("num_") else 1.0

    def update(self, given: str | Score, question: Question) -> None:
        """Takes in one answer, or the score that it has already.

        Args:
            given: the output, or its score.
            question: of this metric.

        Raises:
            ValueError: the question is not one of this metric's, or was scored before.
        """
        row = self.rows.get(question.id)
        if row is None:
            raise ValueError(f"question {question.id!r} is not one of the {len(self.rows)} questions of this metric.")
        if self.seen[row]:
            raise ValueError(f"question {question.id!r} was scored before; each is scored once.")
        score = given if isinstance(given, Score) else self.score(given, question)
        self.values[row] = torch.tensor([score.values[name] for name in self.columns], dtype=torch.float64)
        self.seen[row] += 1

    def compute(self) -> dict[str, float]:
        """Scores by name, as fractions (MME: points); `num_...` are counts.

        Raises:
            ValueError: a question has no answer yet, or two ranks answered the same one.
        """
        for count, problem in ((self.seen == 0, "no answer"), (self.seen > 1, "more than one answer")):
            if count.any():
                first = self.questions[int(count.nonzero()[0])].id
                raise ValueError(f"{int(count.sum())} of {len(self.questions)} questions have {problem}: {first!r}.")
        return self.summarise()

    def summarise(self) -> dict[str, float]:
        """The scores over all rows, each of which is filled."""
        scores: dict[str, float] = {}
        for name in self.columns:
            values = self.column(name)
            if not all(map(math.isnan, values)):
                scores[name] = total(values) if name.startswith("num_") else mean(values)
        for name in self.broken_down:
            for group, value in self.by_group(self.column(name)).items():
                if not math.isnan(value):
                    scores[f"{name}/{group}"] = value
        return scores

    def column(self, name: str) -> list[float]:
        """One column over all questions, in their order."""
        return self.values[:, self.columns.index(name)].tolist()

    def by_group(self, values: Sequence[float]) -> dict[str, float]:
        """Means by split and by category, where there is more than one of them."""
        means: dict[str, float] = {}
        for kind in ("split", "category"):
            groups: dict[str, list[float]] = {}
            for value, question in zip(values, self.questions, strict=True):
                groups.setdefault(getattr(question, kind), []).append(value)
            if len(groups) > 1:
                means |= {group: mean(members) for group, members in sorted(groups.items()) if group}
        return means


def check_scoring(metrics: Sequence[type[QuestionMetric]], scoring: Scoring) -> None:
    """What `scoring` asks for is there, and one of the metrics takes it.

    Raises:
        ValueError: it is not; or nothing is a caption.
    """
    if scoring.of_captions and not any(metric.scores_captions for metric in metrics):
        raise ValueError(
            f"{scoring.of_captions}: no caption is scored here. Leave it out, or choose a benchmark of captions."
        )
    for metric in metrics:
        metric.check(scoring)


def short_score(
    name: str, prediction: str, *, official: tuple[str, float], lenient: tuple[str, float], **others: float
) -> Score:
    """The score of a short answer, in the columns `name`, `name_lenient` and `num_empty`.

    Args:
        name: of the column of the official rule.
        prediction: the output; an empty one has no answer, and is counted.
        official: what the official rule reads, and gives.
        lenient: likewise.
        others: further columns.
    """
    empty = not prediction.strip()
    return Score(
        parsed=None if empty else official[0],
        score=official[1],
        lenient_parsed=None if empty else lenient[0],
        lenient_score=lenient[1],
        values={name: official[1], f"{name}_lenient": lenient[1], "num_empty": float(empty), **others},
    )


def total(values: Sequence[float]) -> float:
    """Exact sum of the values that are numbers."""
    return math.fsum(value for value in values if not math.isnan(value))


def mean(values: Sequence[float]) -> float:
    """Correctly rounded mean of the values that are numbers; nan when there are none."""
    count = sum(not math.isnan(value) for value in values)
    return total(values) / count if count else math.nan
