"""Multiple choice of the high-resolution benchmarks, and OCRBench's count of what was read."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, short_score
from dragonfly_lit.evaluation.metrics.choice import THREE_RULES, MultipleChoice
from dragonfly_lit.evaluation.parsers_choice import letter_mme_realworld, letter_vlmevalkit, letter_vstar
from dragonfly_lit.evaluation.question import Question


class VStar(MultipleChoice):
    """V*Bench by lmms-eval's rule and leniently, overall and by category."""

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by lmms-eval's rule."""
        return letter_vstar(prediction)


class HRBench(MultipleChoice):
    """HR-Bench by the part of its scorers' rule that needs no language model; each question in four orders of choices.

    `accuracy` is over all rows, as published; by `accuracy_all_orders` a question is right if it is so in each order.
    """

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by VLMEvalKit's rule."""
        return letter_vlmevalkit(prediction, question.choices or ())

    def summarise(self) -> dict[str, float]:
        """Also the share of questions that are right in every order of their choices."""
        orders: dict[object, list[float]] = {}
        for question, right in zip(self.questions, self.column("accuracy"), strict=True):
            orders.setdefault(question.meta.get("circle", question.id), []).append(right)
        whole = sum(min(rights) for rights in orders.values()) / len(orders)
        return {**super().summarise(), "accuracy_all_orders": whole}


class MMERealWorld(MultipleChoice):
    """MME-RealWorld by its own script, by lmms-eval's and leniently, by task and scenario."""

    columns = THREE_RULES

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by the released script."""
        return letter_mme_realworld(prediction, question.choices or ())

    def others(self, prediction: str, question: Question) -> dict[str, float]:
        """lmms-eval's rule."""
        letter = letter_mme_realworld(prediction, question.choices or (), "lmms_eval")
        return {"accuracy_lmms_eval": float(letter in question.references)}


WIDE = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
"""Wide forms of ASCII, as Chinese text has them."""


def ocr_match(output: str, answers: Sequence[str], *, formula: bool, wide: Mapping[int, str] | None = None) -> bool:
    """OCRBench's rule: whether the output holds an answer; of a formula without spaces, else in lower case.

    Args:
        output: as the model gave it.
        answers: any of them will do.
        formula: a handwritten formula (its data set is HME100k), where case counts and spaces do not.
        wide: wide letters that lmms-eval makes ASCII first; the released script leaves them.
    """

    def plain(text: str) -> str:
        if formula:
            return text.strip().replace("\n", " ").replace(" ", "")
        return text.translate(wide or {}).lower().strip().replace("\n", " ")

    said = plain(output)
    return any(plain(answer) in said for answer in answers)


class OCRBench(QuestionMetric):
    """OCRBench by its own script, by lmms-eval's and leniently; `num_right` are its points, of 1,000."""

    columns = ("accuracy", "accuracy_lmms_eval", "accuracy_lenient", "num_right", "num_empty")
    broken_down = ("accuracy",)

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the output holds an accepted answer."""
        answers, formula = question.references, bool(question.meta.get("formula"))
        right = float(ocr_match(prediction, answers, formula=formula))
        letters = _letters(prediction)
        return short_score(
            "accuracy",
            prediction,
            official=(prediction, right),
            lenient=(letters, max(right, float(any(_letters(answer) in letters for answer in answers)))),
            accuracy_lmms_eval=float(ocr_match(prediction, answers, formula=formula, wide=WIDE)),
            num_right=right,
        )


def _letters(text: str) -> str:
    """Letters and digits alone, in one case and width."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum()) or text
