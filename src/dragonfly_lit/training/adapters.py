"""Adapters by themselves, in peft's own layout: written for whoever has the model below them, and read onto it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dragonfly_lit.io.foreign import foreign, read_json
from dragonfly_lit.models.quantized import QuantizedLinear
from dragonfly_lit.models.weights import stored_in
from dragonfly_lit.training.lora import import_peft, is_adapter, merged_weight
from dragonfly_lit.training.stages import Lora

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_READ = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora",
)  # fmt: skip
"""Fields that say where adapters are and how they count."""
_TOLD = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "init_lora_weights", "megatron_core", "qalora_group_size", "runtime_config",
)  # fmt: skip
"""Fields that change nothing of adapters which are read; any other must be off, as it is without being named."""


def holds_adapters(folder: Path) -> bool:
    """Whether a folder is of adapters alone."""
    return (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> Path:
    """The folder of the model below the adapters, which their config names: beside them, or from where one works.

    Raises:
        ValueError: it is not a folder here; nothing is fetched.
    """
    named = read_json(folder / CONFIG_FILE).get("base_model_name_or_path")
    if isinstance(named, str) and named:
        for place in (folder / named, Path(named)):
            if place.is_dir():
                return place
    raise ValueError(
        f"{folder / CONFIG_FILE} names {named!r} as the model below these adapters, which is not a folder here. Give "
        "it: base=FOLDER of evaluate.py, --base FOLDER of other commands."
    )


def take_adapters(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the adapters of a model, which has none afterwards and is what lay below them."""
    adapters = _adapters_in(model)
    for parent, name, layer in _adapted(model):
        setattr(parent, name, layer.get_base_layer())
    return {name: weight.detach() for name, weight in adapters.items()}


def write_adapters(adapters: Mapping[str, Tensor], folder: Path, lora: Lora, base: str) -> None:
    """Write adapters, so that `peft.PeftModel.from_pretrained(base, folder)` is the model that they were taken from.

    Args:
        adapters: from `take_adapters`.
        folder: where the two files go.
        lora: of the stage that trained them.
        base: the name of the folder of the model below them.
    """
    names = "|".join(map(re.escape, lora.target))
    fields: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    config = import_peft().LoraConfig(
        # The tower has layers of the same names.
        target_modules=rf"language\.(?:.*\.)?(?:{names})",
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        inference_mode=True,
        **fields,
    )
    config.save_pretrained(folder)
    tensors = {_PREFIX + name.replace(".default.", "."): weight.cpu().contiguous() for name, weight in adapters.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def read_adapters(model: nn.Module, folder: Path) -> None:
    """Put the adapters of a folder onto a model: merged into floats, beside what is held in few bits.

    Raises:
        ValueError: they are of another kind or another model, or their files do not belong together.
    """
    peft, file = import_peft(), folder / WEIGHTS_FILE
    config = _config_of(folder)
    if not file.is_file():
        raise ValueError(f"{folder} has {CONFIG_FILE}, and no {WEIGHTS_FILE} beside it. Copy the whole folder.")
    with foreign(str(folder)):
        peft.inject_adapter_in_model(config, model)
    adapters = _adapters_in(model)
    stored = {
        re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", key.removeprefix(_PREFIX)): tensor
        for key, tensor in stored_in(file).items()
    }
    if wrong := sorted(adapters.keys() ^ stored.keys()):
        raise ValueError(
            f"{file} is of another model: {len(wrong)} adapters are there or here alone (for example {wrong[0]}). Give "
            "the model that they were trained on."
        )
    for name, weight in adapters.items():
        if stored[name].shape != tuple(weight.shape):
            raise ValueError(
                f"{file}: {stored[name].key} has shape {stored[name].shape}, and the model takes "
                f"{tuple(weight.shape)}. Give the model that they were trained on."
            )
        weight.data = torch.empty_like(weight, dtype=torch.float32)
        stored[name].read_into(weight.data)
    merge_layers(model)
    model.requires_grad_(False)


@torch.no_grad()
def merge_layers(model: nn.Module) -> None:
    """Merges the adapters of a model into its float layers; those beside few bits stay."""
    for parent, name, layer in _adapted(model):
        below = layer.get_base_layer()
        if not isinstance(below, QuantizedLinear):
            a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
            below.weight.copy_(merged_weight(below.weight, a, b, layer.scaling["default"]))
            setattr(parent, name, below)


def _adapters_in(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if is_adapter(name)}


def _adapted(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    kind = import_peft().tuners.lora.LoraLayer
    return [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, kind)
    ]


def _config_of(folder: Path) -> Any:
    """What `adapter_config.json` says of plain LoRA; nothing that it names is imported."""
    path = folder / CONFIG_FILE
    fields = read_json(path)
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{path} is of peft_type={fields.get('peft_type')!r}, and only LORA is read here. Merge it.")
    off: tuple[Any, ...] = (None, False, "none", {}, [])
    for name, value in fields.items():
        if name not in (*_READ, *_TOLD) and value not in off:
            raise ValueError(
                f"{path} has {name}={value!r}, which is not read here. Merge the adapters with peft's "
                "merge_and_unload, save the model, and give its folder."
            )
    with foreign(str(path)):
        return import_peft().LoraConfig(**{name: fields[name] for name in _READ if name in fields})
