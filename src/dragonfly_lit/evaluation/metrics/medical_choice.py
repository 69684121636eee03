"""Multiple choice of PMC-VQA, OmniMedVQA and MedXpertQA: letters, and the choice that is most like the output."""

from __future__ import annotations

from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
from dragonfly_lit.evaluation.parsers_choice import choice_most_similar
from dragonfly_lit.evaluation.question import Question


class SimilarChoice(MultipleChoice):
    """Accuracy of the letter by the rule of AI2D and leniently, and of the most similar choice.

    The latter is the matching of PMC-VQA's and OmniMedVQA's authors, whose models answer in words: of any output that
    shares a character with a choice one is chosen. Here a letter alone stands for its choice's text.
    """

    columns = ("accuracy", "accuracy_similar", "accuracy_lenient", "num_unparsed", "num_unparsed_lenient")
    broken_down = ("accuracy", "accuracy_lenient")

    def others(self, prediction: str, question: Question) -> dict[str, float]:
        """The most similar choice; of a letter alone, its own."""
        choices, letter = question.choices or (), self.letter(prediction, question)
        index = ord(letter) - ord("A") if letter else -1
        said = choices[index] if 0 <= index < len(choices) else prediction
        return {"accuracy_similar": float(choice_most_similar(said, choices) in question.references)}
