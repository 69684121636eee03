"""Short answers against one gold answer or several: exact match, relaxed accuracy, ANLS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torchmetrics.functional.text import edit_distance

from dragonfly_lit.evaluation.benchmarks.question import Question
from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score
from dragonfly_lit.evaluation.metrics.vqa import normalise
from dragonfly_lit.evaluation.parsers import bare, final_answer, plain_number


def exact_match(prediction: str, answer: str) -> bool:
    """LLaVA's rule for GQA: full stops at the end dropped, lower case, then equal to the answer as it stands."""
    return prediction.rstrip(".").lower() == answer


def exact_match_lmms_eval(prediction: str, answer: str) -> bool:
    """lmms-eval's rule: equal but for case and ASCII punctuation; white space counts."""
    return bare(prediction) == bare(answer)


class ExactMatch(QuestionMetric):
    """Whether the prediction is an accepted answer: LLaVA's rule, lmms-eval's, and a lenient one.

    The lenient rule compares the final answer after the normalisation of VQA accuracy.
    """

    columns: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_lmms_eval", "accuracy_lenient", "num_empty")
    broken_down: ClassVar[tuple[str, ...]] = ("accuracy",)

    def score(self, prediction: str, question: Question) -> Score:
        """1 if any accepted answer matches."""
        score = float(any(exact_match(prediction, answer) for answer in question.references))
        lmms = float(any(exact_match_lmms_eval(prediction, answer) for answer in question.references))
        parsed = normalise(final_answer(prediction))
        lenient = float(any(parsed == normalise(answer) for answer in question.references))
        empty = not prediction.strip()
        return Score(
            parsed=None if empty else prediction.rstrip(".").lower(),
            score=score,
            lenient_parsed=None if empty else parsed,
            lenient_score=lenient,
            values={
                "accuracy": score,
                "accuracy_lmms_eval": lmms,
                "accuracy_lenient": lenient,
                "num_empty": float(empty),
            },
        )


def relaxed_match(prediction: str, target: str, tolerance: float = 0.05) -> bool:
    """ChartQA's rule: within 5% of a number other than zero, else equal but for case.

    `5%` is read as 0.05. Nothing is stripped: `1,000` and `$5` are not numbers, `yes.` is not `yes`.
    """
    guess, gold = _number(prediction), _number(target)
    if guess is not None and gold:
        return abs(guess - gold) / abs(gold) <= tolerance
    return prediction.lower() == target.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed_match_lenient(prediction: str, target: str) -> bool:
    """The same on the final answer, without a full stop, currency and thousands separators; `5%` also matches `5`."""
    guess, gold = plain_number(final_answer(prediction)), plain_number(target)
    if relaxed_match(guess, gold):
        return True
    return guess.endswith("%") != gold.endswith("%") and relaxed_match(guess.rstrip("%"), gold.rstrip("%"))


class RelaxedAccuracy(QuestionMetric):
    """ChartQA's relaxed accuracy, by split (human, augmented) and overall."""

    columns: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_lenient", "num_empty")
    broken_down: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_lenient")

    def score(self, prediction: str, question: Question) -> Score:
        """1 if any accepted answer matches."""
        score = float(any(relaxed_match(prediction, answer) for answer in question.references))
        lenient = float(any(relaxed_match_lenient(prediction, answer) for answer in question.references))
        empty = not prediction.strip()
        return Score(
            parsed=None if empty else prediction,
            score=score,
            lenient_parsed=None if empty else plain_number(final_answer(prediction)),
            lenient_score=lenient,
            values={"accuracy": score, "accuracy_lenient": lenient, "num_empty": float(empty)},
        )


def anls(prediction: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one prediction: the best answer's, 0 below the threshold.

    The distance is between lower-case texts with single spaces; the length it is divided by is of the texts as given.
    """
    best = max(1.0 - _distance(prediction, answer) for answer in answers)
    return best if best >= threshold else 0.0


def _distance(prediction: str, answer: str) -> float:
    guess, gold = (" ".join(text.strip().lower().split()) for text in (prediction, answer))
    length = max(len(prediction.upper()), len(answer.upper()))
    return int(edit_distance(guess, gold)) / length if length else 0.0


class ANLS(QuestionMetric):
    """ANLS, as DocVQA and ST-VQA report it."""

    columns: ClassVar[tuple[str, ...]] = ("anls", "anls_lenient", "num_empty")
    broken_down: ClassVar[tuple[str, ...]] = ("anls",)

    def score(self, prediction: str, question: Question) -> Score:
        """ANLS of the output, and of its final answer."""
        parsed, empty = final_answer(prediction), not prediction.strip()
        score, lenient = anls(prediction, question.references), anls(parsed, question.references)
        return Score(
            parsed=None if empty else prediction,
            score=score,
            lenient_parsed=None if empty else parsed,
            lenient_score=lenient,
            values={"anls": score, "anls_lenient": lenient, "num_empty": float(empty)},
        )
