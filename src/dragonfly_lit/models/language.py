"""The causal language model: any of transformers' that takes `inputs_embeds`."""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def build_language(config: PreTrainedConfig) -> PreTrainedModel:
    """A language model of random weights.

    Raises:
        ValueError: the model changes its logits after the head; the loss reads the head alone.
    """
    for name in _LOGIT_CHANGES:
        if (value := getattr(config, name, None)) not in (None, 1, 1.0):
            raise ValueError(
                f"language {name}={value}: {config.model_type} changes its logits after the head, which the row-wise "
                "loss does not reproduce. Use a Llama, Qwen, SmolLM or Mistral model."
            )
    return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def decoder_of(language: PreTrainedModel) -> PreTrainedModel:
    """The stack of blocks below the head, also when adapters are wrapped around it."""
    return cast(PreTrainedModel, language.get_decoder())


def head_of(language: PreTrainedModel) -> nn.Linear:
    """The layer from hidden states to logits."""
    return cast(nn.Linear, language.get_output_embeddings())


def words_of(language: PreTrainedModel) -> nn.Embedding:
    """The word embeddings."""
    return cast(nn.Embedding, language.get_input_embeddings())
