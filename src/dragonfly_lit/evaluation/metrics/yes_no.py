"""Yes-no benchmarks: POPE and MME."""

from __future__ import annotations

from collections.abc import Sequence

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, mean
from dragonfly_lit.evaluation.parsers import yes_no_lenient, yes_no_mme, yes_no_mme_lmms_eval, yes_no_pope, yes_no_whole
from dragonfly_lit.evaluation.question import Question

SUFFIXES = {"official": "", "lmms_eval": "_lmms_eval", "lenient": "_lenient"}
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def _gold(question: Question) -> str:
    answer = question.references[0].strip().lower().removesuffix(".")
    if answer not in ("yes", "no"):
        raise ValueError(f"{question.task}: question {question.id} has the answer {answer!r}; it must be yes or no.")
    return answer


def _code(answer: str | None) -> float:
    return -1.0 if answer is None else float(answer == "yes")


def binary_scores(predictions: Sequence[float], golds: Sequence[float], unread_is_no: bool = True) -> dict[str, float]:
    """F1, accuracy, precision, recall of `yes`, and the share of predictions that are `yes`.

    Args:
        predictions: 1 yes, 0 no, -1 unreadable, which is never right.
        golds: 1 yes, 0 no.
        unread_is_no: whether an unreadable answer to a `yes` question lowers recall; lmms-eval leaves it out.

    A ratio without a denominator is 0.
    """
    pairs = list(zip(predictions, golds, strict=True))
    hits = sum(p == 1 and g == 1 for p, g in pairs)
    false_yes = sum(p == 1 and g == 0 for p, g in pairs)
    missed = sum(g == 1 and (p == 0 or (unread_is_no and p == -1)) for p, g in pairs)
    precision, recall = _ratio(hits, hits + false_yes), _ratio(hits, hits + missed)
    return {
        "f1": _ratio(2 * (precision * recall), precision + recall),
        "accuracy": _ratio(sum(p == g for p, g in pairs), len(pairs)),
        "precision": precision,
        "recall": recall,
        "yes_ratio": _ratio(hits + false_yes, len(pairs)),
    }


def _ratio(part: int | float, whole: int | float) -> float:
    return part / whole if whole else 0.0


class POPE(QuestionMetric):
    """POPE by its own rule, by lmms-eval's and leniently.

    `f1`, `accuracy`, ... are means over the splits (random, popular, adversarial), as LLaVA reports them;
    `..._pooled` are over all questions; `f1/random` is one split's. The yes ratio is of the predictions.
    """

    columns = ("gold", "official", "lmms_eval", "lenient")
    headline = "f1"

    def score(self, prediction: str, question: Question) -> Score:
        """1 if yes or no was read and is right."""
        gold = _gold(question)
        parsers = {"official": yes_no_pope, "lmms_eval": yes_no_whole, "lenient": yes_no_lenient}
        read = {rule: parse(prediction) for rule, parse in parsers.items()}
        return Score(
            parsed=read["official"],
            score=float(read["official"] == gold),
            lenient_parsed=read["lenient"],
            lenient_score=float(read["lenient"] == gold),
            values={"gold": _code(gold), **{rule: _code(answer) for rule, answer in read.items()}},
        )

    def top(self, name: str) -> float | None:
        """1, but for the share of predictions that are yes."""
        return None if name.startswith("yes_ratio") else super().top(name)

    def summarise(self) -> dict[str, float]:
        """Means over splits, pooled values, values by split; and how many answers each rule could not read."""
        golds = self.column("gold")
        rows: dict[str, list[int]] = {}
        for row, question in enumerate(self.questions):
            rows.setdefault(question.split, []).append(row)
        scores, by_split = {}, {}
        for rule, suffix in SUFFIXES.items():
            read = self.column(rule)
            counted = rule != "lmms_eval"
            parts = {
                split: binary_scores([read[i] for i in members], [golds[i] for i in members], counted)
                for split, members in sorted(rows.items())
            }
            pooled = binary_scores(read, golds, counted)
            for name in pooled:
                scores[name + suffix] = mean([part[name] for part in parts.values()])
            scores |= {f"{name}_pooled{suffix}": value for name, value in pooled.items()}
            scores[f"num_unparsed{suffix}"] = float(sum(value == -1 for value in read))
            by_split |= {f"{n}{suffix}/{split}": v for split, part in parts.items() if split for n, v in part.items()}
        return scores | by_split


