"""What makes the likelihoods of long and short choices comparable.

`tokens` is the rule of V*Bench's script and what lmms-eval calls `acc` for LLaVA; `none` and `characters` are
lm-evaluation-harness' `acc` and `acc_norm`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LENGTHS: Mapping[str, str] = {
    "tokens": "mean over its tokens and the end of the turn",
    "characters": "sum over its tokens, divided by its letters",
    "none": "sum over its tokens",
}
"""The ways, each in words."""
DIGITS = 5
"""Decimals of a likelihood: choices that agree in all of them tie, and the first one is taken."""


def comparable(likelihoods: Sequence[float], text: str, length: str) -> float:
    """One number of a choice's tokens, the last of which ends the turn.

    Args:
        likelihoods: the logarithm of each token's.
        text: of the choice.
        length: one of `LENGTHS`.
    """
    if length == "tokens":
        return round(math.fsum(likelihoods) / len(likelihoods), DIGITS)
    alone = math.fsum(likelihoods[:-1])
    return round(alone / max(1, len(text)) if length == "characters" else alone, DIGITS)
