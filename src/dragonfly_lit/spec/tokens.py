"""The special tokens that Dragonfly gives a meaning to, their ids, and the label that the loss ignores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

IGNORE = -100
"""Label of a position without a target; `torch.nn.functional.cross_entropy` skips it by default."""

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
"""Padding in every released encoding, and the closing token of the released training text."""
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_TURN = "<|eot_id|>"

IMAGE = "<|reserved_special_token_0|>"
"""Slot of one image token: its embedding is replaced by a projected feature of the vision tower."""
NEWLINE = "<|reserved_special_token_1|>"
"""Closes every crop; its ordinary word embedding is used."""

STRUCTURAL = (BEGIN_OF_TEXT, END_OF_TEXT, START_HEADER, END_HEADER, END_OF_TURN, IMAGE, NEWLINE)
"""Every token that a tokenizer must know as one piece before Dragonfly can use it."""


@runtime_checkable
class Vocabulary(Protocol):
    """What is asked of a tokenizer here."""

    def get_vocab(self) -> Any:
        """The id of every token."""
        ...


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Ids of the special tokens that sequences are built from, and with which an answer ends.

    Attributes:
        image: slot of one image feature.
        newline: closes every crop.
        begin: of a text, where the tokenizer has one.
        end: of a text.
        end_of_turn: of an answer.
        padding: fills rows up.
    """

    image: int
    newline: int
    begin: int | None
    end: int
    end_of_turn: int
    padding: int


def special_ids(tokenizer: Vocabulary) -> SpecialIds:
    """Ids of the special tokens.

    Raises:
        ValueError: the tokenizer lacks a structural token.
    """
    known = tokenizer.get_vocab()
    if missing := [token for token in STRUCTURAL if token not in known]:
        raise ValueError(
            f"the tokenizer lacks {', '.join(missing)}. Add them with "
            "dragonfly_lit.processing.encoding.add_structural_tokens(tokenizer), and give the language model as many "
            "embeddings; DragonflyForConditionalGeneration.from_backbones enlarges it to fit."
        )
    return SpecialIds(
        image=known[IMAGE],
        newline=known[NEWLINE],
        begin=known[BEGIN_OF_TEXT],
        end=known[END_OF_TEXT],
        end_of_turn=known[END_OF_TURN],
        padding=known[END_OF_TEXT],
    )
