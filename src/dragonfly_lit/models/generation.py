"""Generation by transformers, with the image in the first step only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_OF_IMAGES = ("pixel_values", "image_grids")
_FIRST_STEP_ONLY = (*_OF_IMAGES, "question_mask", "sample_ids", "branch_ids")


class Generating:
    """What generation with images needs beyond transformers' own; stands before `GenerationMixin` among the bases."""

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Transformers' own; after the first step the cache knows the image."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        cache = inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            inputs.update(dict.fromkeys(_FIRST_STEP_ONLY))
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Rows once for every beam or answer, and the images of each row with it."""
        images = {name: value for name in _OF_IMAGES if (value := kwargs.pop(name, None)) is not None}
        if images and expand_size > 1 and input_ids is not None:
            model: Any = self
            counts = (input_ids == model.config.image_token_id).sum(1) // model.layout.num_slots
            of_rows = torch.arange(int(counts.sum()), device=input_ids.device).split(counts.tolist())
            order = torch.cat([row for row in of_rows for _ in range(expand_size)])
            images = {name: value[order.to(value.device)] for name, value in images.items()}
        expanded, kwargs = super()._expand_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
            expand_size, is_encoder_decoder, input_ids, **kwargs
        )
        return expanded, kwargs | images
