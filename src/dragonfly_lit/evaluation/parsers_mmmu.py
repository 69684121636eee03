"""How MMMU reads a letter, or candidates for an open answer, out of an output; without its random choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from dragonfly_lit.evaluation.parsers import LETTERS

FORMS = {"official": ("({})", " {} "), "lmms_eval": ("({})", "{} ", "{}.")}
"""What a letter looks like, tried in turn. lmms-eval's second form has no space in front: `DNA is` holds an A."""
INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def mmmu_letter(output: str, choices: Sequence[str], rule: Literal["official", "lmms_eval"] = "official") -> str | None:
    """The letter that the output names last, in brackets or alone; failing that, in over five words, a choice's text.

    The published code chooses at random when nothing is found; this returns None.
    """
    for mark in ",.!?;:'":
        output = output.strip(mark)
    text = f" {output} "
    letters = LETTERS[: len(choices)]
    for form in FORMS[rule]:
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            place = "({})" if form == "({})" else " {} "
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= 5:
        return None
    said = text.lower()
    named = [(letter, choice.lower()) for letter, choice in zip(letters, choices, strict=True)]
    named = [(letter, choice) for letter, choice in named if choice in said]
    return max(named, key=lambda pair: said.rfind(pair[1]))[0] if named else None


def mmmu_candidates(output: str) -> set[str | float]:
    """What an open answer may be: the tails of its lines after `is`, `so`, `answer`, ... and the numbers in them."""
    text = output.strip().strip(".").lower()
    lines = text.split("\n")
    tails: list[str] = []
    for number, line in enumerate(lines):
        tail = ""
        for indicator in (*INDICATORS, "=") if number == len(lines) - 1 else INDICATORS:
            if indicator in line:
                after = line.split(indicator)[-1].strip()
                tail = after if not tail or len(after) < len(tail) else tail
        if tail and tail not in (":", ",", ".", "!", "?", ";", "'"):
            tails.append(tail)
    tails = tails or [text]
    numbers = [number for tail in tails for pattern in NUMBERS for number in re.findall(pattern, tail)]
    return {candidate for piece in (*tails, *numbers) for candidate in mmmu_forms(piece)}


def mmmu_forms(text: str) -> list[str | float]:
    """A number to two decimals; else the text in lower case, one letter with a space on either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def mmmu_open_match(candidates: set[str | float], answers: Sequence[str]) -> bool:
    """Whether a number equals an answer's, or a text contains one."""
    forms = [form for answer in answers for form in mmmu_forms(answer)]
    return any(
        any(isinstance(form, str) and form in candidate for form in forms)
        if isinstance(candidate, str)
        else candidate in forms
        for candidate in candidates
    )
