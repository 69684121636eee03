"""Reading an answer out of an output: the published rules as they are, and lenient ones beside them.

A parser returns None when it finds no answer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

LETTERS = string.ascii_uppercase
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
ANSWER_IS = re.compile(r"\b(?:final\s+)?answer(?:\s+(?:is|would be|should be)\b|\s*:)\s*:?\s*", re.IGNORECASE)
UNDECIDED = re.compile(
    r"\b(?:(?:do|does|did|can|could)(?:n't| not|not)|(?:unable|not able|not possible|impossible|hard|difficult) to)"
    r"\s+(?:really\s+|clearly\s+|be\s+)?(?:know|tell|say|determine|answer|decide|judge|confirm|sure|certain)\b"
    r"|\bcan't\s+(?:really\s+)?(?:tell|say|determine|answer|decide|judge|confirm|know)\b"
    r"|\bnot\s+(?:(?:entirely|quite|really|very|at all|possible to be|100%)\s+)?(?:clear|sure|certain|known|enough)\b"
    r"|\b(?:isn't|aren't)\s+(?:clear|sure|certain|known|enough)\b"
    r"|\b(?:unclear|unsure|uncertain|unknown|unanswerable)\b|\bno\s+(?:idea|clue|way\s+to|information)\b"
)
"""What says that the answer is not known: neither yes nor no."""
TWO_LETTERS = re.compile(
    r"(?<![\w'])[(\[]?([A-Z])[)\]]?(?:\s*(?:,\s*)?\b(?:and|or|nor)\b\s*|\s*[/&+]\s*)(?:option\s+|choice\s+)?[(\[]?([A-Z])(?![\w'])"
    r"|(?<![\w'])([A-Z])\s*[,;\s]\s*([A-Z])(?![\w'])(?!\s+[a-z])"
    r"|(?<![\w'])[(\[]?([a-z])[)\]]?\s*(?:,\s*)?\b(?:and|or)\s+[(\[]?([a-z])(?![\w'])"
)
"""Two choices named side by side: `A and B`, `(A) or (B)`, `A, B`, `a or b`."""
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def bare(text: str) -> str:
    """Lower case without ASCII punctuation, nor null characters at the end, which numpy drops in lmms-eval."""
    return text.rstrip("\0").lower().translate(WITHOUT_PUNCTUATION).rstrip("\0")


def final_answer(output: str) -> str:
    """What follows the last `answer is` or `answer:`, else the output: its first line without quotes and full stop."""
    *_, last = [0, *(match.end() for match in ANSWER_IS.finditer(output))]
    text = (output[last:].strip() or output.strip()).split("\n")[0].strip()
    return text.strip("*\"'` ").removesuffix(".").strip("*\"'` ")


def plain_number(text: str) -> str:
    """`text` without currency signs, thousands separators and spaces around it."""
    return THOUSANDS.sub("", text.strip().strip("$€£¥ "))


def letter_llava(output: str, num_choices: int) -> str | None:
    """LLaVA's rule for ScienceQA: a letter alone, `X. ` in front, or exactly one `The answer is X.`; A to E only."""
    options = LETTERS[:5]
    if len(output) == 1 and output in options:
        letter = output
    elif len(output) >= 3 and output[0] in options and output[1:3] == ". ":
        letter = output[0]
    else:
        found = re.findall(r"The answer is ([A-Z]).", output)
        letter = found[0] if len(found) == 1 else ""
    return letter if letter and letter in options[:num_choices] else None


def letter_lmms_scienceqa(output: str) -> str | None:
    """lmms-eval's rule for ScienceQA: a letter alone in either case, or a capital and a full stop in front."""
    text = output.strip()
    if len(text) == 1 and text.lower() in string.ascii_lowercase:
        return text.lower().upper()
    return text[0] if len(text) >= 2 and text[0] in LETTERS and text[1] == "." else None


def letter_lmms_ai2d(output: str) -> str | None:
    """lmms-eval's rule for AI2D: a capital and a full stop in front, else the output but for case and punctuation."""
    found = re.match(r"^\s*([A-Z])\.", output)
    text = bare(found.group(1) if found else output)
    return text.upper() if len(text) == 1 and text in string.ascii_lowercase else None


