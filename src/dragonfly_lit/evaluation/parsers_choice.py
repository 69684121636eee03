"""How published scorers of multiple choice read a letter out of an output; None when they find none."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
