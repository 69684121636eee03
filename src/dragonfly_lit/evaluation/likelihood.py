"""The likelihoods of whole choices: the prompt is read once, and its keys and values are repeated for every choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from dragonfly_lit.processing.encoding import Spoken


def ending(spoken: Spoken) -> tuple[int, ...]:
    """The tokens of the last answer of a conversation, and of the end of its turn."""
    end = start = spoken.ends[-1]
    while start and spoken.text.answer[start - 1]:
        start -= 1
    return tuple(spoken.text.ids[start:end])


def of_endings(
    endings: Sequence[Sequence[Sequence[int]]],
    *,
    logits: Float[Tensor, "rows words"],
    mask: Bool[Tensor, "rows tokens"],
    position: Int[Tensor, " rows"],
    cache: Any,
    forward: Callable[..., Any],
) -> list[list[list[float]]]:
    """The logarithm of the likelihood of each token of each ending, by row and ending.

    Args:
        endings: the endings of each row, one at least.
        logits: behind each row's prompt.
        mask: which places of the cache count.
        position: of each row's next token.
        cache: keys and values of the prompts; it is used up.
        forward: of ids, mask, positions, the cache and how many places' logits to give (0: all).
    """
    owner = torch.tensor([row for row, of in enumerate(endings) for _ in of], device=logits.device)
    flat = [ending for of in endings for ending in of]
    width = max(map(len, flat)) - 1  # behind the last token nothing is asked
    first, rest = logits[owner], None
    if width:
        cache.batch_select_indices(owner)
        ids = torch.tensor([[*ending[:-1], *[0] * (width + 1 - len(ending))] for ending in flat], device=logits.device)
        lengths = torch.tensor([len(ending) - 1 for ending in flat], device=logits.device)
        steps = torch.arange(width, device=logits.device)
        seen = torch.cat([mask[owner], steps < lengths[:, None]], dim=1)
        rest = forward(ids, seen, position[owner, None] + steps, past_key_values=cache, logits_to_keep=0).logits
    found = []
    for number, ending in enumerate(flat):  # row by row: a copy of all logits in float32 would be large
        rows = [first[number][None], *([] if rest is None else [rest[number, : len(ending) - 1]])]
        spoken = torch.tensor(ending, device=logits.device)
        found.append((-functional.cross_entropy(torch.cat(rows).float(), spoken, reduction="none")).tolist())
    each = iter(found)
    return [[next(each) for _ in of] for of in endings]
