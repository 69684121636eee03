"""Multiple choice: AI2D, ScienceQA and MMMU."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score
from dragonfly_lit.evaluation.parsers import letter_lenient, letter_llava, letter_lmms_ai2d, letter_lmms_scienceqa
from dragonfly_lit.evaluation.parsers_mmmu import mmmu_candidates, mmmu_letter, mmmu_open_match
from dragonfly_lit.evaluation.question import Question

THREE_RULES = ("accuracy", "accuracy_lmms_eval", "accuracy_lenient", "num_unparsed", "num_unparsed_lenient")


class MultipleChoice(QuestionMetric):
    """Accuracy of the letter, by lmms-eval's rule for AI2D, and by a lenient one."""

    columns = ("accuracy", "accuracy_lenient", "num_unparsed", "num_unparsed_lenient")
    broken_down = ("accuracy", "accuracy_lenient")

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__(questions)
        for question in questions:
            if question.choices is None and not set(question.references) <= set(ascii_uppercase):
                raise ValueError(
                    f"{question.task}: question {question.id} has the answer {question.references} and no choices; "
                    "letters are scored here. Give its choices, or the letter where the question's text has them."
                )
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
        letters = self.letter(prediction, question), letter_lenient(prediction, question.choices or ())
        right = [letter in question.references for letter in letters]
        return choice_score(letters, right, **self.others(prediction, question))


class ScienceQA(MultipleChoice):
    """ScienceQA by LLaVA's rule, by lmms-eval's and leniently; of all questions, and of those with an image."""

    columns = THREE_RULES
    broken_down = ("accuracy", "accuracy_lmms_eval", "accuracy_lenient")

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

    columns = THREE_RULES
    broken_down = ("accuracy",)

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the letter is the answer's, or if an open answer holds a gold one."""
        return self._open(prediction, question) if question.choices is None else self._letter(prediction, question)

    def _letter(self, prediction: str, question: Question) -> Score:
        choices = question.choices or ()
        parsed, lmms = mmmu_letter(prediction, choices), mmmu_letter(prediction, choices, "lmms_eval")
        letters = parsed, parsed or letter_lenient(prediction, choices)
        right = [letter in question.references for letter in letters]
        return choice_score(letters, right, accuracy_lmms_eval=float(lmms in question.references))

    def _open(self, prediction: str, question: Question) -> Score:
        candidates = mmmu_candidates(prediction)
        right = mmmu_open_match(candidates, question.references)
        parsed = " | ".join(sorted(str(candidate).strip() for candidate in candidates)) if prediction.strip() else None
        return choice_score((parsed, parsed), [right, right], accuracy_lmms_eval=float(right))


def choice_score(parsed: tuple[str | None, str | None], right: Sequence[bool], **others: float) -> Score:
    """What the official and the lenient rule read, and whether it is right; `others` are further columns."""
    score, lenient_score = map(float, right)
    return Score(
        parsed=parsed[0],
        score=score,
        lenient_parsed=parsed[1],
        lenient_score=lenient_score,
        values={
            "accuracy": score,
            "accuracy_lenient": lenient_score,
            "num_unparsed": float(parsed[0] is None),
            "num_unparsed_lenient": float(parsed[1] is None),
            **others,
        },
    )
