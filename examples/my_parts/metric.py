"""A metric of your own: how close is the number in the answer to the right one?"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score
from dragonfly_lit.evaluation.question import Question

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Closeness(QuestionMetric):
    """1 for the right number, falling in a straight line to 0 where it is off by `width`.

    Args:
        questions: that are scored.
        width: how far off an answer may be before it earns nothing.
    """

    # What is kept of each question. Means are reported, sums of what begins with `num_`; the first is the headline.
    columns = ("closeness", "distance", "num_unparsed")
    broken_down = ("closeness",)  # also by split and category

    def __init__(self, questions: Sequence[Question], width: float = 10.0) -> None:
        super().__init__(questions)
        self.width = width

    def score(self, prediction: str, question: Question) -> Score:
        """What the output says, and what that earns; called once for each output."""
        found = NUMBER.search(prediction)
        distance = abs(float(found[0]) - float(question.references[0])) if found else math.nan
        closeness = max(0.0, 1.0 - distance / self.width) if found else 0.0
        return Score(
            parsed=found[0] if found else None,
            score=closeness,
            # A second, lenient rule has its own place; without one it is the same.
            lenient_parsed=found[0] if found else None,
            lenient_score=closeness,
            # A number for each of `columns`; nan where one does not apply.
            values={"closeness": closeness, "distance": distance, "num_unparsed": float(not found)},
        )
