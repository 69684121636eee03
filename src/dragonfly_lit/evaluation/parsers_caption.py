"""Words of a caption, as coco-caption's Java tokeniser splits them; in Python, so that no Java is needed.

The Java pipeline is Stanford's Penn Treebank tokeniser in lower case, then a list of punctuation is dropped. Brackets
stay, as `-lrb-`: that list names them in capitals, which the lower case never matches.
"""

from __future__ import annotations

import re
from functools import lru_cache

DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'})
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
ABBREVIATIONS = frozenset(
    f"{word}."
    for word in re.findall(
        r"\w+",
        "approx apr aug co corp dec dept dr est etc feb fig inc jan jr jul jun ltd mar mr mrs ms no nov oct prof sep "
        "sept sr st vs",
    )
)
INITIALS = re.compile(r"(?:[a-z]\.)+")
CLITIC = re.compile(r"'(?:s|re|ve|ll|d|m)")


@lru_cache(maxsize=1)
def _treebank():
    try:
        from nltk.tokenize.treebank import TreebankWordTokenizer
    except ModuleNotFoundError as error:
        raise ValueError("caption metrics need nltk: pip install 'dragonfly_lit[eval]'.") from error
    return TreebankWordTokenizer()


def caption_words(text: str) -> list[str]:
    """The words of one caption."""
    words: list[str] = []
    for token in _treebank().tokenize(" ".join(text.lower().split())):
        word = BRACKETS.get(token, token)
        if word == "." and words and _keeps_full_stop(f"{words[-1]}."):
            words[-1] += "."
        if word.endswith(".") and not _keeps_full_stop(word):
            word = word.rstrip(".")
        if not CLITIC.fullmatch(word):
            word = word.strip("'`\"")
        if word and word not in DROPPED:
            words.append(word)
    return words


def _keeps_full_stop(word: str) -> bool:
    return word in ABBREVIATIONS or INITIALS.fullmatch(word) is not None
