"""A model out again, in the layout that the released code loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.io import LLAMA_3_IDS, TOKEN_IDS, VISION_FOLDER, unused_tensors
from dragonfly_lit.spec.layout import Zoom
from dragonfly_lit.spec.released import ZOOMS

if TYPE_CHECKING:
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration


def write_released(model: DragonflyForConditionalGeneration, folder: str | Path, max_shard_size: str) -> None:
    """Save in the released layout; see `DragonflyForConditionalGeneration.save_released`."""
    folder, config = Path(folder), model.config
    _check_releasable(config)
    state = _released_state(model)
    folder.mkdir(parents=True, exist_ok=True)
    plan = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file, keys in plan.filename_to_tensors.items():
        save_file({key: state[key].contiguous() for key in keys}, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(_released_config(model), indent=2))
    model.generation_config.save_pretrained(folder)
    config.vision_config.save_pretrained(folder / VISION_FOLDER)
    statistics = {"image_mean": config.image_mean, "image_std": config.image_std}
    (folder / VISION_FOLDER / "preprocessor_config.json").write_text(json.dumps(statistics, indent=2))


def _check_releasable(config: DragonflyConfig) -> None:
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


def _released_state(model: DragonflyForConditionalGeneration) -> dict[str, Tensor]:
    dtype = next(model.projector.parameters()).dtype
    prefixes = {
        "vision.tower.": "image_encoder.vision_model.",
        "projector.": "vision_embed_tokens.",
        "language.": "language_model.",
    }
    state = {}
    for name, weight in model.state_dict().items():
        ours = next(prefix for prefix in prefixes if name.startswith(prefix))
        state[prefixes[ours] + name.removeprefix(ours)] = weight.cpu()
    tower = model.vision.dtype
    for name, weight in unused_tensors(model).items():
        state["image_encoder.vision_model." + name] = weight.to(tower or dtype)
    if model.config.text_config.tie_word_embeddings:
        state["language_model.lm_head.weight"] = state["language_model.lm_head.weight"].clone()
    return state


def _released_config(model: DragonflyForConditionalGeneration) -> dict[str, Any]:
    config = model.config
    text = config.text_config.to_dict()
    rope = text.pop("rope_parameters", None) or {}
    theta = rope.pop("rope_theta", 10000.0)
    # The released code runs on transformers 4.45, which knows rope_theta and rope_scaling.
    text |= {"rope_theta": theta, "rope_scaling": rope if rope.get("rope_type", "default") != "default" else None}
    dtype = str(model.projector.weight.dtype).removeprefix("torch.")
    for ours in ("dtype", "_name_or_path", "architectures", "transformers_version"):
        text.pop(ours, None)
    return {
        **text,
        "architectures": ["DragonflyForCausalLM"],
        "model_type": "dragonfly",
        "torch_dtype": dtype,
        "image_encoder": config.vision_source or VISION_FOLDER,
        "text_config": {**text, "torch_dtype": dtype},
        "text_pretrained_model_name_or_path": None,
        TOKEN_IDS: _written_ids(model),
    }


def _written_ids(model: DragonflyForConditionalGeneration) -> dict[str, int | None]:
    ends, padding = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    end = ends[0] if isinstance(ends, list) else ends
    ids = (model.config.image_token_id, model.config.newline_token_id, end, padding)
    return dict(zip(LLAMA_3_IDS, ids, strict=True))
