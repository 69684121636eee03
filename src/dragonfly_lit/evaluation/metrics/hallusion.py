"""HallusionBench: yes-no questions, each for itself, by figure, and by question over all its figures."""

from __future__ import annotations

import re

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, mean
from dragonfly_lit.evaluation.parsers import yes_no_lenient
from dragonfly_lit.evaluation.question import Question

COLUMNS = ("accuracy", "accuracy_lmms_eval", "accuracy_lenient", "num_unparsed", "num_unparsed_lenient")


def yes_no_words(output: str) -> str | None:
    """VLMEvalKit's rule: yes or no, if one of them and not the other is a word of the output."""
    words = set(re.findall(r"\w+", output.lower()))
    said = words & {"yes", "no"}
    return said.pop() if len(said) == 1 else None


class HallusionBench(QuestionMetric):
    """aAcc, fAcc and qAcc: of questions, of figures with all questions right, of questions with all figures right.

    The authors ask GPT-4 whether an answer is right. Without it an answer is read by VLMEvalKit's rule; lmms-eval's own
    count without a judge takes an output with `yes` in it for a yes, and any other for a no. A question about no figure
    counts for no figure's accuracy.
    """

    columns = COLUMNS
    broken_down = ("accuracy",)
    headline = "accuracy"

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the output is read as the answer."""
        gold = question.references[0]
        official, lenient = yes_no_words(prediction), yes_no_lenient(prediction)
        contained = "yes" if "yes" in prediction.lower() else "no"
        score, lenient_score = float(official == gold), float((official or lenient) == gold)
        return Score(
            parsed=official,
            score=score,
            lenient_parsed=official or lenient,
            lenient_score=lenient_score,
            values={
                "accuracy": score,
                "accuracy_lmms_eval": float(contained == gold),
                "accuracy_lenient": lenient_score,
                "num_unparsed": float(official is None),
                "num_unparsed_lenient": float((official or lenient) is None),
            },
        )

    def summarise(self) -> dict[str, float]:
        """Also the accuracies of figures and of questions over their figures, by both rules."""
        scores = super().summarise()
        for column in ("accuracy", "accuracy_lmms_eval"):
            for kind in ("figure", "question"):
                groups: dict[object, list[float]] = {}
                for question, right in zip(self.questions, self.column(column), strict=True):
                    if (name := question.meta[kind]) is not None:
                        groups.setdefault(name, []).append(right)
                if not groups:
                    continue  # questions about no figure
                scores[column.replace("accuracy", f"accuracy_{kind}s")] = mean([min(all_) for all_ in groups.values()])
        return scores
