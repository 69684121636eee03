"""What a model is by the config.json of its parts, on the meta device: no weight is read, and nothing else on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dragonfly_lit.models.config import DragonflyConfig
    from dragonfly_lit.models.flops import Trained
    from dragonfly_lit.training.stages import Stage


def known_folder(path: str) -> str:
    """The folder of a part, or of the config.json that comes with the package where the part is not on disk."""
    shipped = Path(__file__).parents[1] / "models/known_configs" / Path(path).name
    return str(shipped) if not Path(path).exists() and (shipped / "config.json").is_file() else path


def model_config(config: Mapping[str, Any]) -> DragonflyConfig:
    """The model's config from the configuration, its parts' config.json and nothing else.

    Raises:
        ValueError: a part is neither on disk nor known, or has no config of its own.
    """
    from dragonfly_lit.app.check import check_weights
    from dragonfly_lit.app.factories import own_parts, zoom_of
    from dragonfly_lit.io.foreign import read_json, read_model_config
    from dragonfly_lit.models.backbones import BUILTIN, builtin_folder, vision_config_of
    from dragonfly_lit.models.config import OWN_PARTS, DragonflyConfig
    from dragonfly_lit.models.released_keys import text_config
    from dragonfly_lit.spec.released import released_zoom

    vision, language, model = config["vision"], config["language"], config["model"]
    folders = {name: Path(known_folder(config[name]["path"])) for name in ("vision", "language")}
    for name, folder in folders.items():
        if config[name]["path"] == BUILTIN:
            folders[name] = builtin_folder(name)
        else:
            check_weights(name, str(folder), dict(config))
    if folders["language"].suffix == ".gguf":
        raise ValueError(f"language.path={language['path']}: plan reads a config.json, which a .gguf file has not.")
    tower = vision_config_of(folders["vision"], folders["vision"], None)
    tower.image_size = vision["image_size"] or tower.image_size
    if model["released"]:
        words = text_config(read_json(Path(model["released"]) / "config.json"))
        zoom = released_zoom(model["version"])
    else:
        words = read_model_config(folders["language"], where=f"language.path={language['path']}")
        zoom = zoom_of(dict(config))
    parts = {} if model["released"] else dict(zip(OWN_PARTS, own_parts(dict(config)).values(), strict=True))
    return DragonflyConfig(
        vision_config=tower, text_config=words, zoom=vars(zoom), feature_layer=vision["feature_layer"], **parts
    )


def check_image_fits(num_tokens: int, longest: int) -> None:
    """Refuse a model none of whose images fits into a sample.

    Args:
        num_tokens: of an image.
        longest: a sample may be.

    Raises:
        ValueError: names both and the keys to change.
    """
    if num_tokens >= longest:
        raise ValueError(
            f"an image takes {num_tokens:,} tokens, and a sample may have model.max_tokens={longest:,}. Raise "
            "it, or set a larger zoom.pool, a smaller zoom.top_k, or another tower."
        )


def frozen_model(sizes: DragonflyConfig, stage: Stage, quantize: str | None = None) -> tuple[nn.Module, Trained]:
    """The model of a stage on the meta device, and which parts of it train.

    Args:
        sizes: of the model.
        stage: what trains.
        quantize: `model.quantize`.

    Raises:
        ValueError: the stage trains what is held in few bits.
    """
    import torch

    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.models.flops import Trained
    from dragonfly_lit.models.quantized import quantize_layers
    from dragonfly_lit.training.lora import add_adapters
    from dragonfly_lit.training.stages import check_trains_floats, freeze

    with torch.device("meta"):
        model = DragonflyForConditionalGeneration(sizes)
        if quantize is not None:
            quantize_layers(model.language, quantize, filled=False)
        check_trains_floats(model, stage)
        if stage.lora is not None:
            add_adapters(model.language, stage.lora)
    freeze(model, stage)
    trains = {
        name: any(p.requires_grad and "lora_" not in n for n, p in getattr(model, name).named_parameters())
        for name in ("vision", "projector", "language")
    }
    return model, Trained(**trains, adapters=stage.lora is not None)
