"""From the plain configuration to the model and to what prepares its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from transformers import PreTrainedTokenizerBase

from dragonfly_lit.io.foreign import read_model_config, read_tokenizer
from dragonfly_lit.io.imports import OWN as OWN_PACKAGE
from dragonfly_lit.io.imports import locate
from dragonfly_lit.models.attention import choose_attention
from dragonfly_lit.models.backbones import BUILTIN, builtin_folder, vision_config_of
from dragonfly_lit.models.config import OWN_PARTS, DragonflyConfig
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.projector import Projector
from dragonfly_lit.models.quantized import check_quantize
from dragonfly_lit.models.vision import Tower
from dragonfly_lit.models.zoom import ZoomRule
from dragonfly_lit.processing.formats import FRONT, IN_PLACE, LLAMA3, OWN, ChatFormat, chat_format, template_of
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.released import released_zoom

Config = dict[str, Any]


def build_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """The tokenizer of the language model, as it lies on the disk.

    Raises:
        ValueError: there is none where `language.tokenizer` says.
    """
    language = config["language"]
    path = Path(config["model"]["released"] or language["path"])
    where = f"model.released={path}" if config["model"]["released"] else f"language.path={path}"
    if language["tokenizer"] is not None:
        tokenizer = _given_tokenizer(language["tokenizer"])
    elif str(path) == BUILTIN:
        tokenizer = read_tokenizer(builtin_folder("tokenizer"), where=where)
    elif path.suffix == ".gguf":
        tokenizer = read_tokenizer(path.parent, where=where, gguf_file=path.name)
    else:
        if not config["model"]["released"]:
            read_model_config(path, where=where)  # first, because transformers warns where the tokenizer falls back
        tokenizer = read_tokenizer(path, where=where)
    return tokenizer


def read_chat(config: Config) -> None:
    """Put the words of FILE in place of `language.chat=FILE.jinja`, so that a run holds all that it was made with.

    Args:
        config: resolved; changed in place.

    Raises:
        ValueError: the file cannot be read, or the value is neither a format nor a file.
    """
    language = config["language"]
    chat = language.get("chat", LLAMA3)  # runs of earlier versions have none
    if chat in (LLAMA3, OWN) or "{%" in chat or "{{" in chat:
        return
    if Path(chat).suffix not in (".jinja", ".jinja2", ".j2"):
        raise ValueError(f"language.chat={chat} is unknown. Use {LLAMA3}, {OWN}, or FILE.jinja with a chat template.")
    try:
        language["chat"] = Path(chat).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"language.chat={chat} cannot be read ({error}). Give a chat template in UTF-8.") from error
    if "{%" not in language["chat"] and "{{" not in language["chat"]:
        raise ValueError(f"language.chat={chat} is not a chat template: it writes the same for every conversation.")


def build_chat(config: Config, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """The format of conversations; the tokenizer is taught the tokens that it needs and lacks.

    Raises:
        ValueError: there is no template, or which tokens are an answer cannot be told exactly from it.
    """
    read_chat(config)
    chat = config["language"].get("chat", LLAMA3)
    in_place = config["model"].get("images", FRONT) == IN_PLACE  # runs of earlier versions do not say
    if in_place and config["model"]["released"]:
        raise ValueError(
            f"model.images={IN_PLACE} with model.released={config['model']['released']}: a released model has its "
            f"images in front. Set model.images={FRONT}."
        )
    if chat == LLAMA3:
        return chat_format(tokenizer, in_place=in_place)
    shown = OWN if chat == OWN else "FILE.jinja"
    if released := config["model"]["released"]:
        raise ValueError(
            f"language.chat={shown} with model.released={released}: a released model speaks in Llama-3's format. Set "
            "language.chat=llama3."
        )
    template = template_of(tokenizer) if chat == OWN else chat
    return chat_format(tokenizer, template, where=f"language.chat={shown}", in_place=in_place)


def _given_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    where = f"language.tokenizer={folder}"
    try:
        return read_tokenizer(folder, where=where)
    except ValueError as error:
        if Path(folder, "tokenizer_config.json").is_file() or Path(folder, "tokenizer.json").is_file():
            raise
        # transformers' message speaks of names on its hub
        raise ValueError(
            f"{where} is not a folder with a tokenizer. Give one, or null for the one beside the weights."
        ) from error


def build_layout(config: Config) -> Layout:
    """The layout of an image's tokens, from the tower's config and the zoom; no weight is read."""
    vision = config["vision"]
    released = config["model"]["released"]
    folder = builtin_folder("vision") if vision["path"] == BUILTIN else Path(vision["path"])
    vision_config = vision_config_of(folder, folder, None)
    vision_config.image_size = vision["image_size"] or vision_config.image_size
    zoom = released_zoom(config["model"]["version"]) if released else zoom_of(config)
    return DragonflyConfig(vision_config=vision_config, zoom=vars(zoom), vision_tower=vision.get("tower")).layout


@dataclass(frozen=True, kw_only=True)
class Components:
    """What a run needs beside the model, built once: everything that turns samples into the model's inputs.

    Attributes:
        tokenizer: of the language model, with the special tokens of its format.
        layout: how many tokens an image takes.
        attention: the attention implementation that `model.attention` means on the run's device, and why.
        builder: samples to sequences, for training.
        processor: text and images to inputs, for whoever uses the trained model.
    """

    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    attention: tuple[str, str]
    builder: SequenceBuilder
    processor: DragonflyProcessor


def build_components(config: Config, device: torch.device | str = "cpu") -> Components:
    """The components of a resolved configuration; no weight is read.

    Args:
        config: resolved.
        device: on which the model will run; decides which attention it gets.
    """
    model, tokenizer, layout = config["model"], build_tokenizer(config), build_layout(config)
    chat = build_chat(config, tokenizer)
    half = config["trainer"]["precision"] in ("bf16", "fp8")
    builder = SequenceBuilder(
        tokenizer=tokenizer,
        layout=layout,
        max_tokens=model["max_tokens"],
        resize=model["resize"],
        supervise=model["supervise"],
        too_long=model["too_long"],
        chat=chat,
    )
    images = DragonflyImageProcessor.of(layout, model["resize"])
    return Components(
        tokenizer=tokenizer,
        layout=layout,
        attention=choose_attention(model["attention"], device, torch.bfloat16 if half else torch.float32),
        builder=builder,
        processor=DragonflyProcessor(
            images,
            tokenizer,
            chat.template or None,
            max_length=model["max_tokens"],
            chat=chat.name,
            images=IN_PLACE if chat.in_place else FRONT,
        ),
    )


def zoom_of(config: Config) -> Zoom:
    """What the configuration looks at; `zoom.selector`, which ranks, is a part of the model."""
    return Zoom(**{key: value for key, value in config["zoom"].items() if key != "selector"})


def own_parts(config: Config) -> dict[str, dict[str, Any] | None]:
    """The nodes that name the tower, the zoom rule and the projector; a run of an earlier version has none."""
    return {
        "vision.tower": config["vision"].get("tower"),
        "zoom.selector": config["zoom"].get("selector"),
        "projector": config.get("projector"),
    }


def modules_to_trust(config: Config) -> list[str]:
    """The user's own modules that whoever reads a run of this configuration has to name, as `trust=[MODULES]`."""
    targets = [str(node["_target_"]) for node in own_parts(config).values() if node is not None]
    return sorted({target.partition(".")[0] for target in targets} - {OWN_PACKAGE})


