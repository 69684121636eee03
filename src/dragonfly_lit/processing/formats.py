"""How a conversation becomes tokens: Llama-3's headers, or the template that a language model brings.

Training, evaluation, `ask` and the processor all ask the one format of a run, so none of them can write a conversation
otherwise than the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from dragonfly_lit.processing.encoding import (
    Branches,
    Spoken,
    TokenizedText,
    add_structural_tokens,
    branched,
    tokenize,
)
from dragonfly_lit.processing.own_format import OwnFormat, add_image_tokens
from dragonfly_lit.processing.prompts import render
from dragonfly_lit.spec.samples import Turn
from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, SpecialIds, special_ids

LLAMA3, OWN = "llama3", "own"
FRONT, IN_PLACE = "front", "in_place"


@runtime_checkable
class ChatFormat(Protocol):
    """What is asked of a format.

    Attributes:
        name: `llama3` or `own`.
        template: the Jinja that writes it, or "" where that is this package's own.
        ids: of the special tokens.
        opening: what stands between the images in front and the first turn.
        closing: what `supervise=all` puts behind the last turn.
        in_place: whether images stand in their turns, as the image token, and not in front.
    """

    name: str
    in_place: bool
    template: str
    ids: SpecialIds
    opening: list[int]
    closing: list[int]

    def spoken(self, turns: Sequence[Turn]) -> Spoken:
        """A finished conversation as tokens, without `opening`."""
        ...

    def branches(self, system: Sequence[Turn], pairs: Sequence[Sequence[Turn]]) -> Branches:
        """Several questions with their answers after the same beginning."""
        ...

    def text(self, turns: Sequence[Turn]) -> str:
        """The turns and then the beginning of an answer, as text without `opening`."""
        ...

    def prompt(self, turns: Sequence[Turn]) -> TokenizedText:
        """The tokens of `text`, `opening` before them."""
        ...

    def read(self, text: str) -> TokenizedText:
        """The tokens of a text in this format, its answers and its question marked."""
        ...


class Llama3Format:
    """The released one; see `processing.prompts`.

    Args:
        tokenizer: a fast one that knows the structural tokens.
        in_place: whether images stand where they do in their turns, and not in front.

    Raises:
        ValueError: it lacks some.
    """

    name, template = LLAMA3, ""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, in_place: bool = False) -> None:
        self.tokenizer, self.ids, self.in_place = tokenizer, special_ids(tokenizer), in_place
        self.opening: list[int] = [tokenizer.get_vocab()[BEGIN_OF_TEXT]]
        self.closing: list[int] = [self.ids.end]

    def spoken(self, turns: Sequence[Turn]) -> Spoken:
        tokenized = self.read(render(turns, in_place=self.in_place))
        # A text holds no structural token of its own, so each turn ends at its `<|eot_id|>` and nowhere else.
        ends = [place + 1 for place, token in enumerate(tokenized.ids) if token == self.ids.end_of_turn]
        return Spoken(tokenized, [0, *ends])

    def branches(self, system: Sequence[Turn], pairs: Sequence[Sequence[Turn]]) -> Branches:
        if not self.in_place:
            return Branches(self.spoken(system).text, [self.spoken(pair).text for pair in pairs])
        return branched([self.spoken([*system, *pair]).text for pair in pairs], self.ids.image)

    def text(self, turns: Sequence[Turn]) -> str:
        return render(turns, answer_next=True, in_place=self.in_place)

    def prompt(self, turns: Sequence[Turn]) -> TokenizedText:
        prompt = TokenizedText()
        prompt.extend(self.opening)
        prompt.append(self.read(self.text(turns)))
        return prompt

    def read(self, text: str) -> TokenizedText:
        return tokenize(self.tokenizer, text)

    def __deepcopy__(self, memo: Any) -> Llama3Format:
        return self  # it never changes, and a tokenizer is large


def chat_format(
    tokenizer: PreTrainedTokenizerBase, template: str | None = None, *, where: str = "", in_place: bool = False
) -> ChatFormat:
    """The format of a tokenizer, which is taught the tokens that it needs and lacks.

    Args:
        tokenizer: a fast one.
        template: Jinja; None is Llama-3's headers.
        where: starts the line of an error, as `language.chat=own`.
        in_place: whether images stand where they do in their turns, and not in front.

    Raises:
        ValueError: what is to be learnt cannot be told exactly from what the template writes.
    """
    if template is None:
        add_structural_tokens(tokenizer)
        return Llama3Format(tokenizer, in_place=in_place)
    add_image_tokens(tokenizer, where)
    return OwnFormat(tokenizer, template, where=where, in_place=in_place)


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template that a tokenizer brings.

    Raises:
        ValueError: it has none.
    """
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ValueError(
            "language.chat=own: the tokenizer brings no chat template. Give language.chat=FILE.jinja, or llama3."
        )
    return template
