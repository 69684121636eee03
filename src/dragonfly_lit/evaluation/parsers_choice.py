"""How published scorers of multiple choice read a letter out of an output; None when they find none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from dragonfly_lit.evaluation.parsers import LETTERS

VSTAR = (
    r"\A([A-D])",
    r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*[.)\]]",
    r"(?:^|\s)([A-D])(?:\s|$)",
)
"""Tried in turn on the output in upper case. By the first `Both` is a B."""


def letter_vstar(output: str) -> str | None:
    """lmms-eval's rule for V*Bench: the letter in front, after `answer`, in brackets, before a mark, or alone."""
    text = output.strip().upper()
    for pattern in VSTAR:
        if found := re.search(pattern, text, re.IGNORECASE):
            return found.group(1).upper()
    letters = re.findall(r"[A-D]", text)
    return letters[0] if len(letters) == 1 else None


NO_CHOICE = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
FAILED = "Failed to obtain answer via API"
"""What VLMEvalKit's clients of other models say; kept, since its rule knows them."""


def letter_vlmevalkit(output: str, choices: Sequence[str]) -> str | None:
    """VLMEvalKit's rule, with which HR-Bench's scorers begin: the only letter as a word, else the one choice named.

    What they do next, asking a language model, is left out: an output that only a model could read has no answer.
    """
    letters = LETTERS[: len(choices)]
    if FAILED not in output:
        if any(words in output for words in NO_CHOICE):
            return None
        words = output.translate(str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))).split()
        named = [letter for letter in letters if letter in words]
        if len(named) == 1:
            return named[0]
        if not named and "Z" in words:
            return None
    said = output.lower()
    meant = [letter for letter, choice in zip(letters, choices, strict=True) if choice.lower() in said]
    return meant[0] if len(meant) == 1 else None


MME_REALWORLD = {
    # The released script lacks two commas, so that of its list four entries are two that no output holds.
    "official": (
        "The best answer is", "The correct answer is", "The answer is", "The answer",
        "The best option isThe correct option is", "Best answer:Best option:",
    ),
    "lmms_eval": (
        "The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
        "The correct option is", "Best answer:", "Best option:",
    ),
}  # fmt: skip


def letter_mme_realworld(output: str, choices: Sequence[str], rule: str = "official") -> str | None:
    """MME-RealWorld's rule: the first capital A to E once its introductions are taken out, else a choice.

    The choice is the first one in whose `(A) text` the output is found; lmms-eval looks in `(A)` alone.
    """
    text = output.strip()
    for words in MME_REALWORLD[rule]:
        text = text.replace(words, "")
    if found := re.search(r"[A-E]", text):
        return found.group()
    if len(text.split()) > 10:
        return None
    written = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    if rule == "lmms_eval":
        written = [f"({letter})" for letter in "ABCDE"]
    return next((choice[1] for choice in written if text.lower() in choice.lower()), None)


FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
"""How a letter may stand in an output, and how much that counts."""
IN_FRONT, AT_THE_END, BEHIND_WORDS = 10, 9, 7
ANSWER_WORDS = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is",
    "best answer is", "the correct option is", "correct option is", "the best option is", "best option is",
    "the choice is", "choice is", "the correct choice is", "correct choice is", "i choose", "i select", "i pick",
    "my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip


def letter_mcq(output: str, letters: str) -> str | None:
    """lmms-eval's shared rule: of all places of a letter the one whose form counts most, and the last of those.

    Args:
        output: as the model gave it.
        letters: of the choices.
    """
    text = output.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    if not output.strip():
        return None
    bare, text = text.strip(), f" {text} "
    places = [
        (weight, text.rfind(form.format(letter)), letter)
        for form, weight in FORMS
        for letter in letters
        if form.format(letter) in text
    ]
    said = text.lower()
    for words in ANSWER_WORDS:
        if (start := said.find(words)) >= 0:
            found = ((text.find(letter, start + len(words)), letter) for letter in letters)
            places += [(BEHIND_WORDS, place, letter) for place, letter in found if place >= 0]
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            places.append((IN_FRONT, 0, letter))
    for letter in letters:
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            places.append((AT_THE_END, len(text) - 1, letter))
    places = places or [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(places, key=lambda place: place[:2])[2] if places else None


MMBENCH = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."), (":", ""), (":", ","), (":", "."),
    (":", ")"), (":", ")."),
)  # fmt: skip
"""What may stand around a letter that is a word of the output, tried in turn."""


def letter_mmbench(output: str, choices: Sequence[str]) -> str | None:
    """lmms-eval's rule for MMBench without a judge: the one letter as a word, the one choice named, or `letter_mcq`.

    `A` alone does not count as a word in over three, where it may be an article.
    """
    words = output.split()
    if FAILED not in output:
        alone = [letter for letter in "ABCDE" if letter in words]
        if len(alone) == 1 and not ("A" in words and len(words) > 3):
            return alone[0]
        for before, after in MMBENCH:
            found = [letter for letter in "ABCDE" if f"{before}{letter}{after}" in words]
            if len(found) == 1:
                return found[0]
    letters, said = LETTERS[: len(choices)], output.lower()
    named = [letter for letter, choice in zip(letters, choices, strict=True) if choice.lower() in said]
    return named[0] if len(named) == 1 else letter_mcq(output, letters)


def letter_first(output: str) -> str | None:
    """lmms-eval's rule for SEED-Bench: the first character, in either case."""
    letter = output.strip()[:1].upper()
    return letter if letter in tuple(LETTERS) else None


def letter_blink(output: str, num_choices: int) -> str | None:
    """lmms-eval's rule for BLINK, among the letters that the question has.

    A short first line that is a letter, else the last one after `answer`, the last in brackets, or the one in front.
    """
    text, letters = output.strip(), LETTERS[:num_choices] or LETTERS
    first = text.split("\n", 1)[0].strip()
    if len(first) <= 4 and (found := re.match(rf"\(?([{letters}])\)?[.\s:,)]*$", first, re.IGNORECASE)):
        return found.group(1).upper()
    stated = rf"answers?(?:\s+is)?\s*[:\-]?\s*\(?([{letters}])\)?(?![A-Za-z])"
    for pattern, flags in ((stated, re.IGNORECASE), (rf"\(([{letters}])\)", 0)):
        if every := re.findall(pattern, text, flags):
            return every[-1].upper()
    found = re.match(rf"[(\s]*([{letters}])", text, re.IGNORECASE)
    return found.group(1).upper() if found else None


def letter_cv_bench(output: str) -> str | None:
    """lmms-eval's rule for CV-Bench: the letter in front, behind brackets and white space; of any word, too."""
    found = re.match(r"[(\s]*([A-Z])", output.strip(), re.IGNORECASE)
    return found.group(1).upper() if found else None


def choice_most_similar(output: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice whose text is most like the output, as PMC-VQA's and OmniMedVQA's authors match them."""
    best, letter = 0.0, None
    for name, choice in zip(LETTERS, choices, strict=False):
        ratio = SequenceMatcher(None, choice, output).ratio()
        if ratio > best:
            best, letter = ratio, name
    return letter
