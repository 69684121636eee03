"""Which token comes next: the likeliest, or one drawn by a generator of the answer's own."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of an answer are chosen.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: tokens are drawn from the likeliest that together have so much probability.
        seed: of the drawing; None draws otherwise every time.
        logprobs: how many of the likeliest tokens are reported with their log-probabilities; 0 the chosen one alone,
            None nothing.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int | None = None


COLDEST = 1e-6
"""The least temperature that is divided by; below, the likeliest token has all of the chance anyway."""


class NotFiniteError(Exception):
    """The model gave no numbers to choose by."""

    def __init__(self) -> None:
        super().__init__("the model's logits are not finite")


class Chosen(NamedTuple):
    """A token; and where log-probabilities are asked for, its own and those of the likeliest ones."""

    word: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer.

    Args:
        sampling: how.
        index: of the answer among those to one request: each is drawn by itself.
    """

    def __init__(self, sampling: Sampling, index: int = 0) -> None:
        self.sampling = sampling
        self._draw: torch.Generator | None = None
        if sampling.temperature > 0:
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=7).digest()
            self._draw = torch.Generator().manual_seed(int.from_bytes(digest, "big"))

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is all that is asked for."""
        return self._draw is None and self.sampling.logprobs is None

    def choose(self, logits: Float[Tensor, " words"]) -> Chosen:
        """The next token, from logits on the host."""
        word = int(logits.argmax()) if self._draw is None else self._drawn(logits)
        if self.sampling.logprobs is None:
            return Chosen(word)
        known = logits.log_softmax(-1)
        values, words = known.topk(min(self.sampling.logprobs, len(known)))
        pairs = zip(words.tolist(), values.tolist(), strict=True)
        return Chosen(word, float(known[word]), tuple((w, v) for w, v in pairs if v > float("-inf")))

    def _drawn(self, logits: Float[Tensor, " words"]) -> int:
        # From the largest one down: a cold temperature would else be an infinity less an infinity.
        chances = ((logits - logits.max()) / max(self.sampling.temperature, COLDEST)).softmax(-1)
        if self.sampling.top_p < 1:
            ordered, words = chances.sort(descending=True, stable=True)
            # A token counts where those before it have not reached top_p; so the first one always does.
            ordered = ordered * (ordered.cumsum(0) - ordered < max(self.sampling.top_p, 1e-9))
            return int(words[torch.multinomial(ordered, 1, generator=self._draw)])
        return int(torch.multinomial(chances, 1, generator=self._draw))


def choose_all(
    logits: Float[Tensor, "rows words"], samplers: Sequence[Sampler], never: Tensor
) -> list[Chosen | NotFiniteError]:
    """The next token of every row; rows that want no more than the likeliest are looked at in one go.

    Args:
        logits: of every row.
        samplers: of every row.
        never: tokens that are not said.

    Returns:
        Of a row whose logits are infinite or no numbers, an error in place of its token.
    """
    logits = logits.float().index_fill(1, never, float("-inf"))
    best, likeliest = logits.max(-1)  # where one is not a number, so is the largest
    words = likeliest.where(best.isfinite(), -1).tolist()
    if not all(sampler.plain for sampler in samplers):
        logits = logits.cpu()
    return [
        NotFiniteError() if word < 0 else Chosen(word) if sampler.plain else sampler.choose(logits[row])
        for row, (word, sampler) in enumerate(zip(words, samplers, strict=True))
    ]
