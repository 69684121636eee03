"""A model from folders and into folders: released checkpoints in and out, and pretrained parts in."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init

from dragonfly_lit.io.foreign import foreign, read_json, read_model_config
from dragonfly_lit.models.backbones import (
    BUILTIN,
    builtin_folder,
    enlarge,
    fill_tower,
    initialise,
    pixel_statistics,
    read_language,
    vision_config_of,
)
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.language import build_language
from dragonfly_lit.models.pretrained import DragonflyPreTrainedModel
from dragonfly_lit.models.quantized import Quantize, refuse_quantized, with_room
from dragonfly_lit.models.released_keys import (
    TOWER_PREFIX,
    VISION_FOLDER,
    check_releasable,
    is_unused,
    our_names,
    released_config,
    released_name,
    text_config,
    token_ids,
    tower_names,
)
from dragonfly_lit.models.weights import Stored, check_fits, check_size, fill, stored_in, stored_tensors
from dragonfly_lit.spec import tokens
from dragonfly_lit.spec.layout import Zoom
from dragonfly_lit.spec.released import released_zoom
from dragonfly_lit.spec.tokens import SpecialIds, special_ids

log = logging.getLogger(__name__)
UNUSED_FILE = "vision_unused.safetensors"
"""Beside a saved model: the tower's layers after the features, which the released layout has and nothing computes."""
Model = TypeVar("Model", bound=DragonflyPreTrainedModel)


