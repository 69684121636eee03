"""A prompt through the model once: the cache that its answer begins with, and the logits of its first token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from dragonfly_lit.processing.batches import stack_crops
from dragonfly_lit.serving.prefixes import Prefix, Prefixes
from dragonfly_lit.serving.prompts import Prompt
from dragonfly_lit.serving.zooms import Views


@dataclass(frozen=True, kw_only=True)
class Read:
    """What the model has made of a prompt.

    Attributes:
        cache: its keys and values.
        logits: of the first token of the answer.
        zoom: of each image its grids, and which high crops were kept with which scores.
        known: how many tokens were not computed, since they were known.
    """

    cache: DynamicCache
    logits: Float[Tensor, "1 words"]
    zoom: tuple[dict[str, Any], ...]
    known: int


class Reader:
    """Reads prompts, and keeps what they may share with the next ones.

    Args:
        model: a Dragonfly in evaluation mode.
        prefixes: where what may be shared is kept.
    """

    def __init__(self, model: Any, prefixes: Prefixes) -> None:
        self.model, self.prefixes, self.views = model, prefixes, Views(model)
        self._config = model.config.get_text_config(decoder=True)

    def read(self, prompt: Prompt) -> Read:
        """The cache and the logits after a prompt."""
        # Another request about the same images may have been read since the prompt was made.
        prefix = prompt.prefix or (self.prefixes.get(prompt.key) if prompt.key else None)
        if prompt.key:
            self.prefixes.hits += prefix is not None
            self.prefixes.misses += prefix is None
        return self._read_all(prompt) if prefix is None else self._read_rest(prompt, prefix)

    def _read_all(self, prompt: Prompt) -> Read:
        device = self.model.device
        more: dict[str, Tensor] = {}
        pixels, grids = stack_crops(prompt.crops)
        if pixels is not None and grids is not None:
            more["pixel_values"], more["image_grids"] = pixels.to(device), grids.to(device)
            more["question_mask"] = torch.tensor([prompt.question], device=device)
        cache = DynamicCache(config=self._config)
        ids = torch.tensor([prompt.ids], device=device)
        view = self.views.of(prompt.zoom)
        output = view(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **more)
        zoom = tuple(output.looks([crop.grids for crop in prompt.crops]))
        layers: list[Any] = list(cache.layers)
        length = len(prompt)
        # A layer that has dropped tokens already, as one with a window does, cannot be shared from the first one on.
        if prompt.key and all(layer.keys.shape[2] == length for layer in layers):
            keys, values = (
                tuple(getattr(layer, name)[:, :, : prompt.num_shared].clone() for layer in layers)
                for name in ("keys", "values")
            )
            self.prefixes.put(prompt.key, Prefix(keys=keys, values=values, zoom=zoom))
        return Read(cache=cache, logits=output.logits[:, -1], zoom=zoom, known=0)

    def _read_rest(self, prompt: Prompt, prefix: Prefix) -> Read:
        cache = DynamicCache(config=self._config)
        for number, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
            cache.update(keys, values, number)
        ids = torch.tensor([prompt.ids[prompt.num_shared :]], device=self.model.device)
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Read(cache=cache, logits=output.logits[:, -1], zoom=prefix.zoom, known=prompt.num_shared)
