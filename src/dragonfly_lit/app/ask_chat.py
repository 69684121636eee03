"""`ask --chat`: a conversation on the terminal, which the model sees whole each time, images too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL.Image import Image

from dragonfly_lit.spec.samples import Turn

HELP = "/image FILE adds an image to the next question, /new begins anew, /quit or Ctrl-D ends."
Answer = Callable[[Sequence[Turn], Sequence[Image]], str]
"""Writes the answer to the last turn as it comes, and gives its words."""


def chat(
    answer: Answer,
    turn_of: Callable[[str, int], Turn],
    opened: Callable[[Path], list[Image]],
    images: Sequence[Image],
    first: str | None,
) -> int:
    """Exit status of a conversation; what cannot be asked is said, and the conversation goes on without it.

    Args:
        answer: the model.
        turn_of: the user's turn, from its words and the number of its images.
        opened: the pictures of a file that `/image` names.
        images: of the first question.
        first: the first question, None to read it too.
    """
    if sys.stdin.isatty():
        print(HELP)
    turns: list[Turn] = []
    seen: list[Image] = []
    new = list(images)
    while True:
        words, first = (_line() if first is None else first), None
        if words is None or words.strip() == "/quit":
            return 0
        try:
            if words.strip() == "/new":
                turns, seen, new = [], [], []
            elif words.split()[:1] == ["/image"]:
                new += opened(Path(words.strip().removeprefix("/image").strip()))
            elif words.startswith("/"):
                print(f"{words.split()[0]} is not known. {HELP}", file=sys.stderr)
            elif words.strip():
                asked = [*turns, turn_of(words, len(new))]
                said = answer(asked, [*seen, *new])
                turns, seen, new = [*asked, Turn(role="assistant", text=said)], [*seen, *new], []
        except (ValueError, OSError) as error:
            print(f"{' '.join(str(error).split())} (/new begins anew)", file=sys.stderr)


def _line() -> str | None:
    """What the user writes next, None at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