def load_released(
    cls: type[Model],
    folder: str | Path,
    *,
    vision: str | Path | None,
    version: str,
    dtype: torch.dtype,
    device: torch.device | str,
    quantize: Quantize | None = None,
) -> Model:
    """See `DragonflyForConditionalGeneration.from_released`."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json. A released checkpoint is a folder with config and weights.")
    fields = read_json(folder / "config.json")
    vision_config = vision_config_of(vision, folder, fields.get("image_encoder"))
    with foreign(str(folder)):
        if not _is_meta(device):
            check_size(text_config(fields), folder, str(folder))
        ids = token_ids(folder, fields)
        config = DragonflyConfig(
            vision_config=vision_config,
            text_config=text_config(fields),
            zoom=vars(released_zoom(version)),
            image_token_id=ids[tokens.IMAGE],
            newline_token_id=ids[tokens.NEWLINE],
            vision_source=fields.get("image_encoder"),
            **pixel_statistics(*([vision] if vision is not None else []), folder / VISION_FOLDER),
        )
        model = allocate(cls, config, dtype, device, quantize=quantize)
    if not _is_meta(device):
        stored, model.unused_vision = our_names(stored_tensors(folder), config)
        fill(model, stored, folder)
    model.generation_config = GenerationConfig(
        bos_token_id=fields.get("bos_token_id"),
        eos_token_id=[ids[tokens.END_OF_TURN], ids[tokens.END_OF_TEXT]],
        pad_token_id=ids[tokens.END_OF_TEXT],
        suppress_tokens=[ids[tokens.IMAGE]],
    )
    return model


def load_exported(
    cls: type[Model],
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
    quantize: Quantize | None = None,
) -> Model:
    """See `DragonflyForConditionalGeneration.from_exported`."""
    where = str(folder)
    config = read_model_config(folder, where=where)
    with foreign(where, folder):
        if not isinstance(config, DragonflyConfig):
            raise ValueError(f"{where} holds a {config.model_type}, not a Dragonfly. Give what `export` wrote.")
        for part in (config.text_config, config.vision_config):
            check_size(part, folder, where)
        # transformers would make up what is missing, after it took the memory for it
        stored = stored_tensors(folder)
        check_fits(allocate(cls, copy.deepcopy(config), torch.float32, "meta"), stored, folder)
        if quantize is not None:  # transformers would make room for floats first
            model = allocate(cls, config, dtype or _dtype_of(config), device, quantize=quantize)
            fill(model, stored, folder)
            model.unused_vision = unused_beside(folder)
            if (file := folder / "generation_config.json").is_file():
                model.generation_config = GenerationConfig.from_dict(read_json(file))
            return model
        given: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        read = cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False, weights_only=True, **given)
        return read.to(device)  # pyright: ignore[reportArgumentType]


def _dtype_of(config: DragonflyConfig) -> torch.dtype:
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def from_backbones(
    cls: type[Model],
    *,
    vision: str | Path,
    language: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    ids: SpecialIds | None,
    chat: str,
    images: str,
    zoom: Zoom,
    image_size: int | None,
    feature_layer: int,
    parts: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device | str,
    seed: int,
    quantize: Quantize | None = None,
) -> Model:
    """See `DragonflyForConditionalGeneration.from_backbones`."""
    vision = builtin_folder("vision") if vision == BUILTIN else Path(vision)
    language = builtin_folder("language") if language == BUILTIN else Path(language)
    ids = ids or special_ids(tokenizer)
    vision_config = vision_config_of(vision, vision, None)
    if not _is_meta(device):
        check_size(vision_config, vision, f"vision.path={vision}")
    trained_size = vision_config.image_size
    vision_config.image_size = image_size or trained_size
    model_of_words = read_language(language, dtype, device, quantize)
    enlarge(model_of_words, len(tokenizer))
    config = DragonflyConfig(
        vision_config=vision_config,
        text_config=model_of_words.config,
        zoom=vars(zoom),
        image_token_id=ids.image,
        newline_token_id=ids.newline,
        feature_layer=feature_layer,
        vision_source=str(vision),
        chat=chat,
        images=images,
        **parts,
        **pixel_statistics(vision),
    )
    model = allocate(cls, config, dtype, device, language=model_of_words)
    if not _is_meta(device):
        stored, model.unused_vision = tower_names(stored_tensors(vision), config)
        fill_tower(model, stored, vision)
        initialise(model, seed)
    model.generation_config.bos_token_id = ids.begin
    model.generation_config.eos_token_id = list(dict.fromkeys((ids.end_of_turn, ids.end)))
    model.generation_config.pad_token_id = ids.padding
    return model


def _is_meta(device: torch.device | str) -> bool:
    return torch.device(device).type == "meta"


def save_released(model: DragonflyPreTrainedModel, folder: str | Path, max_shard_size: str) -> None:
    """See `DragonflyForConditionalGeneration.save_released`."""
    folder, config = Path(folder), model.config
    refuse_quantized(model)
    check_releasable(config)
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
    dtype = str(model.projector.dtype).removeprefix("torch.")
    fields = released_config(config, model.generation_config, dtype)
    (folder / "config.json").write_text(json.dumps(fields, indent=2))
    model.generation_config.save_pretrained(folder)
    config.vision_config.save_pretrained(folder / VISION_FOLDER)
    statistics = {"image_mean": config.image_mean, "image_std": config.image_std}
    (folder / VISION_FOLDER / "preprocessor_config.json").write_text(json.dumps(statistics, indent=2))


def _released_state(model: DragonflyPreTrainedModel) -> dict[str, Tensor]:
    state = {released_name(name): weight.cpu() for name, weight in model.state_dict().items()}
    for name, weight in unused_tensors(model).items():
        state[TOWER_PREFIX + name] = weight.to(model.vision.dtype)
    if model.config.text_config.tie_word_embeddings:
        state["language_model.lm_head.weight"] = state["language_model.lm_head.weight"].clone()
    return state


def allocate(
    cls: type[Model],
    config: DragonflyConfig,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    language: PreTrainedModel | None = None,
    quantize: Quantize | None = None,
) -> Model:
    """A model in eval mode whose weights hold anything, but for `language`; its buffers are right and in float32."""
    for part in (config, config.vision_config, config.text_config):
        part.dtype = dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        if quantize is not None and language is None:
            with torch.device("meta"):
                skeleton = build_language(config.text_config)
            language = with_room(skeleton, quantize, device)
        with torch.device(device), init.no_init_weights():
            model = cls(config, language=language)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    return model.eval()


def unused_tensors(model: DragonflyPreTrainedModel) -> dict[str, Tensor]:
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
        whole = AutoModel.from_config(config.vision_config, trust_remote_code=False)
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


def save_unused(unused: dict[str, Tensor], folder: Path) -> dict[str, Stored]:
    """Write the tower's unused weights beside a saved model; where they lie from now on."""
    save_file(unused, folder / UNUSED_FILE)
    return unused_beside(folder)
