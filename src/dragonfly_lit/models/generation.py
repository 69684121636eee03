"""Dragonfly's part in transformers' `generate`: the image goes in once, and each row keeps its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from dragonfly_lit.models.fusion import ids_of_slots
from dragonfly_lit.models.pretrained import DragonflyPreTrainedModel

_OF_IMAGES = ("pixel_values", "image_grids")
_FIRST_STEP_ONLY = (*_OF_IMAGES, "question_mask", "sample_ids", "branch_ids")


class DragonflyGenerationMixin(DragonflyPreTrainedModel, GenerationMixin):
    """Transformers' own `generate`, told what to do with images."""

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,  # transformers looks for this name
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Transformers' own; after the first step the cache knows the image."""
        parent: Any = super()  # transformers types the self of its mixin as a protocol that no model of its own fits
        inputs = parent.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        cache = inputs.get("past_key_values")
        known = cache is not None and cache.get_seq_length() > 0
        # Only the cache says whether an image was seen: transformers never counts a step of an assistant as the first.
        inputs.update({name: None if known else kwargs.get(name) for name in _FIRST_STEP_ONLY})
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """Rows once for every beam or answer, and the images of each row with it."""
        images = {name: value for name in _OF_IMAGES if (value := model_kwargs.pop(name, None)) is not None}
        embeddings = model_kwargs.get("inputs_embeds")
        if images and expand_size > 1 and (input_ids is not None or embeddings is not None):
            ids = input_ids if embeddings is None else self.slots_in(embeddings)
            counts = (ids == self.config.image_token_id).sum(1) // self.layout.num_slots
            of_rows = torch.arange(int(counts.sum()), device=counts.device).split(counts.tolist())
            order = torch.cat([row for row in of_rows for _ in range(expand_size)])
            images = {name: value[order.to(value.device)] for name, value in images.items()}
        parent: Any = super()
        expanded, model_kwargs = parent._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return expanded, model_kwargs | images

    def slots_in(self, embeddings: Tensor) -> Tensor:
        """Ids of word embeddings as far as slots go: the slot's own, and -1 for every other word."""
        slot = torch.tensor(self.config.image_token_id, device=embeddings.device)
        return ids_of_slots(embeddings, self.get_input_embeddings()(slot), self.config.image_token_id)
