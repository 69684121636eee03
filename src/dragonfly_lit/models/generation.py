"""Dragonfly's part in transformers' `generate`: the image goes in once, each row keeps its own, a GPU never waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicCache, StaticCache

from dragonfly_lit.models.decoding import InPlaceDecoder
from dragonfly_lit.models.fusion import ids_of_slots
from dragonfly_lit.models.host_reads import LateReads
from dragonfly_lit.models.pretrained import DragonflyPreTrainedModel

_OF_IMAGES = ("pixel_values", "image_grids")
_FIRST_STEP_ONLY = (*_OF_IMAGES, "question_mask", "sample_ids", "branch_ids")
_DECODERS: WeakKeyDictionary[Any, InPlaceDecoder] = WeakKeyDictionary()
"""Of the models that have generated on a GPU: not among their attributes, since graphs cannot be copied or saved."""


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

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, which needs the memory that generating holds."""
        if mode and self in _DECODERS:
            _DECODERS.pop(self).forget()
        return super().train(mode)

    def _sample(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Transformers' loop of greedy search and sampling; the same words in place on a GPU, or where asked for."""
        if not synced_gpus and self._may_decode_in_place(input_ids, stopping_criteria, generation_config, model_kwargs):
            found = self._sample_in_place(
                input_ids, logits_processor, stopping_criteria, generation_config, streamer, model_kwargs
            )
            if found is not None:
                return found
        parent: Any = super()
        return parent._sample(
            input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer, **model_kwargs
        )

    def _may_decode_in_place(
        self, input_ids: Tensor, criteria: StoppingCriteriaList, config: GenerationConfig, kwargs: dict[str, Any]
    ) -> bool:
        """`cache_implementation` static, or none and a GPU; and nothing is asked for that needs every step's output."""
        asked = config.cache_implementation == "static" or (
            config.cache_implementation is None and input_ids.device.type == "cuda"
        )
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        own = type(cache) in (DynamicCache, StaticCache) and not getattr(cache, "_is_user_defined", False)
        if not (asked and own) or config.return_dict_in_generate or config.is_assistant:
            return False
        if criteria.max_length is None or criteria.max_length - input_ids.shape[1] < 2:
            return False
        if any(isinstance(value, Tensor) and value.ndim != 2 for value in (mask, kwargs.get("position_ids"))):
            return False
        compiled = config.compile_config is not None
        if self not in _DECODERS or _DECODERS[self].compiled != compiled:
            _DECODERS[self] = InPlaceDecoder(self, compiled=compiled)
        return _DECODERS[self].suits()

    def _sample_in_place(
        self,
        input_ids: torch.LongTensor,
        process: Callable[..., Tensor],
        stop: Any,
        config: Any,
        streamer: Any,
        kwargs: dict[str, Any],
    ) -> Tensor | None:
        """Prompts and answers as transformers' loop gives them; None where the decoder does not take them."""
        parent: Any = super()
        cache = DynamicCache(config=self.config.get_text_config(decoder=True))
        output = parent._prefill(input_ids, config, kwargs | {"past_key_values": cache})
        rows, tokens, device = len(output.logits), cache.get_seq_length(), input_ids.device
        mask = kwargs.get("attention_mask")
        mask = torch.ones(rows, tokens, dtype=torch.bool, device=device) if mask is None else mask.bool()
        places = kwargs.get("position_ids")
        position = mask.sum(1) if places is None else (places[:, -1] + 1).expand(rows)
        steps, decoder = stop.max_length - input_ids.shape[1] - 1, _DECODERS[self]
        if mask.shape[1] != tokens or not decoder.start(cache, mask, position, steps):
            return None
        logits = output.logits[:, -1]
        del output, cache
        ends = any(hasattr(criterion, "eos_token_id") for criterion in stop)
        going = torch.ones(rows, dtype=torch.long, device=device)
        ids: Tensor = input_ids
        late = LateReads(device)
        for left in reversed(range(steps + 1)):
            scores = process(ids, logits.to(copy=True, dtype=torch.float32))
            words = torch.multinomial(scores.softmax(-1), 1).squeeze(1) if config.do_sample else scores.argmax(-1)
            if ends:
                words = words * going + config._pad_token_tensor * (1 - going)
            ids = torch.cat([ids, words[:, None]], dim=-1)
            going = going & ~stop(ids, None)
            late.push(ids.shape[1], torch.stack([words, going]))
            length = _shown(late, streamer, last=left == 0)
            if length is not None:
                ids = ids[:, :length]
                break
            if left:
                logits = decoder.step(words)
        if streamer is not None:
            streamer.end()
        return ids

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


def _shown(late: LateReads, streamer: Any, *, last: bool) -> int | None:
    """The length of the rows once all have ended, else None; their words go to the streamer as they arrive."""
    for length, (words, going) in late.ready(last=last):
        if streamer is not None:
            streamer.put(words)
        if not going.any():
            return length
    return None
