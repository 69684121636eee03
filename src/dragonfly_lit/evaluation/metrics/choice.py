"""Multiple choice: AI2D, ScienceQA and MMMU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from dragonfly_lit.evaluation.benchmarks.question import Question
from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score
from dragonfly_lit.evaluation.parsers import (
    letter_lenient,
    letter_llava,
    letter_lmms_ai2d,
    letter_lmms_scienceqa,
)
from dragonfly_lit.evaluation.parsers_mmmu import mmmu_candidates, mmmu_letter, mmmu_open_match


class MultipleChoice(QuestionMetric):
    """Accuracy of the letter, by lmms-eval's rule for AI2D, and by a lenient one."""

    columns: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_lenient", "num_unparsed", "num_unparsed_lenient")
    broken_down: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_lenient")

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__(questions)
        for question in questions:
            letters = [chr(ord("A") + i) for i in range(len(question.choices or ()))]
            if question.choices is not None and not set(question.references) <= set(letters):
                raise ValueError(
                    f"{question.task}: question {question.id} has the answer {question.references}; with "
                    f"{len(letters)} choices it is one of the letters {', '.join(letters)}."
                )

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by the official rule."""
        return letter_lmms_ai2d(prediction)

    def others(self, prediction: str, question: Question) -> dict[str, float]:
        """Scores by further rules."""
        return {}

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the letter is the answer's; an output without a letter is wrong."""
        parsed, lenient = self.letter(prediction, question), letter_lenient(prediction, question.choices or ())
        score, lenient_score = float(parsed in question.references), float(lenient in question.references)
        return Score(
            parsed=parsed,
            score=score,
            lenient_parsed=lenient,
            lenient_score=lenient_score,
            values={
                "accuracy": score,
                "accuracy_lenient": lenient_score,
                **self.others(prediction, question),
                "num_unparsed": float(parsed is None),
                "num_unparsed_lenient": float(lenient is None),
            },
        )


class ScienceQA(MultipleChoice):
    """ScienceQA by LLaVA's rule, by lmms-eval's and leniently; of all questions, and of those with an image."""

    columns: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "accuracy_lmms_eval",
        "accuracy_lenient",
        "num_unparsed",
        "num_unparsed_lenient",
    )
    broken_down: ClassVar[tuple[str, ...]] = ("accuracy", "accuracy_lmms_eval", "accuracy_lenient")

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by LLaVA's rule."""
        return letter_llava(prediction, len(question.choices or ()))

    def others(self, prediction: str, question: Question) -> dict[str, float]:
        """lmms-eval's rule."""
        return {"accuracy_lmms_eval": float(letter_lmms_scienceqa(prediction) in question.references)}


class MMMU(QuestionMetric):
    """MMMU by its own rule, by lmms-eval's and leniently; letters and open answers, by domain and subject.

    An output without a letter is wrong and counted, where the published scorers draw a choice at random.
    """

    columns: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "accuracy_lmms_eval",
        "accuracy_lenient",
        "num_unparsed",
        "num_unparsed_lenient",
    )
    broken_down: ClassVar[tuple[str, ...]] = ("accuracy",)

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the letter is the answer's, or if an open answer holds a gold one."""
        return self._open(prediction, question) if question.choices is None else self._letter(prediction, question)

    def _letter(self, prediction: str, question: Question) -> Score:
        choices = question.choices or ()
        parsed, lmms = mmmu_letter(prediction, choices), mmmu_letter(prediction, choices, "lmms_eval")
        lenient = parsed or letter_lenient(prediction, choices)
        return _score(parsed, lenient, [letter in question.references for letter in (parsed, lmms, lenient)])

    def _open(self, prediction: str, question: Question) -> Score:
        candidates = mmmu_candidates(prediction)
        right = mmmu_open_match(candidates, question.references)
        parsed = " | ".join(sorted(str(candidate).strip() for candidate in candidates)) if prediction.strip() else None
        return _score(parsed, parsed, [right, right, right])


def _score(parsed: str | None, lenient: str | None, right: list[bool]) -> Score:
    score, lmms, lenient_score = map(float, right)
    return Score(
        parsed=parsed,
        score=score,
        lenient_parsed=lenient,
        lenient_score=lenient_score,
        values={
            "accuracy": score,
            "accuracy_lmms_eval": lmms,
            "accuracy_lenient": lenient_score,
            "num_unparsed": float(parsed is None),
            "num_unparsed_lenient": float(lenient is None),
        },
    )
