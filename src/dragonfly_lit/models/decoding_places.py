"""Keys and values in places that stay where they are: buffers, their views by size, and attention that writes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache

IN_PLACE = "in_place_decoding"
"""Name of this module's attention among transformers'; a model has it only while a step is run or captured."""


class NotInPlaceError(Exception):
    """A model, or the state that it is in, cannot be decoded in place; the message says why, and nobody but the log
    sees it: tokens then come by a growing cache."""


def in_place_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    places: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface; the new keys and values go into their places first."""
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "sinks", "position_bias")):
        raise NotInPlaceError(f"{type(module).__name__} changes its scores, which decoding in place does not know")
    keys, values = places.write(module.layer_idx, key, value)
    rows, heads, tokens, width = query.shape
    groups = heads // keys.shape[1]
    # The queries that share a key lie side by side: no key is repeated for them, but the mask of several tokens is.
    grouped = query.reshape(rows, keys.shape[1], groups * tokens, width)
    if attention_mask is not None and tokens > 1 and attention_mask.shape[2] == tokens:
        attention_mask = attention_mask.repeat(1, 1, groups, 1)
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, heads, tokens, out.shape[-1]).transpose(1, 2), None


AttentionInterface.register(IN_PLACE, in_place_attention)


@lru_cache(maxsize=1)
def outside_graphs() -> str:
    """Name of the same attention, left out of what `torch.compile` compiles: it alone differs from block to block."""
    name = f"{IN_PLACE}_outside_graphs"
    AttentionInterface.register(name, torch.compiler.disable(in_place_attention))
    return name


@dataclass(frozen=True, kw_only=True)
class Places:
    """The buffers as a batch of one size sees them; views of `Buffers`. `place` is where the next token goes."""

    keys: list[Float[Tensor, "rows heads places width"]]
    values: list[Float[Tensor, "rows heads places width"]]
    mask: Float[Tensor, "rows places"]
    words: Int[Tensor, " rows"]
    position: Int[Tensor, " rows"]
    place: Tensor
    logits: Float[Tensor, "rows words"]

    def until(self, place: int) -> Places:
        """Without the places from this one on."""
        keys, values = ([part[:, :, :place] for part in parts] for parts in (self.keys, self.values))
        return replace(self, keys=keys, values=values, mask=self.mask[:, :place])

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Puts a token of every row into its place; the keys and values of all places."""
        return self.keys[layer].index_copy_(2, self.place, key), self.values[layer].index_copy_(2, self.place, value)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The places of several tokens a row, from `start` on, after those that are there."""

    places: Places
    rows: int
    start: int
    end: int

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the tokens of every row into their places; the keys and values up to there."""
        both = self.places.keys[layer][: self.rows], self.places.values[layer][: self.rows]
        for old, new in zip(both, (key, value), strict=True):
            old[:, :, self.start : self.end] = new
        return both[0][:, :, : self.end], both[1][:, :, : self.end]


class Buffers:
    """Memory for so many tokens of so many rows, whatever the shape of a batch."""

    def __init__(self, cache: Cache, tokens: int, rows: int, head: nn.Linear, dtype: torch.dtype) -> None:
        self.tokens, self.rows = tokens, rows
        self.shapes = shapes_of(cache)
        device = layers_of(cache)[0].keys.device
        size = {"device": device, "dtype": dtype}
        # Zeros: a place that the mask hides is multiplied by nothing, which is not enough where memory holds a NaN.
        self.keys = [torch.zeros(tokens * heads * width, **size) for heads, width, _ in self.shapes]
        self.values = [torch.zeros(tokens * heads * width, **size) for heads, _, width in self.shapes]
        self.mask = torch.zeros(tokens, **size)
        self.words = torch.zeros(rows, dtype=torch.long, device=device)
        self.position = torch.zeros(rows, dtype=torch.long, device=device)
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.logits = torch.zeros(rows, head.weight.shape[0], **size)

    def seen_as(self, rows: int, places: int) -> Places:
        def view(flat: Tensor, heads: int, width: int) -> Tensor:
            return flat[: rows * heads * places * width].view(rows, heads, places, width)

        return Places(
            keys=[view(flat, heads, width) for flat, (heads, width, _) in zip(self.keys, self.shapes, strict=True)],
            values=[view(flat, heads, width) for flat, (heads, _, width) in zip(self.values, self.shapes, strict=True)],
            mask=self.mask[: rows * places].view(rows, places),
            words=self.words[:rows],
            position=self.position[:rows],
            place=self.place,
            logits=self.logits[:rows],
        )


def layers_of(cache: Cache) -> list[Any]:
    """The layers of a cache that `InPlaceDecoder` has looked over: each has keys and values, which no type says."""
    return list(cache.layers)


def shapes_of(cache: Cache) -> list[tuple[int, int, int]]:
    """Heads, width of a key and width of a value of every layer."""
    return [(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers_of(cache)]


def fill(places: Places, cache: Cache, mask: Tensor, position: Tensor, owner: Sequence[int] | None = None) -> None:
    """Puts what a cache holds into the first places, where the next token of every row will look.

    Args:
        places: of as many rows as `mask` has, or more.
        cache: keys and values of what was read.
        mask: (rows, tokens) whether a row sees a token of it.
        position: of the next token of each row.
        owner: the row of the cache that each row goes on from; its own without.
    """
    rows, tokens = mask.shape
    chosen = None if owner is None or list(owner) == list(range(rows)) else torch.tensor(owner, device=mask.device)
    for keys, values, layer in zip(places.keys, places.values, layers_of(cache), strict=True):
        for old, new in ((keys, layer.keys), (values, layer.values)):
            if chosen is None:
                old[:rows, :, :tokens] = new
            elif new.is_cuda:
                old[:rows, :, :tokens] = new[chosen]
            else:  # a copy less, for a call more
                for row, number in enumerate(owner or ()):
                    old[row, :, :tokens] = new[number]
    hidden = torch.finfo(places.mask.dtype).min
    places.mask.fill_(hidden)
    places.mask[:rows, :tokens].masked_fill_(mask, 0.0)
    places.position.zero_()
    places.position[:rows] = position
    places.words.zero_()
    places.place.fill_(tokens)
