"""VQA accuracy with the answer normalisation of the VQA challenge's server."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import mean

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score, short_score
from dragonfly_lit.evaluation.parsers import final_answer
from dragonfly_lit.evaluation.question import Question

NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTED = re.findall(
    r"\S+",
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""",
)
"""Words put right when one apostrophe is missing; the published table has `somebody'd` the wrong way round."""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in CONTRACTED for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}
COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
PERIOD = re.compile(r"\.(?!\d)")
MAX_PERIODS = 32
"""The published code passes a flag as the number of replacements: only the first 32 full stops are dropped."""


def without_punctuation(text: str, comma_in_number: re.Pattern[str] = COMMA_IN_NUMBER) -> str:
    """Each mark deleted if it is beside a space anywhere, or if a number has a comma; else it becomes a space."""
    has_comma = comma_in_number.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        beside_space = mark + " " in text or " " + mark in text
        result = result.replace(mark, "" if beside_space or has_comma else " ")
    return PERIOD.sub("", result, count=MAX_PERIODS)


def plain_words(text: str) -> str:
    """Number words as digits, articles dropped, apostrophes put back, single spaces."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalise(answer: str) -> str:
    """An answer as EvalAI compares it (and lmms-eval, LLaVA, MMF)."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return plain_words(without_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def normalise_vqav2(answer: str) -> str:
    """An answer as VQAv2's own code compares it: unlike `normalise`, it keeps commas and question marks until later."""
    return plain_words(without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()))


def vqa_accuracy(
    prediction: str, answers: tuple[str, ...] | list[str], form: Callable[[str], str] = normalise
) -> float:
    """Leave-one-out mean over the human answers of min(1, matches among the others / 3), all in the same form.

    With ten answers, 1, 2, 3 and 4 matches give .3, .6, .9 and 1. Without answers it is 0.
    """
    guess = form(prediction)
    matches = [form(answer) == guess for answer in answers]
    if not matches:
        return 0.0
    return float(mean(min(1.0, (sum(matches) - match) / 3) for match in matches))


class VQAAccuracy(QuestionMetric):
    """VQA accuracy of TextVQA and VizWiz; leniently of the final answer."""

    columns = ("accuracy", "accuracy_lenient", "num_empty")
    broken_down = ("accuracy",)
    form = staticmethod(normalise)
    """Of answers that are compared."""

    def score(self, prediction: str, question: Question) -> Score:
        """VQA accuracy of the output, and of its final answer."""
        official, lenient = (
            (self.form(text), vqa_accuracy(text, question.references, self.form))
            for text in (prediction, final_answer(prediction))
        )
        return short_score("accuracy", prediction, official=official, lenient=lenient)


class VQAv2Accuracy(VQAAccuracy):
    """VQA accuracy as VQAv2's own code has it, whose form of answers differs in commas and question marks."""

    form = staticmethod(normalise_vqav2)
