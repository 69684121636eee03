"""Turns to Llama-3 text, and which part of that text is a question and which an answer.

A turn is `<|start_header_id|>ROLE<|end_header_id|>`, a blank line, its text without surrounding space, `<|eot_id|>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dragonfly_lit.spec.samples import Role, Turn
from dragonfly_lit.spec.tokens import END_HEADER, END_OF_TURN, IMAGE, START_HEADER, STRUCTURAL

_TURN = re.compile(
    rf"{re.escape(START_HEADER)}(?P<role>.*?){re.escape(END_HEADER)}\n\n"
    rf"(?P<text>.*?)(?P<end>{re.escape(END_OF_TURN)}|(?={re.escape(START_HEADER)})|\Z)",
    re.DOTALL,
)

_HALF = re.compile("[\ud800-\udfff]")


class Span(NamedTuple):
    """One turn inside a text, as character offsets.

    Attributes:
        role: whose turn it is.
        start: where its text starts, after the header.
        end: where its text ends.
        close: where its `<|eot_id|>` ends; equals `end` for a turn left open.
    """

    role: str
    start: int
    end: int
    close: int


def header(role: Role) -> str:
    """What opens a turn of `role`."""
    return f"{START_HEADER}{role}{END_HEADER}\n\n"


def render(turns: Sequence[Turn], *, answer_next: bool = False, in_place: bool = False) -> str:
    """The turns as one text, without images and `<|begin_of_text|>`.

    Args:
        turns: in the order of the conversation.
        answer_next: whether the text ends with the open header of the assistant.
        in_place: whether the image token stands where an image does.

    Raises:
        ValueError: a turn's text holds a structural token, which a tokenizer would take for one, or half of a
            surrogate pair, which a tokenizer cannot take.
    """
    check_texts(turns, STRUCTURAL)
    text = "".join(f"{header(turn.role)}{words(turn, in_place)}{END_OF_TURN}" for turn in turns)
    return text + header("assistant") * answer_next


def words(turn: Turn, in_place: bool) -> str:
    """What is written of a turn: its text without surrounding space, and with its images where they stand if asked."""
    return turn.with_images(IMAGE) if in_place else turn.text.strip()


def check_texts(turns: Sequence[Turn], structural: Sequence[str]) -> None:
    """ValueError for a text that a tokenizer cannot take, or of which it would take a part for structure.

    Args:
        turns: of the conversation.
        structural: the tokens that texts may not hold.
    """
    for turn in turns:
        if not turn.text.isascii() and (half := _HALF.search(turn.text)):
            raise ValueError(
                f"the text of a turn of role {turn.role} holds half a character, {half[0]!r} at place {half.start()}. "
                "Write the text anew in UTF-8."
            )
        if found := next((token for token in structural if token in turn.text), None):
            raise ValueError(f"the text of a turn of role {turn.role} holds the structural token {found}. Take it out.")


def question_text(question: str, *, system: str | None = None) -> str:
    """The prompt that asks one question and leaves the answer to the model, as the released code formats it."""
    turns = [Turn(role="system", text=system)] if system else []
    return render([*turns, Turn(role="user", text=question)], answer_next=True)


def find_turns(text: str) -> list[Span]:
    """The turns of a text that `render` made, or of any other in its format."""
    return [Span(m["role"], m.start("text"), m.end("text"), m.end("end")) for m in _TURN.finditer(text)]
