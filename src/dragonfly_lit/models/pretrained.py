"""What a class with Dragonfly's parts tells transformers; it names the parts, so that readers and writers know them."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from dragonfly_lit.io.remote_code import NeverCopied
from dragonfly_lit.models.buffers import ExactBuffers
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.language import decoder_of, head_of
from dragonfly_lit.models.projector import Projector
from dragonfly_lit.models.vision import Tower
from dragonfly_lit.models.weights import Stored
from dragonfly_lit.models.zoom import ZoomRule
from dragonfly_lit.spec.layout import Layout


class DragonflyPreTrainedModel(NeverCopied, ExactBuffers, PreTrainedModel):
    """The base of every Dragonfly.

    Attributes:
        layout: how many tokens an image takes.
        vision: crops to features.
        zoom: which high crops are kept.
        projector: features to image tokens.
        language: image tokens and words to logits.
        unused_vision: where the tower's weights after the features lie. The model never builds them; the released
            layout has them.
    """

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

    layout: Layout
    vision: Tower
    zoom: ZoomRule
    projector: Projector
    language: PreTrainedModel
    unused_vision: dict[str, Stored]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear) and module is getattr(self.zoom, "query", None):
            init.copy_(module.weight, torch.eye(module.in_features))
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.language.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return head_of(self.language)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> PreTrainedModel:
        return decoder_of(self.language)
