"""From the plain configuration to the model and to what prepares its inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dragonfly_lit.models.attention import choose_attention
from dragonfly_lit.models.backbones import BUILTIN, builtin_folder, vision_config_of
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.processing.encoding import add_structural_tokens
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.released import released_zoom

Config = dict[str, Any]
ModelFactory = Callable[[], DragonflyForConditionalGeneration]


def build_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The tokenizer of the language model, taught the structural tokens where it lacks some.

    Raises:
        ValueError: there is none where `language.tokenizer` says.
    """
    language = config["language"]
    path = Path(config["model"]["released"] or language["path"])
    if language["tokenizer"] is not None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(language["tokenizer"], local_files_only=True)
        except (OSError, ValueError) as error:  # transformers' message speaks of names on its hub
            raise ValueError(
                f"language.tokenizer={language['tokenizer']} is not a folder with a tokenizer. Give one, or null for "
                "the one beside the weights."
            ) from error
    elif str(path) == BUILTIN:
        tokenizer = AutoTokenizer.from_pretrained(builtin_folder("tokenizer"))
    elif path.suffix == ".gguf":
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    else:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    add_structural_tokens(tokenizer)
    return tokenizer


def build_layout(config: Config) -> Layout:
    """The layout of an image's tokens, from the tower's config and the zoom; no weight is read."""
    vision = config["vision"]
    released = config["model"]["released"]
    folder = builtin_folder("vision") if vision["path"] == BUILTIN else Path(vision["path"])
    vision_config = vision_config_of(folder, folder, None)
    vision_config.image_size = vision["image_size"] or vision_config.image_size
    zoom = released_zoom(config["model"]["version"]) if released else Zoom(**config["zoom"])
    return DragonflyConfig(vision_config=vision_config, zoom=vars(zoom)).layout


def build_builder(config: Config) -> SequenceBuilder:
    """What turns samples into sequences."""
    model = config["model"]
    return SequenceBuilder(
        tokenizer=build_tokenizer(config),
        layout=build_layout(config),
        max_tokens=model["max_tokens"],
        resize=model["resize"],
        supervise=model["supervise"],
        too_long=model["too_long"],
    )


def build_processor(config: Config) -> DragonflyProcessor:
    """The processor that a user of the trained model needs, with the run's tokenizer, layout and resize."""
    images = DragonflyImageProcessor.of(build_layout(config), config["model"]["resize"])
    return DragonflyProcessor(images, build_tokenizer(config), max_length=config["model"]["max_tokens"])


def model_factory(config: Config, device: torch.device | str = "cpu") -> ModelFactory:
    """A function that builds the model on the CPU from its pretrained parts, or from a released checkpoint.

    Args:
        config: resolved.
        device: on which the model will run; decides which attention it gets.
    """
    model, vision = config["model"], config["vision"]
    dtype = getattr(torch, model["dtype"])
    attention, _ = attention_of(config, device)

    def build() -> DragonflyForConditionalGeneration:
        if model["released"]:
            built = DragonflyForConditionalGeneration.from_released(
                model["released"], vision=vision["path"], version=model["version"], dtype=dtype
            )
        else:
            built = DragonflyForConditionalGeneration.from_backbones(
                vision=vision["path"],
                language=config["language"]["path"],
                tokenizer=build_tokenizer(config),
                zoom=Zoom(**config["zoom"]),
                image_size=vision["image_size"],
                feature_layer=vision["feature_layer"],
                dtype=dtype,
                seed=config["seed"],
            )
        built.language.set_attn_implementation(attention)
        return built

    return build


def attention_of(config: Config, device: torch.device | str) -> tuple[str, str]:
    """The attention implementation that `model.attention` means on `device`, and why."""
    half = config["trainer"]["precision"] in ("bf16", "fp8")
    return choose_attention(config["model"]["attention"], device, torch.bfloat16 if half else torch.float32)
