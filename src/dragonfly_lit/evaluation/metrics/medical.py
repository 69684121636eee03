"""Medical VQA: accuracy of closed questions, token F1 and recall of open ones, each by two published conventions."""

# ruff: noqa: RUF001 - Chinese punctuation is meant

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score
from dragonfly_lit.evaluation.metrics.vqa import plain_words, without_punctuation
from dragonfly_lit.evaluation.question import Question

COMMA_IN_NUMBER = re.compile(r"\d,\d")
SLAKE_PUNCTUATION = string.punctuation + "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～、《》？【】"
SLAKE_YES = frozenset({"yes", "yeah", "yep", "true", "是", "是的", "有", "包含", "可以", "能", "会", "正常"})
SLAKE_NO = frozenset({
    "no", "nope", "false", "否", "不是", "没有", "无", "不包含", "不能", "不会", "不可以", "不正常", "异常",
})  # fmt: skip


def normalise_llava_med(text: str) -> str:
    """LLaVA-Med's normalisation: the VQA challenge's, but for its handling of commas and `'s`."""
    return plain_words(without_punctuation(text, COMMA_IN_NUMBER)).replace(",", "")


def closed_llava_med(prediction: str, answer: str) -> bool:
    """Whether the answer is part of a prediction that has `yes` or `no` somewhere, even inside a word (`normal`)."""
    guess, gold = (normalise_llava_med(text.lower()) for text in (prediction, answer))
    return ("yes" in guess or "no" in guess) and gold in guess


def closed_hit(prediction: str, answer: str) -> bool:
    """LLaVA-Med's rule for yes and no; any other answer must be among the prediction's words, in their order."""
    guess, gold = (normalise_llava_med(text.lower()) for text in (prediction, answer))
    if gold in ("yes", "no"):
        return closed_llava_med(prediction, answer)
    # Nothing but an article is left of some answers, and nothing is part of everything.
    return f" {gold} " in f" {guess} " if gold else prediction.strip().lower() == answer.strip().lower()


def closed_answer(prediction: str, answer: str) -> str | None:
    """What the strict rule reads: the first word for a yes-no question, else the whole normalised prediction."""
    words = normalise_llava_med(prediction.lower()).split()
    if normalise_llava_med(answer.lower()) not in ("yes", "no"):
        return " ".join(words) or None
    return words[0] if words and words[0] in ("yes", "no") else None


def token_scores_llava_med(prediction: str, answer: str) -> tuple[float, float, float]:
    """F1, precision and recall as LLaVA-Med and Path-VQA count them: a hit counts as often as it is predicted."""
    guess, gold = (
        Counter(normalise_llava_med(normalise_llava_med(text.lower())).split()) for text in (prediction, answer)
    )
    hits = sum(count for word, count in guess.items() if word in gold)
    if not hits:
        return 0.0, 0.0, 0.0
    missed = sum(count for word, count in gold.items() if word not in guess)
    precision, recall = hits / guess.total(), hits / (hits + missed)
    return 2 * precision * recall / (precision + recall), precision, recall


def squad_words(text: str) -> list[str]:
    """SQuAD's words: lower case, without punctuation and articles."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def token_scores_squad(prediction: str, answer: str) -> tuple[float, float, float]:
    """F1, precision and recall over the multisets of words, as SQuAD counts them; two empty answers agree."""
    guess, gold = Counter(squad_words(prediction)), Counter(squad_words(answer))
    if not guess or not gold:
        agree = float(guess == gold)
        return agree, agree, agree
    hits = (guess & gold).total()
    if not hits:
        return 0.0, 0.0, 0.0
    precision, recall = hits / guess.total(), hits / gold.total()
    return 2 * precision * recall / (precision + recall), precision, recall


def normalise_slake(text: str) -> str:
    """lmms-eval's rule for SLAKE: no text in brackets, punctuation as spaces, one word each for yes, no and x-ray."""
    text = re.sub(r"（[^）]*）", " ", re.sub(r"\([^)]*\)", " ", text.strip().lower()))
    text = " ".join(text.translate(dict.fromkeys(map(ord, SLAKE_PUNCTUATION), " ")).split())
    if text == "x ray":
        return "xray"
    return "yes" if text in SLAKE_YES else "no" if text in SLAKE_NO else text


class MedicalVQA(QuestionMetric):
    """Closed accuracy and open token scores; `meta["answer_type"]` of a question is `closed` or `open`.

    `closed_accuracy` is over all questions that the data calls closed, also those that are not about yes and no.
    `..._llava_med` is LLaVA-Med's convention, whose released rule for closed questions wants a yes or no in every
    output: it counts the right answer to `left or right?` as wrong. `closed_accuracy_strict` wants yes or no as the
    first word, or the exact answer; `..._squad` counts over multisets. The paper does not say which normalisation its
    token F1 has. Where no question is closed, `open_f1_squad` is the score that tables show.
    """

    columns = (
        "closed_accuracy",
        "closed_accuracy_llava_med",
        "closed_accuracy_strict",
        "open_f1_squad",
        "open_recall_squad",
        "open_f1_llava_med",
        "open_recall_llava_med",
        "open_exact_match",
        "accuracy_lmms_eval",
        "num_unparsed",
    )

    def __init__(self, questions: Sequence[Question], slake: bool = False) -> None:
        super().__init__(questions)
        self.slake = slake
        for question in questions:
            if question.meta.get("answer_type") not in ("closed", "open"):
                raise ValueError(
                    f"{question.task}: question {question.id} has the answer type "
                    f"{question.meta.get('answer_type')!r}; it must be closed or open."
                )
        if questions and not any(question.meta["answer_type"] == "closed" for question in questions):
            self.headline = "open_f1_squad"

    def score(self, prediction: str, question: Question) -> Score:
        """A closed question's hit, or an open one's token F1 (SQuAD's)."""
        answer = question.references[0]
        values = dict.fromkeys(self.columns, math.nan)
        if self.slake:
            values["accuracy_lmms_eval"] = float(normalise_slake(prediction) == normalise_slake(answer))
        if question.meta["answer_type"] == "closed":
            read = closed_answer(prediction, answer)
            gold = normalise_llava_med(answer.lower())
            score = closed_hit(prediction, answer)
            strict = read == gold if gold else score
            values |= {
                "closed_accuracy": float(score),
                "closed_accuracy_llava_med": float(closed_llava_med(prediction, answer)),
                "closed_accuracy_strict": float(strict),
                "num_unparsed": float(read is None),
            }
            parsed = normalise_llava_med(prediction.lower()) or None
            return Score(
                parsed=parsed, score=float(score), lenient_parsed=read, lenient_score=float(strict), values=values
            )
        f1, _, recall = token_scores_squad(prediction, answer)
        f1_med, _, recall_med = token_scores_llava_med(prediction, answer)
        values |= {
            "open_f1_squad": f1,
            "open_recall_squad": recall,
            "open_f1_llava_med": f1_med,
            "open_recall_llava_med": recall_med,
            "num_unparsed": float(not prediction.strip()),
            "open_exact_match": float(squad_words(prediction) == squad_words(answer)),
        }
        parsed = " ".join(squad_words(prediction)) or None
        return Score(parsed=parsed, score=f1, lenient_parsed=parsed, lenient_score=f1_med, values=values)
