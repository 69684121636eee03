"""Reading an answer out of an output: the published rules as they are, and lenient ones beside them.

A parser returns None when it finds no answer.
"""

from __future__ import annotations

import re
import string

LETTERS = string.ascii_uppercase
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
ANSWER_IS = re.compile(r"\b(?:final\s+)?answer(?:\s+(?:is|would be|should be)\b|\s*:)\s*:?\s*", re.IGNORECASE)
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
