"""Dragonfly: look at the crops, zoom in, project, put into the text, answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.utils.generic import ModelOutput

from dragonfly_lit.models.attention import attention_arguments
from dragonfly_lit.models.buffers import ExactBuffers
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.folders import Folders
from dragonfly_lit.models.fusion import fill_slots, question_means, slots_of_images
from dragonfly_lit.models.generation import Generating
from dragonfly_lit.models.language import build_language, decoder_of, head_of
from dragonfly_lit.models.loss import LossSums, loss_sums
from dragonfly_lit.models.projector import Projector
from dragonfly_lit.models.vision import VisionTower
from dragonfly_lit.models.weights import Stored
from dragonfly_lit.models.zoom import Ranking, ZoomIn, pool_patches


@dataclass
class DragonflyOutput(ModelOutput):
    """What a forward gives.

    Attributes:
        loss: weighted mean over the supervised tokens; None without labels.
        logits: (rows, tokens or `logits_to_keep`, words).
        past_key_values: the cache, where one is used.
        selected_crops: (images, kept) indices within the high crops, ascending; None where nothing is selected.
        crop_scores: (images, high) score of every high crop; None likewise.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    selected_crops: Tensor | None = None
    crop_scores: Tensor | None = None


class DragonflyForConditionalGeneration(Folders, ExactBuffers, Generating, PreTrainedModel, GenerationMixin):
    """The five parts of a Dragonfly, and one forward through them."""

    config: DragonflyConfig
    config_class = DragonflyConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012 (transformers' own name)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    accepts_loss_kwargs = True

    def __init__(self, config: DragonflyConfig, language: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.layout = config.layout
        self.vision = VisionTower(config)
        self.zoom = ZoomIn(self.layout, width)
        self.projector = Projector(config.vision_config.hidden_size, width)
        self.language = build_language(config.text_config) if language is None else language
        self.unused_vision: dict[str, Stored] = {}
        self.post_init()
        # A generated image token would be a slot without an image.
        self.generation_config.suppress_tokens = [config.image_token_id]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and module is self.zoom.query:
            init.copy_(module.weight, torch.eye(module.in_features))
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.language.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return head_of(self.language)

    def get_decoder(self) -> PreTrainedModel:
        return decoder_of(self.language)

    def forward(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        sample_ids: Tensor | None = None,
        branch_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        pixel_values: UInt8[Tensor, "images crops 3 side side"] | None = None,
        image_grids: Int[Tensor, "images 2 2"] | None = None,
        labels: Int[Tensor, "rows tokens"] | None = None,
        label_weights: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        sums_only: bool = False,
        **kwargs: Any,
    ) -> DragonflyOutput | LossSums:
        """Crops and ids to logits, and to a loss where labels are given.

        Args:
            input_ids: token ids with the slots of the images in place.
            attention_mask: 1 where a token is seen, in transformers' manner; not with `sample_ids`.
            position_ids: as in Batch; counted from the mask or the cache where missing.
            sample_ids: as in Batch.
            branch_ids: as in Batch.
            question_mask: as in Batch; needed by `zoom.score=question`.
            pixel_values: uint8 crops of all images, in the order of their slots.
            image_grids: as in Batch; needed by `zoom.regions=spatial`.
            labels: token ids, IGNORE where nothing is supervised; not shifted.
            label_weights: weight of each label in the loss.
            past_key_values: the cache of the tokens before.
            use_cache: whether to keep one.
            logits_to_keep: number of last positions whose logits are computed; 0 for all.
            num_items_in_batch: what the loss is divided by instead of the weights' sum (transformers' Trainer).
            sums_only: return LossSums and no logits; see `loss_sums`.
            kwargs: for the language model.

        Raises:
            ValueError: slots and images differ in number, or the zoom needs an input that is not given.
        """
        embeddings = self.get_input_embeddings()(input_ids)
        ranking = None
        if pixel_values is not None:
            slots = slots_of_images(input_ids, self.config.image_token_id, len(pixel_values), self.layout.num_slots)
            question = None
            if question_mask is not None and self.layout.zoom.score == "question":
                question = question_means(embeddings, slots, question_mask, sample_ids)
            image_tokens, ranking = self.encode_images(pixel_values, image_grids, question)
            embeddings = fill_slots(embeddings, slots, image_tokens)
        else:
            slots_of_images(input_ids, self.config.image_token_id, 0, self.layout.num_slots)
            embeddings = self._add_dummy_image(embeddings)
        hidden, cache = self._decode(
            embeddings, attention_mask, position_ids, sample_ids, branch_ids, past_key_values, use_cache, kwargs
        )
        head = self.get_output_embeddings()
        sums = None
        if labels is not None:
            sums = loss_sums(hidden, head, labels, label_weights, sample_ids, branch_ids)
            if sums_only:
                return sums
        return DragonflyOutput(
            loss=None if sums is None else sums.mean if num_items_in_batch is None else sums.loss / num_items_in_batch,
            logits=head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden),
            past_key_values=cache,
            selected_crops=None if ranking is None else ranking.selected,
            crop_scores=None if ranking is None else ranking.scores,
        )

    def loss_sums(self, *, labels: Tensor, label_weights: Tensor | None = None, **inputs: Any) -> LossSums:
        """Sum of the weighted token losses and sum of the weights, without any logits kept.

        Goes through `__call__`, so the hooks of a sharded root module run.
        """
        return self(**inputs, labels=labels, label_weights=label_weights, sums_only=True)

    def encode_images(
        self,
        pixel_values: UInt8[Tensor, "images crops 3 side side"],
        image_grids: Int[Tensor, "images 2 2"] | None = None,
        question: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "images slots width"], Ranking | None]:
        """Image tokens of every image in the order of their slots, and the ranking of its high crops.

        A frozen tower sees all crops in one call. A tower that trains ranks the high crops without a graph
        and sees the kept ones again with one, so that nothing is propagated back through what was dropped.
        """
        zoom, layout = self.layout.zoom, self.layout
        num_images, num_crops = pixel_values.shape[:2]
        if num_crops != zoom.num_crops:
            raise ValueError(
                f"pixel_values has {num_crops} crops an image, but the zoom looks at {zoom.num_crops} "
                f"(low {int(zoom.low)}, medium {zoom.num_medium}, high {zoom.num_high}). Cut them by the model's zoom."
            )
        in_two = zoom.selects and self._tower_trains()
        first_high = int(zoom.low) + zoom.num_medium
        seen = self._features(pixel_values[:, :first_high] if in_two else pixel_values)
        low, medium, high = seen.tensor_split((int(zoom.low), first_high), dim=1)
        if in_two:
            with torch.no_grad():
                high = self._features(pixel_values[:, first_high:])
        medium, high = pool_patches(medium, layout), pool_patches(high, layout)
        ranking = None
        if zoom.selects:
            ranking = self.zoom(medium, high, self.projector, image_grids, question)
            images = torch.arange(num_images, device=high.device)[:, None]
            if in_two:
                high = pool_patches(self._features(pixel_values[:, first_high:][images, ranking.selected]), layout)
            else:
                high = high[images, ranking.selected]
        features = torch.cat([part.flatten(1, 2) for part in (low, medium, high)], dim=1)
        tokens = self.projector(features)
        if ranking is not None and ranking.gates is not None:
            ungated, gated = tokens.tensor_split((tokens.shape[1] - high.shape[1] * high.shape[2],), dim=1)
            gates = ranking.gates.repeat_interleave(high.shape[2], dim=1)[:, :, None]
            tokens = torch.cat([ungated, gated * gates.to(gated.dtype)], dim=1)
        return tokens, ranking

    def _features(
        self, crops: UInt8[Tensor, "images crops 3 side side"]
    ) -> Float[Tensor, "images crops features vision"]:
        return self.vision(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])

    def _tower_trains(self) -> bool:
        return self.training and torch.is_grad_enabled() and not self.vision.frozen

    def _add_dummy_image(self, embeddings: Tensor) -> Tensor:
        """Text only: a blank image at weight zero, where some other rank may have a real one and waits for this rank.

        Ranks that sum gradients need one of everything that trains; ranks that hold shards must gather the same
        parts in the same order, frozen ones and those of a validation included. So it goes the way of any image.
        """
        modules = [m for part in (self.vision, self.zoom, self.projector) for m in part.modules()]
        trained = any(p.requires_grad for module in modules for p in module.parameters(recurse=False))
        sharded = any(isinstance(module, FSDPModule) for module in modules)
        if not (sharded or (trained and self.training and torch.is_grad_enabled())):
            return embeddings
        side, device = self.layout.image_size, embeddings.device
        blank = torch.zeros(1, self.layout.zoom.num_crops, 3, side, side, dtype=torch.uint8, device=device)
        grids = torch.tensor([self.layout.grids(side, side)], device=device)
        question = (embeddings[:1, 0], torch.ones(1, dtype=torch.long, device=device))
        tokens, _ = self.encode_images(blank, grids, question)
        return embeddings + (tokens.sum() * 0).to(embeddings.dtype)

    def _decode(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        sample_ids: Tensor | None,
        branch_ids: Tensor | None,
        past_key_values: Cache | None,
        use_cache: bool | None,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Cache | None]:
        """Embeddings to last hidden states, each sample and branch by itself."""
        decoder = self.get_decoder()
        if sample_ids is not None:
            if attention_mask is not None or past_key_values is not None:
                raise ValueError(
                    "sample_ids say who sees whom while training; attention_mask and past_key_values are transformers' "
                    "way while generating. Give one or the other."
                )
            use_cache = False
            arguments = attention_arguments(decoder.config, sample_ids, branch_ids, embeddings.dtype)
            if not arguments:
                # Padding is on the right and sees nothing that counts: plain causal attention, plain positions.
                position_ids = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
            attention_mask = arguments.pop("attention_mask", None)
            kwargs = {**kwargs, **arguments}
        output = decoder(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return output.last_hidden_state, output.past_key_values


AutoConfig.register(DragonflyConfig.model_type, DragonflyConfig)
AutoModelForImageTextToText.register(DragonflyConfig, DragonflyForConditionalGeneration)
