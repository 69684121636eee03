"""The released checkpoints in: their keys, their configs, and what of the tower is never computed."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.weights import Stored, fill, stored_in, stored_tensors
from dragonfly_lit.spec import tokens
from dragonfly_lit.spec.released import released_zoom

if TYPE_CHECKING:
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration

log = logging.getLogger(__name__)
UNUSED_FILE = "vision_unused.safetensors"
"""Beside a saved model: the tower's layers after the features, which the released layout has and nothing computes."""
VISION_FOLDER = "image_encoder"
LLAMA_3_IDS = {tokens.IMAGE: 128002, tokens.NEWLINE: 128003, tokens.END_OF_TURN: 128009, tokens.END_OF_TEXT: 128001}
TOKEN_IDS = "dragonfly_token_ids"
_RECOMPUTED = re.compile(r"(embeddings\.position_ids|rotary_emb\.inv_freq)$")
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def vision_config_of(vision: str | Path | None, folder: Path, named: str | None) -> PreTrainedConfig:
    """Config of the tower of a released checkpoint: from a folder, or by name from the local cache, never the network.

    Args:
        vision: what the user gave.
        folder: the released checkpoint.
        named: what its config calls the tower.
    """
    candidates = (
        [vision] if vision is not None else [folder / VISION_FOLDER, *([folder / named, named] if named else [])]
    )
    for candidate in candidates:
        try:
            config = AutoConfig.from_pretrained(candidate, local_files_only=True)
        except (OSError, ValueError):
            continue
        return getattr(config, "vision_config", config)
    raise ValueError(
        f"The config of the vision tower of {folder} ({named or 'not named'}) was not found: "
        f"{' or '.join(map(str, candidates))} is neither a folder with a config.json nor a name in the local cache. "
        "Give vision=FOLDER."
    )


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


def read_released(
    cls: type[DragonflyForConditionalGeneration],
    folder: str | Path,
    *,
    vision: str | Path | None,
    version: str,
    dtype: torch.dtype,
    device: torch.device | str,
) -> DragonflyForConditionalGeneration:
    """A model from a released folder; see `DragonflyForConditionalGeneration.from_released`."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json. A released checkpoint is a folder with config and weights.")
    fields = json.loads((folder / "config.json").read_text())
    ids = token_ids(folder, fields)
    config = DragonflyConfig(
        vision_config=vision_config_of(vision, folder, fields.get("image_encoder")),
        text_config=_text_config(fields),
        zoom=vars(released_zoom(version)),
        image_token_id=ids[tokens.IMAGE],
        newline_token_id=ids[tokens.NEWLINE],
        vision_source=fields.get("image_encoder"),
        **pixel_statistics(*([vision] if vision is not None else []), folder / VISION_FOLDER),
    )
    model = allocate(cls, config, dtype, device)
    stored, unused = _our_names(stored_tensors(folder), config)
    fill(model, stored, folder)
    model.unused_vision = unused
    model.generation_config = GenerationConfig(
        bos_token_id=fields.get("bos_token_id"),
        eos_token_id=[ids[tokens.END_OF_TURN], ids[tokens.END_OF_TEXT]],
        pad_token_id=ids[tokens.END_OF_TEXT],
        suppress_tokens=[ids[tokens.IMAGE]],
    )
    return model


def allocate(
    cls: type[DragonflyForConditionalGeneration],
    config: DragonflyConfig,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    language: PreTrainedModel | None = None,
) -> DragonflyForConditionalGeneration:
    """A model in eval mode whose weights hold anything, but for `language`; its buffers are right and in float32."""
    for part in (config, config.vision_config, config.text_config):
        part.dtype = dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), init.no_init_weights():
            model = cls(config, language=language)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    return model.eval()


def _text_config(fields: dict[str, Any]) -> PreTrainedConfig:
    """The flat Llama fields of a released config, `text_config` over them."""
    own = {k: v for k, v in fields.items() if k not in ("architectures", "text_config", "image_encoder", "model_type")}
    merged = own | {k: v for k, v in (fields.get("text_config") or {}).items() if v is not None}
    merged.pop("text_pretrained_model_name_or_path", None)
    for vision_field in ("image_size", "patch_size", "num_channels", "transformers_version", "torch_dtype", "dtype"):
        merged.pop(vision_field, None)
    return AutoConfig.for_model(merged.pop("model_type", "llama"), **merged)


def pixel_statistics(*folders: str | Path) -> dict[str, Any]:
    """Mean and deviation of the pixels from the first folder that says them; CLIP's are the config's default."""
    for folder in folders:
        file = Path(folder) / "preprocessor_config.json"
        if file.is_file():
            fields = json.loads(file.read_text())
            return {k: fields[k] for k in ("image_mean", "image_std") if k in fields}
    return {}


def _our_names(stored: dict[str, Stored], config: DragonflyConfig) -> tuple[dict[str, Stored], dict[str, Stored]]:
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


def unused_tensors(model: DragonflyForConditionalGeneration) -> dict[str, Tensor]:
    """The tower's weights after the features, by their names in the tower.

    From the files that the model came from. A model that never had them gets layers of zeros and a norm of ones,
    which hand the features through unchanged: the released code computes them and never looks at the outcome.
    """
    if model.unused_vision:
        return {name: tensor.read() for name, tensor in model.unused_vision.items()}
    config = model.config
    log.warning(
        "This model never had the tower's %d last layer(s); the file gets layers that hand their input through.",
        config.vision_config.num_hidden_layers - config.num_vision_layers_used,
    )
    with torch.device("meta"):
        from transformers import AutoModel

        whole = AutoModel.from_config(config.vision_config)
    names = {name.removeprefix("vision_model."): weight.shape for name, weight in whole.state_dict().items()}
    return {
        name: torch.full(shape, float(re.search(r"norm\d?\.weight$", name) is not None))
        for name, shape in names.items()
        if is_unused(name, config)
    }


def unused_beside(folder: Path) -> dict[str, Stored]:
    """The tower's unused weights that were saved beside a model, if they were."""
    file = folder / UNUSED_FILE
    return stored_in(file) if file.is_file() else {}
