"""Low-rank adapters in the language model: added through peft, merged away when weights are loaded elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from dragonfly_lit.models.quantized import quiet_bitsandbytes
from dragonfly_lit.training.stages import Lora

ADAPTER = ".lora_"
"""In the name of every weight of an adapter."""
_A, _B, _BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."


def import_peft(missing: str = "adapters need peft: pip install 'dragonfly_lit[lora]'.") -> Any:
    """The package, at its first use.

    Args:
        missing: what is said where it is not installed.

    Raises:
        ValueError: it is not.
    """
    quiet_bitsandbytes()
    try:
        import peft
    except ImportError as error:
        raise ValueError(missing) from error
    return peft


def add_adapters(language: nn.Module, lora: Lora) -> None:
    """Puts adapters into the linear layers that `lora.target` names; their weights are called `...lora_A...`.

    Raises:
        ValueError: peft is not installed.
    """
    peft = import_peft("stage.lora needs peft: pip install 'dragonfly_lit[lora]', or set stage.lora=null.")
    fields: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    config = peft.LoraConfig(target_modules=list(lora.target), **fields)
    peft.inject_adapter_in_model(config, language)


def is_adapter(name: str) -> bool:
    """Whether the weight of this name is an adapter's."""
    return ADAPTER in name


def adapter_layers(model: nn.Module) -> Iterator[Any]:
    """The layers of a model that have adapters, which peft turns off by their `_disable_adapters`."""
    return (module for module in model.modules() if hasattr(module, "_disable_adapters"))


def lora_scale(lora: Lora | None) -> float | None:
    """What multiplies B A in a layer's weight."""
    return None if lora is None else lora.alpha / lora.rank


def merge_adapters(tensors: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The same weights without adapters: W + scale * B A, under the names of the plain model."""
    merged = {name.replace(_BASE, "."): tensor for name, tensor in tensors.items() if not is_adapter(name)}
    for name in tensors:
        if name.endswith(_A):
            layer = name.removesuffix(_A)
            key = f"{layer}.weight"
            merged[key] = merged_weight(merged[key], tensors[name], tensors[layer + _B], scale)
    return merged


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale * B A, added up in float32 and rounded once, which peft's own merge is not of half precision.

    Args:
        weight: of the layer.
        a: from the layer's inputs to the rank.
        b: from the rank to its outputs.
        scale: from `lora_scale`.
    """
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)
