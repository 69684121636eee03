"""Text to token ids with the answer and the question marked, images expanded in place.

The whole text goes through the tokenizer at once, so the ids are those of the rendered text; what a token belongs to
follows from its character offsets. Structural tokens split the text, so turns tokenised apart give the same ids.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dragonfly_lit.processing.prompts import find_turns
from dragonfly_lit.spec.layout import Layout
from dragonfly_lit.spec.tokens import END_OF_TEXT, STRUCTURAL, SpecialIds


@dataclass(kw_only=True)
class TokenizedText:
    """Token ids, and for each whether it is supervised (an answer and its end) and whether it is of the question."""

    ids: list[int] = field(default_factory=list)
    answer: list[bool] = field(default_factory=list)
    question: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, ids: Iterable[int], *, answer: bool = False, question: bool = False) -> None:
        before = len(self.ids)
        self.ids.extend(ids)
        added = len(self.ids) - before
        self.answer.extend([answer] * added)
        self.question.extend([question] * added)

    def first(self, count: int) -> TokenizedText:
        """The first `count` tokens."""
        return TokenizedText(ids=self.ids[:count], answer=self.answer[:count], question=self.question[:count])

    def append(self, other: TokenizedText) -> None:
        self.ids.extend(other.ids)
        self.answer.extend(other.answer)
        self.question.extend(other.question)

    def after(self, count: int) -> TokenizedText:
        """The tokens behind the first `count`."""
        return TokenizedText(ids=self.ids[count:], answer=self.answer[count:], question=self.question[count:])


class Spoken(NamedTuple):
    """A finished conversation.

    Attributes:
        text: its tokens.
        ends: how many of them the first n turns take, by n. A template that writes its last turn otherwise than the
            same turn in the middle may take more for them alone.
    """

    text: TokenizedText
    ends: list[int]


class Branches(NamedTuple):
    """What questions about the same images share, and each question with its answer."""

    trunk: TokenizedText
    parts: list[TokenizedText]


def add_structural_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Teach any tokenizer the structural tokens it lacks, and pad with `<|end_of_text|>`; how many are new."""
    known = tokenizer.get_vocab()
    missing = [token for token in STRUCTURAL if token not in known]
    num_added = tokenizer.add_tokens(missing, special_tokens=True)
    tokenizer.pad_token = END_OF_TEXT
    return num_added


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> TokenizedText:
    """The tokens of a text in the Llama-3 format: no `<|begin_of_text|>` is added, no image expanded.

    An answer is the text of an assistant's turn with its `<|eot_id|>`. The question is the text of the user's turns
    before the first answer; text without any header is a question as a whole.
    """
    spans = find_turns(text)
    answers = [(s.start, s.close) for s in spans if s.role == "assistant"]
    first_answer = answers[0][0] if answers else len(text)
    questions = [(s.start, s.end) for s in spans if s.role == "user" and s.start < first_answer]
    return mark(tokenizer, text, answers, questions if spans else [(0, len(text))]).text


def mark(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    answers: Sequence[tuple[int, int]],
    questions: Sequence[tuple[int, int]],
) -> TokensAndEnds:
    """The tokens of a text, with those of some of its places marked.

    Args:
        tokenizer: a fast one.
        text: goes through it at once.
        answers: where answers start and where their ends do end, in characters.
        questions: likewise.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # Only the ends count: byte-level tokenizers may trim white space from a token's start.
    ends = [end for _, end in encoded["offset_mapping"]]
    tokenized = TokenizedText(
        ids=list(encoded["input_ids"]), answer=_inside(ends, answers), question=_inside(ends, questions)
    )
    return TokensAndEnds(tokenized, ends)


class TokensAndEnds(NamedTuple):
    """The tokens of a text, and where each of them ends in it."""

    text: TokenizedText
    ends: list[int]


def _inside(ends: list[int], spans: Sequence[tuple[int, int]]) -> list[bool]:
    inside = [False] * len(ends)
    for start, end in spans:
        first, last = bisect_right(ends, start), bisect_right(ends, end)
        inside[first:last] = [True] * (last - first)
    return inside


def expand_images(tokenized: TokenizedText, layout: Layout, ids: SpecialIds) -> TokenizedText:
    """`tokenized` with each image placeholder replaced by the tokens of an image, none of them supervised."""
    image = layout.image_ids(ids.image, ids.newline)
    expanded = TokenizedText()
    for token, answer, question in zip(tokenized.ids, tokenized.answer, tokenized.question, strict=True):
        if token == ids.image:
            expanded.extend(image)
        else:
            expanded.extend([token], answer=answer, question=question)
    return expanded


def expand_spoken(spoken: Spoken, layout: Layout, ids: SpecialIds) -> Spoken:
    """`spoken` with each image placeholder replaced by the tokens of an image."""
    grown = accumulate((layout.num_tokens if token == ids.image else 1 for token in spoken.text.ids), initial=0)
    lengths = list(grown)
    return Spoken(expand_images(spoken.text, layout, ids), [lengths[end] for end in spoken.ends])


def branched(whole: Sequence[TokenizedText], image: int) -> Branches:
    """Conversations, each with its own question, cut where they begin to differ.

    Args:
        whole: the conversations.
        image: id of the image token.
    """
    num = _shared_beginning(whole, image)
    return Branches(whole[0].first(num) if whole else TokenizedText(), [text.after(num) for text in whole])


def forked(whole: Sequence[TokenizedText]) -> Branches:
    """Conversations with other last answers, cut one token before the first that differs or is supervised.

    So each branch begins with the token that predicts the first one of its answer.
    """
    answers = (text.answer.index(True) if True in text.answer else len(text) for text in whole)
    first = whole[0].ids
    num = max(0, min(min(_num_common(first, text.ids) for text in whole), *answers) - 1)
    return Branches(whole[0].first(num), [text.after(num) for text in whole])


def _shared_beginning(whole: Sequence[TokenizedText], image: int) -> int:
    """How many tokens texts have in common, up to the first word of a question; images before it are among them."""

    def limit(text: TokenizedText) -> int:
        marked = zip(text.ids, text.question, text.answer, strict=True)
        return next((n for n, (token, q, a) in enumerate(marked) if a or (q and token != image)), len(text))

    num = min(map(limit, whole), default=0)
    first = whole[0].ids if whole else []
    return min((_num_common(first[:num], text.ids) for text in whole), default=0)


def _num_common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def to_row(values: list[int] | list[bool]) -> Int[Tensor, " tokens"] | Bool[Tensor, " tokens"]:
    """What `TokenizedText` lists, as a tensor: by numpy, which takes a tenth of torch's time over a list."""
    return torch.from_numpy(np.array(values))
