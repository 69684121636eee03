"""Keys and values of images that were asked about lately: the next question about them does not look again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

from torch import Tensor

from dragonfly_lit.spec.layout import Zoom

Key = tuple[tuple[int, ...], tuple[bytes, ...], Zoom]
"""The tokens up to the last image, a digest of each image's file, and how it was looked at."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What the language model keeps of the tokens up to the last image.

    Attributes:
        keys: (1, heads, tokens, width) of every layer.
        values: likewise.
        zoom: of each image its grids, and which high crops were kept with which scores.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    zoom: tuple[dict[str, Any], ...]

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[2]


class Prefixes:
    """The prefixes that were used last, as many as fit.

    Args:
        max_tokens: that all of them hold together at most.

    Attributes:
        hits: how often one was there.
        misses: how often one was computed.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.hits = self.misses = 0
        self._held: OrderedDict[Key, Prefix] = OrderedDict()
        self._tokens = 0
        self._lock = Lock()  # images are prepared by other threads than the one that computes

    def get(self, key: Key) -> Prefix | None:
        """The prefix of these tokens and images, if it is here."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: Key, prefix: Prefix) -> None:
        """Keep a prefix in place of those that were used longest ago."""
        with self._lock:
            if prefix.num_tokens > self.max_tokens or key in self._held:
                return
            self._held[key] = prefix
            self._tokens += prefix.num_tokens
            while self._tokens > self.max_tokens:
                _, dropped = self._held.popitem(last=False)
                self._tokens -= dropped.num_tokens

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._held.clear()
            self._tokens = 0

    def __len__(self) -> int:
        return len(self._held)
