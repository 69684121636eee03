"""Keys and values of rows that are answered together, which come and go between two tokens.

Every row has its tokens from the first place on, and writes the next one behind its own last one: there is no padding,
and no row sees a place of another. So what a row answers does not depend on who else is there.
"""

from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dragonfly_lit.models.decoding import InPlaceDecoder
from dragonfly_lit.models.decoding_places import IN_PLACE

log = logging.getLogger(__name__)

WIDTH = 64
"""The places of the buffers are a multiple of it, so that they do not grow with every row."""


@runtime_checkable
class Rows(Protocol):
    """What the engine asks of those who hold the rows. A row's number is its place in `lengths`."""

    lengths: list[int]

    def join(self, cache: DynamicCache, steps: int) -> None:
        """Add a row at the end: what the model has read of its prompt, and how many tokens may follow."""
        ...

    def leave(self, row: int) -> None:
        """Take a row out; the last one gets its number."""
        ...

    def step(self, words: list[int]) -> Float[Tensor, "rows words"]:
        """The logits after one more token of every row."""
        ...

    def clear(self) -> None:
        """Take all rows out, and give back their memory."""
        ...


def rows_of(model: Any, max_tokens: int) -> Rows:
    """Rows side by side in one buffer; each by itself, which is said, where a language model does not go along."""
    if not InPlaceDecoder(model).suits():  # says why
        return _separate(model, "its attention does not take rows side by side")
    try:
        device = model.device
        with torch.inference_mode():
            cache = DynamicCache(config=model.config.get_text_config(decoder=True))
            ids = torch.zeros(1, 2, dtype=torch.long, device=device)
            model.get_decoder()(inputs_embeds=model.get_input_embeddings()(ids), past_key_values=cache, use_cache=True)
            rows = SharedRows(model, max_tokens)
            rows.join(cache, 2)
            rows.step([0])
            rows.clear()
    except Exception as error:  # whatever a library raises: rows by themselves are slower and as right
        return _separate(model, " ".join(str(error).split())[:200])
    return rows


def _separate(model: Any, why: str) -> SeparateRows:
    log.warning("requests are computed one after the other, token by token: %s", why)
    return SeparateRows(model)


def take_out(held: list[Any], row: int) -> None:
    """Take a row out of a list of all of them, as `Rows.leave` does."""
    held[row] = held[-1]
    held.pop()


class SharedRows:
    """All rows in one buffer a layer: a token of all of them is one pass.

    Args:
        model: a Dragonfly whose language model can attend in place.
        max_tokens: rows times places, beyond which no room is made ahead.
    """

    def __init__(self, model: Any, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.decoder, self.embed = model.get_decoder(), model.get_input_embeddings()
        self.head, self.device = model.get_output_embeddings(), model.device
        self.lengths: list[int] = []
        self._ends: list[int] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def join(self, cache: DynamicCache, steps: int) -> None:
        layers: list[Any] = list(cache.layers)
        length, row = layers[0].keys.shape[2], len(self.lengths)
        self._make_room(layers, row + 1, max([length + steps, *self._ends]))
        for buffers, name in ((self._keys, "keys"), (self._values, "values")):
            for buffer, layer in zip(buffers, layers, strict=True):
                buffer[row, :, :length] = getattr(layer, name)[0]
        self.lengths.append(length)
        self._ends.append(length + steps)

    def _make_room(self, layers: list[Any], rows: int, places: int) -> None:
        have = self._keys[0].shape if self._keys else (0, 0, 0, 0)
        if have[0] >= rows and have[2] >= places:
            return
        # As wide as the rows that are here need it: those of a long one that has left are given back.
        places = -(-places // WIDTH) * WIDTH
        rows = max(rows, min(2 * have[0], self.max_tokens // places))
        num, until = len(self.lengths), max(self.lengths, default=0)
        grown: list[list[Tensor]] = []
        for name, before in (("keys", self._keys), ("values", self._values)):
            made = []
            for number, layer in enumerate(layers):
                like = getattr(layer, name)
                # Zeros: a hidden place is multiplied by nothing, which is not enough where memory holds a NaN.
                made.append(like.new_zeros(rows, like.shape[1], places, like.shape[3]))
                if num:
                    made[-1][:num, :, :until] = before[number][:num, :, :until]
            grown.append(made)
        self._keys, self._values = grown  # both at once: whoever runs out of memory above has lost nothing

    def leave(self, row: int) -> None:
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for buffer in (*self._keys, *self._values):
                buffer[row, :, :length] = buffer[last, :, :length]
        take_out(self.lengths, row)
        take_out(self._ends, row)

    def step(self, words: list[int]) -> Float[Tensor, "rows words"]:
        num, until = len(self.lengths), max(self.lengths) + 1
        places = torch.tensor(self.lengths, device=self.device)
        ids = torch.tensor(words, device=self.device)
        seen = torch.arange(until, device=self.device)[None] <= places[:, None]
        mask = torch.zeros(num, until, dtype=self._keys[0].dtype, device=self.device)
        mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)
        self._number, self._places, self._until = torch.arange(num, device=self.device), places, until
        config, before = self.decoder.config, self.decoder.config._attn_implementation
        config._attn_implementation = IN_PLACE
        try:
            hidden = self.decoder(
                inputs_embeds=self.embed(ids[:, None]),
                attention_mask=mask[:, None, None, :],  # transformers hands a mask of four axes through as it is
                position_ids=places[:, None],
                use_cache=False,
                places=self,
            ).last_hidden_state
        finally:
            config._attn_implementation = before
        self.lengths = [length + 1 for length in self.lengths]
        return self.head(hidden[:, -1])

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the keys and values of one token a row where they belong; all that a row of this length may see."""
        num = len(self.lengths)
        found = []
        for buffer, new in ((self._keys[layer], key), (self._values[layer], value)):
            buffer[self._number, :, self._places] = new[:, :, 0]
            found.append(buffer[:num, :, : self._until])
        return found[0], found[1]

    def clear(self) -> None:
        self.lengths, self._ends, self._keys, self._values = [], [], [], []


class SeparateRows:
    """Every row with a cache of its own, one after the other.

    Args:
        model: any Dragonfly.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.lengths: list[int] = []
        self._caches: list[DynamicCache] = []

    def join(self, cache: DynamicCache, steps: int) -> None:
        if any(cache is held for held in self._caches):  # another answer to the same prompt
            cache = deepcopy(cache)
        self.lengths.append(cache.get_seq_length())
        self._caches.append(cache)

    def leave(self, row: int) -> None:
        take_out(self.lengths, row)
        take_out(self._caches, row)

    def step(self, words: list[int]) -> Float[Tensor, "rows words"]:
        logits = []
        for row, word in enumerate(words):
            ids = torch.tensor([[word]], device=self.model.device)
            output = self.model(input_ids=ids, past_key_values=self._caches[row], use_cache=True, logits_to_keep=1)
            logits.append(output.logits[:, -1])
            self.lengths[row] += 1
        return torch.cat(logits)

    def clear(self) -> None:
        self.lengths, self._caches = [], []