def look_up_parts(config: Config, *, file: Path | None) -> None:
    """Find the classes of `own_parts`, before any weight is read.

    Args:
        config: resolved.
        file: where the configuration was read from, which may then import nothing (`io.imports.locate`); None for
            what the user composed, whose modules are imported.

    Raises:
        ValueError: one line that names the key, for a class that does not exist, is not of the right kind, or comes
            from a module that the file may not import.
    """
    for (key, node), base in zip(own_parts(config).items(), (Tower, ZoomRule, Projector), strict=True):
        if node is not None:
            target = node.get("_target_")
            trusted = [str(target)] if file is None else []
            locate(target, where=key if file is None else f"{file}: {key}", trusted=trusted, base=base)


@runtime_checkable
class ModelFactory(Protocol):
    """Builds a model from its pretrained parts, or from a released checkpoint."""

    def __call__(self, device: str = "cpu") -> DragonflyForConditionalGeneration:
        """A new one.

        Args:
            device: where its weights are put; on the meta device none are read.
        """
        ...


def model_factory(config: Config, components: Components) -> ModelFactory:
    """A function that builds the model of a resolved configuration.

    Raises:
        ValueError: a released checkpoint is given and a part that it does not have.
    """
    model, vision = config["model"], config["vision"]
    dtype, quantize = getattr(torch, model["dtype"]), model.get("quantize")  # runs of earlier versions have none
    check_quantize(quantize)
    nodes = own_parts(config)
    # A config drops the built-in parts, however they are written.
    fields = DragonflyConfig(**dict(zip(OWN_PARTS, nodes.values(), strict=True)))
    parts = {name: getattr(fields, name) for name in OWN_PARTS}
    for key, part in zip(nodes, parts.values(), strict=True):
        if model["released"] and part is not None:
            raise ValueError(
                f"model.released={model['released']} brings its own weights, and {key}={part['_target_']} has none "
                "there. Leave it built in (projector=linear), or set model.released=null."
            )

    def build(device: str = "cpu") -> DragonflyForConditionalGeneration:
        if model["released"]:
            built = DragonflyForConditionalGeneration.from_released(
                model["released"],
                vision=vision["path"],
                version=model["version"],
                dtype=dtype,
                device=device,
                quantize=quantize,
            )
        else:
            built = DragonflyForConditionalGeneration.from_backbones(
                vision=vision["path"],
                language=config["language"]["path"],
                tokenizer=components.tokenizer,
                zoom=zoom_of(config),
                image_size=vision["image_size"],
                feature_layer=vision["feature_layer"],
                parts=parts,
                dtype=dtype,
                device=device,
                seed=config["seed"],
                ids=components.builder.chat.ids,
                chat=components.builder.chat.name,
                images=components.processor.images,
                quantize=quantize,
            )
        built.language.set_attn_implementation(components.attention[0])
        return built

    return build
