"""MathVista: choices, whole numbers, decimals and lists about figures, compared as texts of one form."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torchmetrics.functional.text import edit_distance

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, short_score
from dragonfly_lit.evaluation.parsers import LETTERS, final_answer, letter_lenient, plain_number
from dragonfly_lit.evaluation.question import Question

QUOTED = re.compile(r'The answer is "(.*)"\.')
"""What the authors' script takes without asking a model, if `quick_extract` is set."""


def extracted(output: str, *, kind: str, choices: Sequence[str]) -> str:
    """What the authors' script takes for the answer before it asks GPT-4; failing that, the whole output.

    Args:
        output: as the model gave it.
        kind: text, integer, float or list.
        choices: empty where there are none.
    """
    if output in choices:
        return output
    for name, number in (("integer", int), ("float", float)):
        if kind == name:
            try:
                return str(number(output))
            except ValueError:
                break
    found = QUOTED.search(output)
    return found.group(1) if found else output


def normalised(extraction: str, *, kind: str, choices: Sequence[str], precision: int) -> str | None:
    """An answer in the form that is compared: the text of the choice, a rounded number; None where that fails.

    A choice is meant by its letter, else it is the one with the least edit distance: of anything, one is chosen.
    """
    if choices:
        text = extraction.strip()
        letters = re.findall(r"\(([a-zA-Z])\)", text)
        text = letters[0].upper() if letters else text
        if text in tuple(LETTERS[: len(choices)]):
            return choices[LETTERS.index(text)]
        return min(choices, key=lambda choice: int(edit_distance(text, choice)))
    try:
        if kind == "integer":
            return str(int(float(extraction)))
        if kind == "float":
            return str(round(float(extraction), precision))
    except (ValueError, OverflowError):
        return None
    return extraction


class MathVista(QuestionMetric):
    """MathVista by its own rule with the whole output in place of what GPT-4 would extract, and leniently.

    The lenient rule takes the final answer, reads a letter however it is said, and chooses nothing where none is.
    """

    columns = ("accuracy", "accuracy_lenient", "num_empty")
    broken_down = ("accuracy", "accuracy_lenient")

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the answer in its form is the gold one."""
        kind, precision = question.meta["kind"], question.meta["precision"]
        choices, gold = question.choices or (), question.references[0]
        answer = extracted(prediction, kind=kind, choices=choices)
        official = normalised(answer, kind=kind, choices=choices, precision=precision) if prediction else None
        lenient = self._lenient(prediction, kind, choices, precision)
        right = official is not None and official.strip() == gold.strip()
        return short_score(
            "accuracy",
            prediction,
            official=(official or "", float(right)),
            lenient=(lenient or "", float(right or (lenient is not None and lenient.strip() == gold.strip()))),
        )

    def _lenient(self, prediction: str, kind: str, choices: Sequence[str], precision: int) -> str | None:
        if choices:
            letter = letter_lenient(prediction, choices)
            return None if letter is None else choices[LETTERS.index(letter)]
        numbers = re.findall(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", plain_number(final_answer(prediction)))
        text = numbers[0] if kind in ("integer", "float") and len(numbers) == 1 else final_answer(prediction)
        return normalised(text, kind=kind, choices=(), precision=precision)
