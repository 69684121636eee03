"""Multiple choice of MMStar, RealWorldQA, MMBench, SEED-Bench, BLINK and CV-Bench, each by its own rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, mean
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice, choice_score
from dragonfly_lit.evaluation.metrics.vqa import normalise
from dragonfly_lit.evaluation.parsers import final_answer, letter_lenient
from dragonfly_lit.evaluation.parsers_choice import (
    letter_blink,
    letter_cv_bench,
    letter_first,
    letter_mcq,
    letter_mmbench,
)
from dragonfly_lit.evaluation.question import Question

FOUR = ("", "", "", "")
"""Choices of a question whose text has them, for rules that only look at letters."""


class MMStar(MultipleChoice):
    """MMStar by lmms-eval's rule and leniently; its choices are in the questions' texts.

    The capabilities have as many questions each, so `accuracy` is also the mean of theirs, which is published.
    lmms-eval's `average` is that of the finer categories, which have not.
    """

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the letter is the answer's."""
        return super().score(prediction, replace(question, choices=question.choices or FOUR))

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by lmms-eval's shared rule."""
        return letter_mcq(prediction, "ABCD")

    def summarise(self) -> dict[str, float]:
        """Also lmms-eval's average."""
        average = mean_of_groups(self.column("accuracy"), [question.category for question in self.questions])
        return {**super().summarise(), "average_lmms_eval": average}


class RealWorldQA(QuestionMetric):
    """RealWorldQA by lmms-eval's rule and leniently: a letter where the answer is one, else its words."""

    columns = ("accuracy", "accuracy_lenient", "num_unparsed", "num_unparsed_lenient")

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the letter, or the output but for case and full stops at its end, is the answer."""
        gold = question.references[0].strip()
        if gold.upper() in tuple("ABCD"):
            letters = letter_mcq(prediction, "ABCD"), letter_lenient(prediction, FOUR)
            return choice_score(letters, [letter == gold.upper() for letter in letters])
        words, meant = prediction.lower().strip().rstrip("."), normalise(final_answer(prediction))
        right = words == gold.lower()
        return choice_score((words or None, meant or None), [right, right or meant == normalise(gold)])


class MMBench(MultipleChoice):
    """MMBench by circular evaluation: a question is right if it is so in every order of its choices that the data have.

    `accuracy_rows` counts each order for itself, `accuracy_first` the first order alone.
    """

    columns = ("accuracy_rows", "accuracy_lenient", "num_unparsed", "num_unparsed_lenient")
    broken_down = ()
    headline = "accuracy"

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by lmms-eval's rule without a judge."""
        return letter_mmbench(prediction, question.choices or ())

    def score(self, prediction: str, question: Question) -> Score:
        """1 if the letter is the answer's in this order."""
        made = super().score(prediction, question)
        values = dict(made.values)
        return replace(made, values={"accuracy_rows": values.pop("accuracy"), **values})

    def summarise(self) -> dict[str, float]:
        """Over questions, all and by category."""
        rows = self.column("accuracy_rows")
        orders: dict[object, list[int]] = {}
        for row, question in enumerate(self.questions):
            orders.setdefault(question.meta["circle"], []).append(row)
        whole = [min(rows[row] for row in members) for members in orders.values()]
        first = [self.questions[members[0]] for members in orders.values()]
        scores = {"accuracy": mean(whole), "accuracy_first": mean([rows[members[0]] for members in orders.values()])}
        for kind in ("split", "category"):
            names = [getattr(question, kind) for question in first]
            scores |= {f"accuracy/{name}": value for name, value in means_of_groups(whole, names).items() if name}
        return {**scores, **super().summarise()}


class SEEDBench(MultipleChoice):
    """SEED-Bench by lmms-eval's rule and leniently, by kind of question."""

    def letter(self, prediction: str, question: Question) -> str | None:
        """The first character."""
        return letter_first(prediction)


class BLINK(MultipleChoice):
    """BLINK by lmms-eval's rule and leniently; `average` is the mean of the fourteen tasks, as the authors report."""

    headline = "average"

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by lmms-eval's rule."""
        return letter_blink(prediction, len(question.choices or ()))

    def summarise(self) -> dict[str, float]:
        """Also the mean of the tasks."""
        average = mean_of_groups(self.column("accuracy"), [question.category for question in self.questions])
        return {"average": average, **super().summarise()}


class CVBench(MultipleChoice):
    """CV-Bench by lmms-eval's rule and leniently; `average` weighs 2D and 3D alike, and in 2D both sources.

    Where a source has no questions the average is of those that have some.
    """

    headline = "average"

    def letter(self, prediction: str, question: Question) -> str | None:
        """The letter by lmms-eval's rule."""
        return letter_cv_bench(prediction)

    def summarise(self) -> dict[str, float]:
        """Also the authors' average."""
        sources = [question.meta["source"] for question in self.questions]
        dimensions = {source: question.split for source, question in zip(sources, self.questions, strict=True)}
        means = means_of_groups(self.column("accuracy"), sources)
        average = mean_of_groups(list(means.values()), [dimensions[source] for source in means])
        return {"average": average, **super().summarise()}


def means_of_groups(values: Sequence[float], names: Iterable[object]) -> dict[object, float]:
    """The mean of each group, by its name in their order."""
    groups: dict[object, list[float]] = {}
    for value, name in zip(values, names, strict=True):
        groups.setdefault(name, []).append(value)
    return {name: mean(members) for name, members in groups.items()}


def mean_of_groups(values: Sequence[float], names: Iterable[object]) -> float:
    """The mean of the groups' means, each of which counts alike."""
    return mean(list(means_of_groups(values, names).values()))
