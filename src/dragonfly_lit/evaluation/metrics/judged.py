"""MM-Vet and other open benchmarks: means of a judge's scores, by capability and by combination of capabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, mean
from dragonfly_lit.evaluation.question import Question


class JudgeScore(QuestionMetric):
    """The mean score of a judge, 0 to 1; `score/ocr` of questions that need a capability, `score/ocr+math` both.

    Args:
        questions: what is scored; the category holds the capabilities, joined by `+`.
        judged: the judge's score by question id.

    Raises:
        ValueError: a question has no score, or one outside 0..1.
    """

    columns = ("score", "num_empty")

    def __init__(self, questions: Sequence[Question], judged: Mapping[str, int | float] | None) -> None:
        super().__init__(questions)
        self.judged = dict(judged or {})
        absent = [question.id for question in questions if question.id not in self.judged]
        if absent:
            raise ValueError(
                f"{questions[0].task}: {len(absent)} of {len(questions)} answers have no judge's score: {absent[0]!r}. "
                "Write the judge requests, have them scored, and give the file of scores."
            )
        for key, score in self.judged.items():
            if not (math.isfinite(score) and 0 <= score <= 1):
                raise ValueError(f"the judge's score of question {key!r} is {score}; it must lie in 0..1.")

    def score(self, prediction: str, question: Question) -> Score:
        """The judge's score of this answer."""
        score = float(self.judged[question.id])
        return Score(
            parsed=prediction,
            score=score,
            lenient_parsed=prediction,
            lenient_score=score,
            values={"score": score, "num_empty": float(not prediction.strip())},
        )

    def summarise(self) -> dict[str, float]:
        """The mean, by capability, and by combination."""
        scores = super().summarise()
        values = self.column("score")
        needs = [question.category.split("+") if question.category else [] for question in self.questions]
        for capability in sorted({name for names in needs for name in names}):
            members = [value for value, names in zip(values, needs, strict=True) if capability in names]
            scores[f"score/{capability}"] = mean(members)
        for combination, value in self.by_group(values).items():
            scores.setdefault(f"score/{combination}", value)
        return scores
