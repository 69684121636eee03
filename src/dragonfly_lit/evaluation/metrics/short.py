"""Short answers against one gold answer or several: exact match, relaxed accuracy, ANLS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchmetrics.functional.text import edit_distance

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, short_score
from dragonfly_lit.evaluation.metrics.vqa import normalise
from dragonfly_lit.evaluation.parsers import bare, final_answer, plain_number
from dragonfly_lit.evaluation.question import Question


def exact_match(prediction: str, answer: str) -> bool:
    """LLaVA's rule for GQA: full stops at the end dropped, lower case, then equal to the answer as it is."""
    return prediction.rstrip(".").lower() == answer


def exact_match_lmms_eval(prediction: str, answer: str) -> bool:
    """lmms-eval's rule: equal but for case and ASCII punctuation; white space counts."""
    return bare(prediction) == bare(answer)


class ExactMatch(QuestionMetric):
    """Whether the prediction is an accepted answer: LLaVA's rule, lmms-eval's, and a lenient one.

    The lenient rule compares the final answer after the normalisation of VQA accuracy.
    """

    columns = ("accuracy", "accuracy_lmms_eval", "accuracy_lenient", "num_empty")
    broken_down = ("accuracy",)

    def score(self, prediction: str, question: Question) -> Score:
        """1 if any accepted answer matches."""
        parsed, answers = normalise(final_answer(prediction)), question.references
        return short_score(
            "accuracy",
            prediction,
            official=(prediction.rstrip(".").lower(), _any(exact_match(prediction, answer) for answer in answers)),
            lenient=(parsed, _any(parsed == normalise(answer) for answer in answers)),
            accuracy_lmms_eval=_any(exact_match_lmms_eval(prediction, answer) for answer in answers),
        )


def _any(matches: Iterable[bool]) -> float:
    return float(any(matches))


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

    columns = ("accuracy", "accuracy_lenient", "num_empty")
    broken_down = ("accuracy", "accuracy_lenient")

    def score(self, prediction: str, question: Question) -> Score:
        """1 if any accepted answer matches."""
        answers, parsed = question.references, plain_number(final_answer(prediction))
        return short_score(
            "accuracy",
            prediction,
            official=(prediction, _any(relaxed_match(prediction, answer) for answer in answers)),
            lenient=(parsed, _any(relaxed_match_lenient(prediction, answer) for answer in answers)),
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

    columns = ("anls", "anls_lenient", "num_empty")
    broken_down = ("anls",)

    def score(self, prediction: str, question: Question) -> Score:
        """ANLS of the output, and of its final answer."""
        parsed, answers = final_answer(prediction), question.references
        official, lenient = (prediction, anls(prediction, answers)), (parsed, anls(parsed, answers))
        return short_score("anls", prediction, official=official, lenient=lenient)
