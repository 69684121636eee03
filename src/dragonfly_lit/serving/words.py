"""The words of one answer as text, piece by piece as they come, up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\ufffd"
"""What a tokenizer writes for bytes that are not a whole character, or not yet."""


class AnswerText:
    """Takes tokens, gives text that will not change any more.

    A character whose bytes are spread over tokens waits for the last of them; what may be the beginning of a stop
    string waits until it is one, or is not.

    Args:
        tokenizer: of the model.
        stops: texts that end the answer; they are not part of it.

    Attributes:
        stopped: whether a stop string has ended the answer.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._words: list[int] = []
        # A token may read otherwise after another: the new ones are decoded behind some that have been given already.
        self._before = self._given = 0
        self._held = ""

    def push(self, word: int) -> str:
        """The text that one more token has made certain; often that of this token."""
        self._words.append(word)
        text = self._new()
        if text.endswith(UNFINISHED):
            return ""
        self._before, self._given = self._given, len(self._words)
        return self._release(text)

    def finish(self) -> str:
        """The text that was held back, once no token follows."""
        if self.stopped:
            return ""
        text, self._given = self._new(), len(self._words)
        piece = self._release(text)
        if not self.stopped:
            piece, self._held = piece + self._held, ""
        return piece

    def _new(self) -> str:
        known = self._decode(self._words[self._before : self._given])
        return self._decode(self._words[self._before :])[len(known) :]

    def _decode(self, words: list[int]) -> str:
        return self._tokenizer.decode(words, skip_special_tokens=True)

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = max((_beginning_at_end(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _beginning_at_end(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the first ones of `stop`, which is not in it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