def letter_lenient(output: str, choices: Sequence[str]) -> str | None:
    """The choice that an output means, however it says so; None when nothing or more than one thing fits.

    In this order: the letter after `answer is`, or in front; the output is one letter; one letter in brackets; a letter
    in front (`B)`, `B:`); one capital standing alone (not the article `A`); one choice's own words.
    """
    letters = LETTERS[: len(choices)]
    if _two_named(output[_end_of_last(ANSWER_IS, output) :], letters):
        return _choice_in_words(output, choices, whole=True)
    tail = output[_end_of_last(ANSWER_IS, output) :]
    for pattern in (r"\W*(?:option\s+|choice\s+)?([A-Z])(?![\w'])(?!\s+[a-z])", r"\W*([A-Za-z])\W*\Z"):
        found = re.match(pattern, tail)
        if found and found.group(1).upper() in letters and not _several(tail, letters):
            return found.group(1).upper()
    in_front = r"\A\W*([A-Z])\s*[.):\]](?!\w)"
    for pattern in (r"[(\[]([A-Z])[)\]]", in_front, r"(?<![\w'])(?!A\s+[a-z])([A-Z])(?![\w'])"):
        said = {letter for letter in re.findall(pattern, output) if letter in letters}
        if said:
            return said.pop() if len(said) == 1 else None
    return _choice_in_words(output, choices)


def _two_named(text: str, letters: str) -> bool:
    pairs = [{letter.upper() for letter in found.groups() if letter} for found in TWO_LETTERS.finditer(text)]
    return any(len(pair) == 2 and pair <= set(letters) for pair in pairs)


def _several(text: str, letters: str) -> bool:
    return len({letter for letter in re.findall(r"[(\[]([A-Z])[)\]]", text) if letter in letters}) > 1


def _end_of_last(pattern: re.Pattern[str], text: str) -> int:
    return max((match.end() for match in pattern.finditer(text)), default=0)


def _choice_in_words(output: str, choices: Sequence[str], *, whole: bool = False) -> str | None:
    said = f" {' '.join(bare(output).split())} "
    words = [f" {' '.join(bare(choice).split())} " for choice in choices]
    exact = [letter for letter, choice in zip(LETTERS, words, strict=False) if choice == said and choice.strip()]
    if exact or whole:
        return exact[0] if len(exact) == 1 else None
    inside = [i for i, choice in enumerate(words) if choice.strip() and choice in said]
    longest = [i for i in inside if not any(i != j and words[i] in words[j] for j in inside)]
    return LETTERS[longest[0]] if len(longest) == 1 else None


def yes_no_pope(output: str) -> str:
    """POPE's own rule: `no` if No, not or no is a word of the first sentence without commas; all else is `yes`."""
    words = output.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def yes_no_whole(output: str) -> str | None:
    """lmms-eval's rule for POPE: the whole output is yes or no, in any case."""
    text = output.lower().strip()
    return text if text in ("yes", "no") else None


def yes_no_mme(output: str) -> str | None:
    """MME's own rule: `yes`, else `no`, among the first four letters; its list of the unreadable is `other`."""
    prefix = output.lower()[:4]
    return "yes" if "yes" in prefix else "no" if "no" in prefix else None


def yes_no_mme_lmms_eval(output: str) -> str | None:
    """lmms-eval's rule for MME: the same without white space around and full stops, and y or n alone will do."""
    text = output.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(text) if len(text) == 1 else yes_no_mme(text)


def yes_no_lenient(output: str) -> str | None:
    """The first of the words yes and no in the final answer, else `no` for a negation; None when there is neither.

    Not to know is neither: `I don't know`, `It is not clear`.
    """
    text = UNDECIDED.sub(" ", final_answer(output).lower().replace("\u2019", "'"))
    words = re.findall(r"[a-z']+", text)
    said = next((word for word in words if word in ("yes", "no", "yeah", "yep", "nope")), None)
    if said is not None:
        return "yes" if said.startswith("y") else "no"
    if len(words) == 1 and words[0] in ("y", "n", "true", "false"):
        return "yes" if words[0] in ("y", "true") else "no"
    return "no" if any(word == "not" or word.endswith("n't") for word in words) else None
