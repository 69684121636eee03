"""The frame of every metric: one row of numbers a question, so that ranks add up exactly and in any order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from dragonfly_lit.evaluation.tasks.base import Question


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How one output was read, and what it earned.

    Attributes:
        parsed: the answer that the official rule read out of the output; None when it found none.
        score: what the official rule gives, 0..1 (CIDEr-D goes to 10).
        lenient_parsed: the same by the lenient rule; equal to the official one where a benchmark has no second rule.
        lenient_score: likewise.
        values: the row of numbers that the metric keeps, one a column.
    """

    parsed: str | None
    score: float
    lenient_parsed: str | None
    lenient_score: float
    values: tuple[float, ...]


class QuestionMetric(Metric):
    """A metric over a known list of questions.

    The state is a row of numbers a question: a rank fills the rows of the questions that it answered and leaves zeros
    elsewhere, so summing over ranks is exact, and scores do not depend on how the work was dealt.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    columns: ClassVar[tuple[str, ...]] = ("score", "lenient_score", "parsed", "lenient_parsed")

    seen: Tensor
    values: Tensor

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__()
        self.questions = tuple(questions)
        self.rows = {question.id: row for row, question in enumerate(self.questions)}
        self.add_state("seen", torch.zeros(len(self.questions), dtype=torch.int64), dist_reduce_fx="sum")
        shape = (len(self.questions), len(self.columns))
        self.add_state("values", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def mark(self, prediction: str, question: Question) -> Mark:
        """How `prediction` is read and scored; a pure function of its arguments."""

    def update(self, prediction: str, question: Question) -> None:
        """Score one answer.

        Raises:
            ValueError: the question is not one of this metric's, or was scored before.
        """
        row = self.rows.get(question.id)
        if row is None:
            raise ValueError(f"question {question.id!r} is not one of the {len(self.rows)} questions of this metric.")
        if self.seen[row]:
            raise ValueError(f"question {question.id!r} was scored before; each is scored once.")
        self.seen[row] += 1
        self.values[row] = torch.tensor(self.mark(prediction, question).values, dtype=torch.float64)

    def compute(self) -> dict[str, float]:
        """Scores by name, as fractions (MME: points).

        Raises:
            ValueError: a question has no answer yet, or two ranks answered the same one.
        """
        for count, problem in ((self.seen == 0, "no answer"), (self.seen > 1, "more than one answer")):
            if count.any():
                first = self.questions[int(count.nonzero()[0])].id
                raise ValueError(
                    f"{int(count.sum())} of {len(self.questions)} questions have {problem}, e.g. {first!r}."
                )
        return self.summarise()

    @abstractmethod
    def summarise(self) -> dict[str, float]:
        """The scores over all rows, each of which is filled."""

    def column(self, name: str) -> Tensor:
        """One column over all questions, in their order."""
        return self.values[:, self.columns.index(name)]
