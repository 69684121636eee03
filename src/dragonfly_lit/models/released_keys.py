"""The released layout: its keys, its config, the ids of its special tokens, and what it cannot express."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from dragonfly_lit.models.config import OWN_PARTS, DragonflyConfig
from dragonfly_lit.models.weights import Stored
from dragonfly_lit.spec import tokens
from dragonfly_lit.spec.layout import Zoom
from dragonfly_lit.spec.released import ZOOMS

VISION_FOLDER = "image_encoder"
LLAMA_3_IDS = {tokens.IMAGE: 128002, tokens.NEWLINE: 128003, tokens.END_OF_TURN: 128009, tokens.END_OF_TEXT: 128001}
TOKEN_IDS = "dragonfly_token_ids"
TOWER_PREFIX = "image_encoder.vision_model."
_PREFIXES = {
    "vision.tower.": TOWER_PREFIX,
    "projector.": "vision_embed_tokens.",
    "language.": "language_model.",
}
_RECOMPUTED = re.compile(r"(embeddings\.position_ids|rotary_emb\.inv_freq)$")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def token_ids(folder: Path, fields: dict[str, Any]) -> dict[str, int]:
    """Ids of the image slot, the newline, the end of turn and the padding.

    From the checkpoint's own tokenizer, else from what `save_released` wrote into its config.

    Args:
        folder: the released checkpoint.
        fields: its config.
    """
    if not (folder / "tokenizer.json").is_file():
        if TOKEN_IDS in fields:
            return fields[TOKEN_IDS]
        if fields["vocab_size"] == 128256:
            return LLAMA_3_IDS
        raise ValueError(
            f"{folder} has no tokenizer.json, so the ids of its special tokens are unknown. Copy it there."
        )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in LLAMA_3_IDS}
    if lacking := [token for token, index in ids.items() if index is None]:
        raise ValueError(f"{folder / 'tokenizer.json'} lacks {', '.join(lacking)}. It is not a Llama-3 tokenizer.")
    return {token: index for token, index in ids.items() if index is not None}


def text_config(fields: dict[str, Any]) -> PreTrainedConfig:
    """The flat Llama fields of a released config, `text_config` over them."""
    own = {k: v for k, v in fields.items() if k not in ("architectures", "text_config", "image_encoder", "model_type")}
    merged = own | {k: v for k, v in (fields.get("text_config") or {}).items() if v is not None}
    merged.pop("text_pretrained_model_name_or_path", None)
    for vision_field in ("image_size", "patch_size", "num_channels", "transformers_version", "torch_dtype", "dtype"):
        merged.pop(vision_field, None)
    return AutoConfig.for_model(merged.pop("model_type", "llama"), **merged)


def our_names(stored: dict[str, Stored], config: DragonflyConfig) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """Tensors by our names, and those of the tower after the features by their names in the tower."""
    ours: dict[str, Stored] = {}
    tower: dict[str, Stored] = {}
    for key, tensor in stored.items():
        name = key.removeprefix("module.")
        if _RECOMPUTED.search(name):
            continue
        if name.startswith("vision_embed_tokens."):
            ours["projector." + name.removeprefix("vision_embed_tokens.")] = tensor
        elif name.startswith("language_model."):
            ours["language." + name.removeprefix("language_model.")] = tensor
        elif name.startswith("image_encoder."):
            tower[name.removeprefix("image_encoder.")] = tensor
        else:
            ours[key] = tensor
    if config.text_config.tie_word_embeddings and "language.lm_head.weight" in ours:
        ours.setdefault("language.model.embed_tokens.weight", ours["language.lm_head.weight"])
    used, unused = tower_names(tower, config)
    return ours | used, unused


def tower_names(stored: dict[str, Stored], config: DragonflyConfig) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """The tower's tensors by our names, and those after the features by their names in the tower.

    Keys may start with `vision_model.` or not; the text half of a whole CLIP or SigLIP is left out.
    """
    prefix = "vision_model." if any(key.startswith("vision_model.") for key in stored) else ""
    named = {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}
    named = {key: tensor for key, tensor in named.items() if not _RECOMPUTED.search(key)}
    unused = {key: tensor for key, tensor in named.items() if is_unused(key, config)}
    return {"vision.tower." + key: tensor for key, tensor in named.items() if key not in unused}, unused


def is_unused(name: str, config: DragonflyConfig) -> bool:
    """Whether a weight of the tower comes after the features that are used."""
    layer = _LAYER.match(name)
    if layer:
        return int(layer[1]) >= config.num_vision_layers_used
    return name.startswith(("post_layernorm.", "head."))


def released_name(name: str) -> str:
    """The released key of a weight."""
    ours = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
    return _PREFIXES[ours] + name.removeprefix(ours)


def check_releasable(config: DragonflyConfig) -> None:
    """ValueError for a model that the released code cannot compute."""
    for field in OWN_PARTS:
        if node := getattr(config, field):
            raise ValueError(
                f"The released code does not know {field}={node['_target_']}. Use save_pretrained, or export with "
                "--layout transformers."
            )
    if config.chat != "llama3":
        raise ValueError(
            f"The released code writes conversations in Llama-3's format, not in chat={config.chat}. Use "
            "save_pretrained, or export with --layout transformers."
        )
    if config.images != "front":
        raise ValueError(
            f"The released code has all images in front of the text, not images={config.images}. Use save_pretrained, "
            "or export with --layout transformers."
        )
    zoom = Zoom(**config.zoom)
    if zoom not in ZOOMS.values():
        differ = {
            version: ", ".join(
                f"{k}={v!r} (released {getattr(released, k)!r})"
                for k, v in vars(zoom).items()
                if v != getattr(released, k)
            )
            for version, released in ZOOMS.items()
        }
        nearest = min(differ, key=lambda version: differ[version].count("="))
        raise ValueError(
            f"The released code cannot compute this model: zoom.{differ[nearest]} differs from {nearest}. "
            "Use save_pretrained, or train with the released zoom."
        )
    kinds = (config.text_config.model_type, config.vision_config.model_type, config.feature_layer)
    if kinds != ("llama", "clip_vision_model", -2):
        raise ValueError(
            f"The released code knows a Llama and a CLIP tower read at feature_layer=-2, not {kinds}. "
            "Use save_pretrained."
        )


def released_config(config: DragonflyConfig, generation: GenerationConfig, dtype: str) -> dict[str, Any]:
    """The released config of a model.

    Args:
        config: of the model.
        generation: says with which tokens an answer ends and is padded.
        dtype: of the weights, as torch spells it.
    """
    text = config.text_config.to_dict()
    rope = text.pop("rope_parameters", None) or {}
    theta = rope.pop("rope_theta", 10000.0)
    # The released code runs on transformers 4.45, which knows rope_theta and rope_scaling.
    text |= {"rope_theta": theta, "rope_scaling": rope if rope.get("rope_type", "default") != "default" else None}
    for ours in ("dtype", "_name_or_path", "architectures", "transformers_version"):
        text.pop(ours, None)
    source = config.vision_source
    return {
        **text,
        "architectures": ["DragonflyForCausalLM"],
        "model_type": "dragonfly",
        "torch_dtype": dtype,
        # The tower's config lies beside the weights; a path of this machine would help nobody.
        "image_encoder": source if source and not Path(source).is_absolute() else VISION_FOLDER,
        "text_config": {**text, "torch_dtype": dtype},
        "text_pretrained_model_name_or_path": None,
        TOKEN_IDS: _written_ids(config, generation),
    }


def _written_ids(config: DragonflyConfig, generation: GenerationConfig) -> dict[str, int | None]:
    ends, padding = generation.eos_token_id, generation.pad_token_id
    end = ends[0] if isinstance(ends, list) else ends
    ids = (config.image_token_id, config.newline_token_id, end, padding)
    return dict(zip(LLAMA_3_IDS, ids, strict=True))
