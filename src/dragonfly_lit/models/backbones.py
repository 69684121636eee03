"""The pretrained parts of a fresh Dragonfly, from their own files; where stage 1 begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from dragonfly_lit.io.foreign import foreign, read_json, read_model_config
from dragonfly_lit.models.build import build_projector, build_tower, build_zoom_rule
from dragonfly_lit.models.language import head_of, words_of
from dragonfly_lit.models.pretrained import DragonflyPreTrainedModel
from dragonfly_lit.models.quantized import Quantize, quantize_layers, with_room
from dragonfly_lit.models.released_keys import VISION_FOLDER
from dragonfly_lit.models.weights import Stored, check_fits, check_size, fill, stored_tensors

BUILTIN = "builtin"
_POSITIONS = "embeddings.position_embedding.weight"


def builtin_folder(part: str) -> Path:
    """Folder of a tiny pretrained part that comes with the package: `vision`, `language` or `tokenizer`."""
    return Path(__file__).parent / "tiny_weights" / part


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
        where = f"vision.path={candidate}"
        try:
            config = read_model_config(candidate, where=where)
        except ValueError:
            if Path(candidate, "config.json").is_file():
                raise
            continue
        tower = getattr(config, "vision_config", config)
        if not isinstance(getattr(tower, "image_size", None), int) or not isinstance(tower, PreTrainedConfig):
            raise ValueError(
                f"{where} is a {config.model_type} without an image_size, not a vision tower. Give another."
            )
        return tower
    raise ValueError(
        f"The config of the vision tower of {folder} ({named or 'not named'}) was not found: "
        f"{' or '.join(map(str, candidates))} is neither a folder with a config.json nor a name in the local cache. "
        "Give vision=FOLDER."
    )


def pixel_statistics(*folders: str | Path) -> dict[str, Any]:
    """Mean and deviation of the pixels from the first folder that says them; CLIP's are the config's default."""
    for folder in folders:
        file = Path(folder) / "preprocessor_config.json"
        if file.is_file():
            fields = read_json(file)
            return {k: fields[k] for k in ("image_mean", "image_std") if k in fields}
    return {}


def read_language(
    path: Path, dtype: torch.dtype, device: torch.device | str = "cpu", quantize: Quantize | None = None
) -> PreTrainedModel:
    """A language model from a folder or a .gguf file, by transformers, every key accounted for.

    Args:
        path: of the folder or file.
        dtype: of the weights.
        device: where they are put; on the meta device none are read.
        quantize: holds the linear layers below the head in few bits; see `models.quantized`.

    Raises:
        ValueError: there is nothing at `path`, it wants code of its own, or its weights do not fit its config.
    """
    where = f"language.path={path}"
    if not path.exists():
        raise ValueError(f"{where} is not there. Give a folder with config and weights, or a .gguf file.")
    if (path / "adapter_config.json").is_file():  # transformers would read the model that this file names
        raise ValueError(
            f"{where} holds adapters (adapter_config.json), not a whole model. Merge them with peft's "
            "merge_and_unload, save the model, and give its folder."
        )
    source = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if source else path
    config = None if source else read_model_config(folder, where=where)
    if torch.device(device).type == "meta":
        language = _language_without_weights(folder, dtype, where, source)
        return language if quantize is None else with_room(language, quantize, "meta")
    if config is not None:
        check_size(config.get_text_config(), folder, where)
        check_size(_language_without_weights(folder, dtype, where, source), folder, where)
    if quantize is not None and (rounded := _rounded(folder, dtype, device, quantize, where, source)) is not None:
        return rounded
    with foreign(where, folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            **source,
        )
    language, info = loaded
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "mismatched_keys") if info[kind]}
    if wrong:
        said = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(keys[:4])}" for kind, keys in wrong.items())
        raise ValueError(f"{path} does not fit its config ({said}). Copy the whole checkpoint.")
    if quantize is not None:
        quantize_layers(language, quantize)
    return language.to(device)


def _rounded(
    folder: Path, dtype: torch.dtype, device: torch.device | str, kind: Quantize, where: str, source: dict[str, str]
) -> PreTrainedModel | None:
    """Filled from its files layer by layer; None where only transformers knows which tensor is which weight."""
    language = _language_without_weights(folder, dtype, where, source)
    try:
        stored = {} if source else stored_tensors(folder)
        check_fits(language, stored, where)
    except ValueError:
        return None
    language = with_room(language, kind, device)
    fill(language, stored, where)
    return language.eval()


def _language_without_weights(folder: Path, dtype: torch.dtype, where: str, source: dict[str, str]) -> PreTrainedModel:
    with foreign(where, folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **source)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def enlarge(language: PreTrainedModel, num_words: int) -> None:
    """Room for added tokens; a new word starts as the mean of the old ones."""
    old = words_of(language).weight.shape[0]
    if num_words <= old:
        return
    language.resize_token_embeddings(num_words, mean_resizing=False)
    with torch.no_grad():
        for layer in (words_of(language), head_of(language)):
            layer.weight[old:] = layer.weight[:old].float().mean(0).to(layer.weight.dtype)


def fill_tower(model: DragonflyPreTrainedModel, stored: dict[str, Stored], source: Path) -> None:
    """Fill what the tower calls `tower`; position embeddings of another resolution are interpolated (bicubic).

    A tower of the user's own that has nothing of that name reads no pretrained weights.
    """
    pretrained = getattr(model.vision, "tower", None)
    if not isinstance(pretrained, nn.Module):
        return
    prefix = "vision.tower."
    tower = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
    target, positions = pretrained.state_dict(keep_vars=True)[_POSITIONS], tower.get(_POSITIONS)
    if positions is None or positions.shape == tuple(target.shape):
        fill(pretrained, tower, source)
        return
    resized = interpolate_positions(positions.read(), len(target), int(model.layout.class_token))
    # Checked and filled like all the others, at the size that was asked for.
    fill(pretrained, {k: v for k, v in tower.items() if k != _POSITIONS}, source, given={_POSITIONS: resized})


def interpolate_positions(positions: Tensor, num_positions: int, num_class: int) -> Tensor:
    """Position embeddings (positions, width) at another number of patches; the class token keeps its own."""
    first, patches = positions[:num_class], positions[num_class:].float()
    old, new = round(len(patches) ** 0.5), round((num_positions - num_class) ** 0.5)
    grid = patches.view(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([first.float(), resized.permute(0, 2, 3, 1).flatten(0, 2)])


def initialise(model: DragonflyPreTrainedModel, seed: int) -> None:
    """Fresh weights for what no file brings: the projector, the zoom rule, and what a tower has beside its `tower`.

    Each part is built once more, as its constructor leaves it; so what a user's own class draws is drawn here too.
    """
    config = model.config
    own = [name for name in model.vision.state_dict() if not name.startswith("tower.")]
    # torch.manual_seed would seed the GPUs as well, and nothing would put those back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model.projector.load_state_dict(build_projector(config, model.vision.width).state_dict())
        model.zoom.load_state_dict(build_zoom_rule(config).state_dict())
        if own:
            fresh = build_tower(config).state_dict()
            model.vision.load_state_dict({name: fresh[name] for name in own}, strict=False)
