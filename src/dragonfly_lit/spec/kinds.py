"""Kinds of what is learnt from a question: its caption, or its answer; a run tells their losses apart."""

from __future__ import annotations

from collections.abc import Sequence

from dragonfly_lit.spec.samples import Turn

PROMPTS: dict[str, tuple[str, ...]] = {
    "caption": (
        "Describe the image.",
        "What does the image show?",
        "Write a caption for this image.",
        "Give a short description of the image.",
        "What can be seen here?",
        "Summarise the content of the image.",
    ),
    "medical_caption": (
        "Describe the medical image.",
        "What does this medical image show?",
        "Write a caption for this figure.",
        "Summarise the findings that are visible in the image.",
        "Which modality and which findings does it show?",
    ),
}
"""Named sets of questions for sources of captions."""

CAPTIONS, ANSWERS = "captions", "answers"
"""Kinds: what is said to a prompt of `PROMPTS`, or of a record without a question, and everything else."""
_ASK_FOR_CAPTIONS = frozenset(text for texts in PROMPTS.values() for text in texts)


def kinds_of(turns: Sequence[Turn], *, is_caption: bool = False, share_image: bool = False) -> tuple[str, ...]:
    """The kind of a conversation, or of each of the questions that share its images.

    A conversation of several questions is one of answers, whatever it begins with.

    Args:
        turns: of the conversation.
        is_caption: whether it came without a question.
        share_image: whether each question stands for itself.
    """
    asked = [is_caption or turn.text.strip() in _ASK_FOR_CAPTIONS for turn in turns if turn.role == "user"]
    if not share_image:
        asked = [len(asked) == 1 and asked[0]]
    return tuple(CAPTIONS if caption else ANSWERS for caption in asked)
