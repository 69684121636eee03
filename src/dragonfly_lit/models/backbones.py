"""A fresh Dragonfly from a pretrained tower and a pretrained language model: where stage 1 begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.io import allocate, pixel_statistics, tower_names, vision_config_of
from dragonfly_lit.models.language import head_of, words_of
from dragonfly_lit.models.weights import Stored, fill, stored_tensors
from dragonfly_lit.spec.layout import Zoom
from dragonfly_lit.spec.tokens import special_ids

if TYPE_CHECKING:
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration

BUILTIN = "builtin"
_POSITIONS = "vision.tower.embeddings.position_embedding.weight"


def builtin_folder(part: str) -> Path:
    """Folder of a tiny pretrained part that comes with the package: `vision`, `language` or `tokenizer`."""
    return Path(__file__).parent / "tiny_weights" / part


def assemble(
    cls: type[DragonflyForConditionalGeneration],
    *,
    vision: str | Path,
    language: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    zoom: Zoom,
    image_size: int | None,
    feature_layer: int,
    dtype: torch.dtype,
    device: torch.device | str,
    seed: int,
) -> DragonflyForConditionalGeneration:
    """See `DragonflyForConditionalGeneration.from_parts`."""
    vision = builtin_folder("vision") if vision == BUILTIN else Path(vision)
    language = builtin_folder("language") if language == BUILTIN else Path(language)
    ids = special_ids(tokenizer)
    vision_config = vision_config_of(vision, vision, None)
    trained_size = vision_config.image_size
    vision_config.image_size = image_size or trained_size
    model_of_words = read_language(language, dtype, device)
    _enlarge(model_of_words, len(tokenizer))
    config = DragonflyConfig(
        vision_config=vision_config,
        text_config=model_of_words.config,
        zoom=vars(zoom),
        image_token_id=ids.image,
        newline_token_id=ids.newline,
        feature_layer=feature_layer,
        vision_source=str(vision),
        **pixel_statistics(vision),
    )
    model = allocate(cls, config, dtype, device, language=model_of_words)
    stored, unused = tower_names(stored_tensors(vision), config)
    fill_tower(model, stored, vision)
    model.unused_vision = unused
    initialise(model, seed)
    model.generation_config.bos_token_id = ids.begin
    model.generation_config.eos_token_id = [ids.end_of_turn, ids.end]
    model.generation_config.pad_token_id = ids.end
    return model


def read_language(path: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A language model from a folder or a .gguf file, by transformers, every key accounted for.

    Raises:
        ValueError: there is nothing at `path`, or its weights do not fit its config.
    """
    if not path.exists():
        raise ValueError(f"language.path={path} is not there. Give a folder with config and weights, or a .gguf file.")
    source = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path.parent if source else path, dtype=dtype, local_files_only=True, output_loading_info=True, **source
    )
    language, info = loaded
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "mismatched_keys") if info[kind]}
    if wrong:
        said = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(keys[:4])}" for kind, keys in wrong.items())
        raise ValueError(f"{path} does not fit its config ({said}). Copy the whole checkpoint.")
    return language.to(device)


def _enlarge(language: PreTrainedModel, num_words: int) -> None:
    """Room for added tokens; a new word starts as the mean of the old ones."""
    old = words_of(language).weight.shape[0]
    if num_words <= old:
        return
    language.resize_token_embeddings(num_words, mean_resizing=False)
    with torch.no_grad():
        for layer in (words_of(language), head_of(language)):
            layer.weight[old:] = layer.weight[:old].float().mean(0).to(layer.weight.dtype)


def fill_tower(model: DragonflyForConditionalGeneration, stored: dict[str, Stored], source: Path) -> None:
    """Fill the tower; position embeddings of another resolution are interpolated (bicubic)."""
    tower = {name.removeprefix("vision."): tensor for name, tensor in stored.items() if name.startswith("vision.")}
    name = _POSITIONS.removeprefix("vision.")
    target = model.vision.state_dict(keep_vars=True)[name]
    positions = tower.get(name)
    if positions is None or positions.shape == tuple(target.shape):
        fill(model.vision, tower, source)
        return
    resized = interpolate_positions(positions.read(), len(target), int(model.layout.class_token))
    # Checked and filled like all the others, at the size that was asked for.
    fill(model.vision, {k: v for k, v in tower.items() if k != name}, source, given={name: resized})


def interpolate_positions(positions: Tensor, num_positions: int, num_class: int) -> Tensor:
    """Position embeddings (positions, width) at another number of patches; the class token keeps its own."""
    first, patches = positions[:num_class], positions[num_class:].float()
    old, new = round(len(patches) ** 0.5), round((num_positions - num_class) ** 0.5)
    grid = patches.view(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([first.float(), resized.permute(0, 2, 3, 1).flatten(0, 2)])


def initialise(model: DragonflyForConditionalGeneration, seed: int) -> None:
    """A fresh projector, and a learned score that starts as the parameter-free one."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        bound = model.projector.in_features**-0.5
        for weight in model.projector.parameters():
            weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
        if model.zoom.query is not None:
            nn.init.eye_(model.zoom.query.weight)
