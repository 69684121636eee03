"""Linear layers of the language model whose weights are held in 4 or 8 bits, filled one by one.

`nf4` is QLoRA's format (arXiv 2305.14314) by bitsandbytes; `int8` has one scale a row, and rounds weights alone: a
format that rounds activations too (LLM.int8) picks its outliers from all rows of a batch, so that an answer would
depend on who else is asked. Either computes what a float layer of the dequantised weights does, gradients included.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from dragonfly_lit.models.buffers import ExactBuffers
from dragonfly_lit.models.language import decoder_of

Quantize = str
"""A format: `nf4` or `int8`."""
BITS = {"nf4": 4, "int8": 8}
BLOCK = 64
"""Weights of nf4 that share a scale, one behind the other in a row-major weight."""
AT_ONCE = 2**20
"""Weights that are rounded at once, which bounds what that takes; whole blocks."""


def check_quantize(kind: str | None, where: str = "model.quantize") -> None:
    """Refuse a format that is unknown, or whose package is missing.

    Args:
        kind: None is none.
        where: the key or option that it was given by.

    Raises:
        ValueError: names both and the way out.
    """
    if kind is None:
        return
    if kind not in BITS:
        raise ValueError(f"{where}={kind} is unknown. Use one of {', '.join(BITS)}, or null.")
    if kind == "nf4":
        _bitsandbytes(where)


class QuantizedLinear(nn.Linear):
    """A linear layer without weights of its own type: `codes` in few bits, and `scales` in float32.

    Both are buffers: nothing trains them, casts them or shards them. `bias` is a parameter as ever.

    Args:
        in_features: as of nn.Linear.
        out_features: likewise.
        kind: nf4 or int8.
        bias: likewise.
        device: of the buffers, which hold anything until `fill`.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kind: Quantize,
        bias: nn.Parameter | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features, self.kind = in_features, out_features, kind
        count = in_features * out_features
        codes, scales = {
            "nf4": ((-(-count // 2),), (-(-count // BLOCK),)),
            "int8": ((out_features, in_features), (out_features,)),
        }[kind]
        dtype = torch.uint8 if kind == "nf4" else torch.int8
        self.register_buffer("codes", torch.empty(codes, dtype=dtype, device=device))
        self.register_buffer("scales", torch.empty(scales, dtype=torch.float32, device=device))
        self.register_parameter("bias", bias)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weights that it stands for."""
        return self.out_features, self.in_features

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The weights that it stands for, in float32; made anew whenever somebody asks."""
        if self.codes.is_meta:
            return torch.empty(self.shape, device="meta")
        return _dequantized(self.codes, self.scales, self.kind, self.shape, torch.float32)

    @torch.no_grad()
    def fill(self, weight: Tensor) -> None:
        """Takes the roundings of `weight`, a few at once, on the device of this layer."""
        if tuple(weight.shape) != self.shape:
            raise ValueError(f"a weight of shape {tuple(weight.shape)} does not go into a layer of {self.shape}.")
        rows = max(1, AT_ONCE // self.in_features)
        if self.kind == "int8":
            for start in range(0, self.out_features, rows):
                part = weight[start : start + rows].to(self.codes.device, torch.float32)
                largest = part.abs().amax(dim=1)
                scales = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
                self.codes[start : start + rows] = (part / scales[:, None]).round().to(torch.int8)
                self.scales[start : start + rows] = scales
            return
        flat, place = weight.reshape(-1), 0
        for part in flat.split(AT_ONCE):
            codes, state = _bitsandbytes().functional.quantize_4bit(
                part.to(self.codes.device, torch.float32), blocksize=BLOCK, quant_type="nf4", compress_statistics=False
            )
            self.codes[place // 2 : place // 2 + codes.numel()] = codes.view(-1)
            self.scales[place // BLOCK : place // BLOCK + state.absmax.numel()] = state.absmax
            place += part.numel()

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and self.kind == "nf4" and input.is_cuda:
            state = _state(self.scales, self.shape, input.dtype)  # one kernel that never writes the weights down
            product: Tensor = _bitsandbytes().matmul_4bit(input, self.codes.view(-1, 1), quant_state=state)
        else:
            product = _Product.apply(input, self.codes, self.scales, self.kind, self.shape)  # type: ignore[assignment]
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        before = self.scales
        super()._apply(fn, recurse)
        if self.scales.dtype != torch.float32:  # a cast is of weights, and rounds these to eight bits
            self.scales = before.to(self.scales.device)
        return self

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind}"


class _Product(torch.autograd.Function):
    """x W^T for weights that are dequantised where they are needed, in backward again: none is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, kind: str, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.kind, ctx.shape = kind, shape
        return F.linear(x, _dequantized(codes, scales, kind, shape, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,), (codes, scales) = gradients, ctx.saved_tensors
        return gradient @ _dequantized(codes, scales, ctx.kind, ctx.shape, gradient.dtype), None, None, None, None


def _dequantized(codes: Tensor, scales: Tensor, kind: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    if kind == "int8":
        return (codes * scales[:, None]).to(dtype)
    # As one row: its kernel for CPUs takes a wrong scale where a block goes on in the next row.
    state = _state(scales, (1, prod(shape)), dtype)
    return _bitsandbytes().functional.dequantize_4bit(codes.view(-1, 1), state).view(shape)


def _state(scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {"blocksize": BLOCK, "quant_type": "nf4", "dtype": dtype}
    return _bitsandbytes().functional.QuantState(scales, torch.Size(shape), **options)


_loaded: list[Any] = []


def _bitsandbytes(where: str = "model.quantize") -> Any:
    """The package, imported at its first use.

    Raises:
        ValueError: it is not installed, or cannot be loaded.
    """
    if not _loaded:
        quiet_bitsandbytes()
        try:
            import bitsandbytes  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            said = " ".join(str(error).split())
            missing = "" if isinstance(error, ModuleNotFoundError) else f" ({said:.200})"
            raise ValueError(
                f"{where}=nf4 needs bitsandbytes{missing}: pip install 'dragonfly_lit[quantize]', or use int8."
            ) from error
        _loaded.append(bitsandbytes)
    return _loaded[0]


def quiet_bitsandbytes() -> None:
    """It says at every import, peft's included, that a kernel of the hub was not fetched, which is as it should be."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def linear_layers(language: PreTrainedModel) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """What a format rounds: parent, name and layer of every linear layer below the head; no adapters."""
    for name, module in decoder_of(language).named_modules():
        for child, layer in module.named_children():
            if isinstance(layer, nn.Linear) and "lora_" not in f"{name}.{child}":
                yield module, child, layer


def quantize_layers(
    language: PreTrainedModel, kind: Quantize, *, filled: bool = True, device: torch.device | str | None = None
) -> None:
    """Replaces every linear layer below the head, one by one, so that no two are there twice.

    Args:
        language: changed in place.
        kind: nf4 or int8.
        filled: whether the layers hold weights, which are rounded; else what replaces them waits for `fill`.
        device: where the weights are rounded and stay; None is where each lies.
    """
    for parent, name, layer in list(linear_layers(language)):
        if isinstance(layer, QuantizedLinear):
            continue
        weight = layer.weight
        place = weight.device if device is None else device
        made = QuantizedLinear(layer.in_features, layer.out_features, kind, layer.bias, device=place)
        if filled and not weight.is_meta:
            made.fill(weight.detach())
        setattr(parent, name, made.train(layer.training))


@torch.no_grad()
def round_layers(language: PreTrainedModel, kind: Quantize) -> None:
    """Float weights become what the layers of a format stand for, in their own type."""
    for _, _, layer in linear_layers(language):
        held = QuantizedLinear(layer.in_features, layer.out_features, kind, device=layer.weight.device)
        held.fill(layer.weight)
        layer.weight.copy_(held.weight)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """By the name of the weight that each stands for."""
    return {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, QuantizedLinear)}


def quantized_names(model: nn.Module) -> set[str]:
    """Names of the buffers that hold weights in few bits."""
    stems = [name.removesuffix("weight") for name in quantized_layers(model)]
    return {stem + held for stem in stems for held in ("codes", "scales")}


def quantization_of(model: nn.Module) -> Quantize | None:
    """The format of a model; None where its weights are floats."""
    return next((layer.kind for layer in quantized_layers(model).values()), None)


def quantized_size(model: nn.Module) -> tuple[int, int]:
    """How many weights a model holds in few bits, and their bytes."""
    layers = quantized_layers(model).values()
    held = sum(t.numel() * t.element_size() for layer in layers for t in (layer.codes, layer.scales))
    return sum(prod(layer.shape) for layer in layers), held


def refuse_quantized(model: nn.Module) -> None:
    """ValueError where a model cannot be saved, as what its folder should hold are floats."""
    if (kind := quantization_of(model)) is not None:
        raise ValueError(
            f"the weights of this model are held as {kind}, and no folder is written of roundings. Load it without "
            "quantize and save that."
        )


class _Held(ExactBuffers):
    """Around a language model by itself: its rotary frequencies are right after `to_empty`."""

    def __init__(self, language: PreTrainedModel) -> None:
        super().__init__()
        self.language = language


def with_room(language: PreTrainedModel, kind: Quantize, device: torch.device | str) -> PreTrainedModel:
    """A language model of the meta device on `device`, its layers waiting for `fill`: no float weight is allocated."""
    quantize_layers(language, kind, filled=False)
    if torch.device(device).type != "meta":
        _Held(language).to_empty(device=device)
    language.tie_weights()
    return language
