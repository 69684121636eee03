"""Dragonfly: look at the crops, zoom in, project, put into the text, answer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedModel,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from dragonfly_lit.models.attention import VARIABLE, attention_arguments
from dragonfly_lit.models.build import build_projector, build_tower, build_zoom_rule
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.files import DragonflyFilesMixin
from dragonfly_lit.models.fusion import added_at_slots, fill_slots, question_means, slots_of_images
from dragonfly_lit.models.generation import DragonflyGenerationMixin
from dragonfly_lit.models.images import DragonflyImagesMixin
from dragonfly_lit.models.language import build_language, last_block_at
from dragonfly_lit.models.loss import LossSums, loss_sums
from dragonfly_lit.models.output import DragonflyOutput
from dragonfly_lit.spec.outline import Outline, supervised_labels


class DragonflyForConditionalGeneration(DragonflyImagesMixin, DragonflyFilesMixin, DragonflyGenerationMixin):
    """The five parts of a Dragonfly, and one forward through them."""

    def __init__(self, config: DragonflyConfig, language: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.layout = config.layout
        self.vision = build_tower(config)
        self.zoom = build_zoom_rule(config)
        self.projector = build_projector(config, self.vision.width)
        self.language = build_language(config.text_config) if language is None else language
        if self.language.config._attn_implementation is None:
            # A config of several parts takes the choice off its parts; without one nothing would mask what comes later.
            self.language.set_attn_implementation("sdpa")
        self.unused_vision = {}
        self.post_init()
        # A generated image token would be a slot without an image.
        self.generation_config.suppress_tokens = [config.image_token_id]

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "rows tokens"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        sample_ids: Tensor | None = None,
        branch_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        pixel_values: UInt8[Tensor, "images crops 3 side side"] | None = None,
        image_grids: Int[Tensor, "images 2 2"] | None = None,
        outline: Outline | None = None,
        labels: Int[Tensor, "rows tokens"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "rows tokens width"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        sums_only: bool = False,
        **kwargs: Any,
    ) -> DragonflyOutput | LossSums:
        """Crops and ids to logits, and to a loss where labels are given.

        Args:
            input_ids: token ids with the slots of the images in place; or `inputs_embeds`.
            attention_mask: 1 where a token is seen, in transformers' manner; not with `sample_ids`.
            position_ids: as in Batch; counted from the mask or the cache where missing.
            sample_ids: as in Batch.
            branch_ids: as in Batch.
            question_mask: as in Batch; needed by `zoom.score=question`.
            pixel_values: uint8 crops of all images, in the order of their slots.
            image_grids: as in Batch; needed by `zoom.regions=spatial`.
            outline: as in Batch: of exactly these ids and labels; without one the host reads what it must know.
            labels: token ids, IGNORE where nothing is supervised; not shifted.
            past_key_values: the cache of the tokens before.
            inputs_embeds: word embeddings in place of `input_ids`; a slot has the embedding of `image_token_id`.
            use_cache: whether to keep one.
            logits_to_keep: number of last positions whose logits are computed, or which; 0 for all.
            num_items_in_batch: what the loss is divided by instead of the weights' sum (transformers' Trainer).
            sums_only: return LossSums and no logits; see `loss_sums`.
            kwargs: `label_weights`, the weight of each label in the loss, and `token_graph`, as in `loss_sums` of
                `models.loss`; the rest is for the language model (`output_hidden_states`, `output_attentions`).
                `return_dict=False` gives a tuple.

        Raises:
            ValueError: slots and images differ in number, or the zoom needs an input that is not given.
        """
        # Not a parameter by name: transformers' Trainer takes every one with `label` in it for labels.
        label_weights = kwargs.pop("label_weights", None)
        token_graph = kwargs.pop("token_graph", False)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("a forward takes input_ids or inputs_embeds: give one of them, and not both.")
        embeddings = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        ids = self.slots_in(embeddings) if input_ids is None else input_ids
        ranking, deeper = None, ()
        num_images = 0 if pixel_values is None else len(pixel_values)
        known = None if outline is None else outline.image_slots
        slots = slots_of_images(ids, self.config.image_token_id, num_images, self.layout.num_slots, known)
        if image_grids is not None and len(image_grids) != num_images:
            raise ValueError(
                f"image_grids has {len(image_grids)} rows for {num_images} images. A pipeline of transformers loses "
                "some where a text of a batch has several images: leave batch_size=1, or call the processor with all."
            )
        if pixel_values is not None:
            question = None
            if question_mask is not None and self.layout.zoom.score == "question":
                # Generation without a cache adds tokens behind, none of which is of the question.
                if question_mask.shape != ids.shape and torch.is_grad_enabled():
                    raise ValueError(
                        f"question_mask is {tuple(question_mask.shape)} for tokens of {tuple(ids.shape)}. A collator "
                        "that joins prompts and answers by itself does not know it: call the processor with the whole."
                    )
                question = question_means(embeddings, slots, question_mask, sample_ids)
            image_tokens, ranking = self.encode_images(pixel_values, image_grids, question)
            image_tokens, *deeper = image_tokens.chunk(self.projector.depth, dim=-1)
            embeddings = fill_slots(embeddings, slots, image_tokens)
        else:
            embeddings = self.add_dummy_image(embeddings)
        rows = None
        if labels is not None:
            rows = supervised_labels(labels, sample_ids, branch_ids) if outline is None else outline.supervised
        with self._last_block_at(rows if sums_only else None), added_at_slots(self.get_decoder(), slots, deeper):
            decoded = self._decode(
                embeddings,
                attention_mask,
                position_ids,
                sample_ids,
                branch_ids,
                outline,
                past_key_values,
                use_cache,
                kwargs,
            )
        hidden, head = decoded.last_hidden_state, self.get_output_embeddings()
        assert hidden is not None
        sums = None
        if labels is not None:
            sums = loss_sums(
                hidden, head, labels, label_weights, sample_ids, branch_ids, rows=rows, token_graph=token_graph
            )
            if sums_only:
                return sums
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return DragonflyOutput(
            loss=None if sums is None else sums.mean if num_items_in_batch is None else sums.loss / num_items_in_batch,
            logits=head(hidden[:, kept]),
            past_key_values=decoded.past_key_values,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            last_hidden_state=hidden,
            selected_crops=None if ranking is None else ranking.selected,
            crop_scores=None if ranking is None else ranking.scores,
        )

    def loss_sums(self, *, labels: Tensor, label_weights: Tensor | None = None, **inputs: Any) -> LossSums:
        """Sum of the weighted token losses and sum of the weights, without any logits kept.

        Goes through `__call__`, so the hooks of a sharded root module run.
        """
        return self(**inputs, labels=labels, label_weights=label_weights, sums_only=True)

    def token_losses(self, *, labels: Tensor, **inputs: Any) -> LossSums:
        """`loss_sums` without weights, where the loss of each supervised token has a graph, for a loss of one's own."""
        return self(**inputs, labels=labels, sums_only=True, token_graph=True)

    def _last_block_at(self, supervised: Tensor | None) -> AbstractContextManager[None]:
        """On a CPU, where only the loss is asked for, the last block does not compute what no label reads."""
        decoder = self.get_decoder()
        if supervised is None or supervised.device.type != "cpu" or not len(supervised):
            return nullcontext()
        packs = decoder.config._attn_implementation in VARIABLE
        return last_block_at(decoder, supervised - 1) if packs else nullcontext()

    def _decode(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        sample_ids: Tensor | None,
        branch_ids: Tensor | None,
        outline: Outline | None,
        past_key_values: Cache | None,
        use_cache: bool | None,
        kwargs: dict[str, Any],
    ) -> BaseModelOutputWithPast:
        """Embeddings to hidden states, each sample and branch by itself."""
        decoder = self.get_decoder()
        if sample_ids is not None:
            if attention_mask is not None or past_key_values is not None:
                raise ValueError(
                    "sample_ids say who sees whom while training; attention_mask and past_key_values are transformers' "
                    "way while generating. Give one or the other."
                )
            use_cache = False
            arguments = attention_arguments(decoder.config, sample_ids, branch_ids, embeddings.dtype, outline)
            if not arguments:
                # Padding is on the right and sees nothing that counts: plain causal attention, plain positions.
                position_ids = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
            attention_mask = arguments.pop("attention_mask", None)
            kwargs = {**kwargs, **arguments}
        return decoder(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )


for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM):
    auto.register(DragonflyConfig, DragonflyForConditionalGeneration, exist_ok=True)