class MME(QuestionMetric):
    """MME's points by its own rule, by lmms-eval's and leniently: accuracy plus accuracy of whole pairs, times 100.

    A subtask has at most 200 points, `perception` the sum of ten of them, `cognition` of four, `total` of both.

    Raises:
        ValueError: an image has not exactly two questions, or a subtask is unknown.
    """

    columns = ("official", "lmms_eval", "lenient", "num_unparsed", "num_unparsed_lenient")
    headline = "perception"
    scale = 1.0

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__(questions)
        self.pairs = mme_pairs(self.questions)

    def score(self, prediction: str, question: Question) -> Score:
        """1 if yes or no was read and is right."""
        gold = _gold(question)
        parsed, lenient = yes_no_mme(prediction), yes_no_lenient(prediction)
        score, lenient_score = float(parsed == gold), float(lenient == gold)
        return Score(
            parsed=parsed,
            score=score,
            lenient_parsed=lenient,
            lenient_score=lenient_score,
            values={
                "official": score,
                "lmms_eval": float(yes_no_mme_lmms_eval(prediction) == gold),
                "lenient": lenient_score,
                "num_unparsed": float(parsed is None),
                "num_unparsed_lenient": float(lenient is None),
            },
        )

    def top(self, name: str) -> float | None:
        """200 points a subtask, 1 of an accuracy."""
        kind = name.partition("/")[0]
        parts = {"perception": PERCEPTION, "cognition": COGNITION, "total": (*PERCEPTION, *COGNITION)}
        for part, subtasks in parts.items():
            if kind.startswith(part):
                return 200.0 * len(set(subtasks) & set(self.pairs))
        return 200.0 if kind.startswith("score") else super().top(name)

    def summarise(self) -> dict[str, float]:
        """Points of perception, cognition, both, and each subtask with its two accuracies."""
        scores, by_subtask = {}, {}
        for rule, suffix in SUFFIXES.items():
            right = self.column(rule)
            points: dict[str, float] = {}
            for subtask, pairs in self.pairs.items():
                single = sum(right[i] for pair in pairs for i in pair)
                both = sum(all(right[i] for i in pair) for pair in pairs)
                points[subtask] = (50.0 * single + 100.0 * both) / len(pairs)
                by_subtask[f"score{suffix}/{subtask}"] = points[subtask]
                by_subtask[f"accuracy{suffix}/{subtask}"] = single / (2 * len(pairs))
                by_subtask[f"accuracy_plus{suffix}/{subtask}"] = both / len(pairs)
            perception, cognition = (
                sum(points[subtask] for subtask in part if subtask in points) for part in (PERCEPTION, COGNITION)
            )
            sums = {"perception": perception, "cognition": cognition, "total": perception + cognition}
            scores |= {name + suffix: value for name, value in sums.items()}
        counts = {name: sum(self.column(name)) for name in ("num_unparsed", "num_unparsed_lenient")}
        return scores | counts | by_subtask


def mme_pairs(questions: Sequence[Question]) -> dict[str, list[tuple[int, int]]]:
    """Rows of the two questions of each image, by subtask.

    Raises:
        ValueError: an image has not exactly two questions, or a subtask is none of MME's fourteen.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for row, question in enumerate(questions):
        if question.category not in (*PERCEPTION, *COGNITION):
            raise ValueError(
                f"{question.task}: question {question.id} is of the subtask {question.category!r}; MME has "
                f"{', '.join((*PERCEPTION, *COGNITION))}."
            )
        rows.setdefault((question.category, str(question.meta["pair"])), []).append(row)
    pairs: dict[str, list[tuple[int, int]]] = {}
    for (subtask, image), members in rows.items():
        if len(members) != 2:
            raise ValueError(
                f"{questions[members[0]].task}: image {image} of {subtask} has {len(members)} questions; MME asks two "
                "of each image, and accuracy+ needs both."
            )
        pairs.setdefault(subtask, []).append((members[0], members[1]))
    return pairs
