"""A random Dragonfly of about 100k weights and a byte-level tokenizer: real, small, and not downloaded."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.spec import tokens

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_IDS = {token: len(_BYTES) + i for i, token in enumerate(tokens.STRUCTURAL)}
NUM_WORDS = len(_BYTES) + len(_IDS)


def tiny_config(
    *,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    zoom: dict[str, Any] | None = None,
    **overrides: Any,
) -> DragonflyConfig:
    """A CLIP tower of 3 layers at 32 pixels with patches of 8, a Llama of 2 layers, 8 high crops of which 4 are kept.

    Args:
        vision: fields that replace the tower's; `model_type="siglip_vision_model"` for another kind.
        text: fields that replace the language model's; `model_type="qwen3"` for another kind.
        zoom: fields that replace the zoom's.
        overrides: other fields of DragonflyConfig.
    """
    vision_fields = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    } | (vision or {})
    text_fields = {
        "model_type": "llama",
        "vocab_size": NUM_WORDS,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": _IDS[tokens.BEGIN_OF_TEXT],
        "eos_token_id": _IDS[tokens.END_OF_TURN],
        "pad_token_id": None,
    } | (text or {})
    zoom_fields = {"medium_crops": 4, "high_crops": 8, "top_k": 1} | (zoom or {})
    fields: dict[str, Any] = {
        "image_token_id": _IDS[tokens.IMAGE],
        "newline_token_id": _IDS[tokens.NEWLINE],
    } | overrides
    return DragonflyConfig(vision_config=vision_fields, text_config=text_fields, zoom=zoom_fields, **fields)


def tiny_model(seed: int = 0, **overrides: Any) -> DragonflyForConditionalGeneration:
    """A random Dragonfly in eval mode; `overrides` as in `tiny_config`."""
    config = tiny_config(**overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DragonflyForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = [_IDS[tokens.END_OF_TURN], _IDS[tokens.END_OF_TEXT]]
    model.generation_config.pad_token_id = _IDS[tokens.END_OF_TEXT]
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte and the seven special tokens; every text survives a round trip."""
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(_BYTES)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(tokens.STRUCTURAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens.BEGIN_OF_TEXT,
        eos_token=tokens.END_OF_TURN,
        pad_token=tokens.END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
