"""What is computed in which type: float32 master weights and gradient sums, bfloat16 in the model.

Lightning's own precision stays at `32-true`: its `bf16-true` rounds the rotary frequencies (errors of the cosine
up to 2 at position 2,609), and its `bf16-mixed` refuses the fused optimizer with clipping.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

Precision = Literal["fp32", "bf16", "fp8"]


Sums = Literal["float32", "bfloat16"]


def check_precision(precision: str, device: torch.device, gradients: str = "float32") -> None:
    """Refuses what would train wrongly or not at all.

    Args:
        precision: of the run.
        device: that it runs on.
        gradients: in what they are added up.

    Raises:
        ValueError: the precision is unknown, or the device cannot do it.
    """
    if precision in ("fp16", "16", "float16", "16-mixed", "16-true"):
        raise ValueError(
            f"trainer.precision={precision}: the activations of Llama and CLIP exceed float16's 65,504 and the loss "
            "becomes nan. Use bf16, which has float32's range."
        )
    if precision in ("bf16-mixed", "bf16-true"):
        raise ValueError(f"trainer.precision={precision} is Lightning's own way, which is not asked here. Use bf16.")
    if precision not in get_args(Precision):
        raise ValueError(f"trainer.precision={precision} is unknown. Use one of {', '.join(get_args(Precision))}.")
    if gradients not in get_args(Sums):
        raise ValueError(f"trainer.gradients={gradients} is unknown. Use one of {', '.join(get_args(Sums))}.")
    if precision == "fp32" and gradients != "float32":
        raise ValueError(
            f"trainer.gradients={gradients} with trainer.precision=fp32: gradients are of the weights' type there. Use "
            "trainer.gradients=float32, or trainer.precision=bf16."
        )
    if precision == "fp8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9)):
        raise ValueError(
            f"trainer.precision=fp8 needs a GPU with FP8 matmuls (compute capability 8.9 or higher), not {device}. "
            "Use bf16."
        )
    if precision == "fp8" and find_spec("torchao") is None:
        raise ValueError("trainer.precision=fp8 needs torchao: pip install 'dragonfly_lit[fp8]', or use bf16.")


def autocast(precision: str, device_type: str) -> AbstractContextManager:
    """Matmuls in bfloat16 from float32 weights, where neither masters nor shards are there; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device_type, dtype=torch.bfloat16)


def sharding_policy(precision: str, gradients: str = "float32") -> MixedPrecisionPolicy:
    """Weights gathered in bfloat16, gradients summed over ranks in the type that is asked."""
    if precision == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=getattr(torch, gradients))


def cast_weights(model: nn.Module, precision: str, *, frozen: torch.dtype | None = None) -> None:
    """Trained weights to float32, and for fp32 all of them.

    Buffers (the rotary frequencies) are left alone.

    Args:
        model: frozen already.
        precision: of the run.
        frozen: type of the weights that do not train, under another precision than fp32; None leaves theirs.
    """
    for parameter in model.parameters():
        if parameter.requires_grad or precision == "fp32":
            parameter.data = parameter.data.float()
        elif frozen is not None:
            parameter.data = parameter.data.to(frozen)


def to_fp8(blocks: list[nn.Module], *, emulate: bool = False) -> None:
    """Turns the linear layers of `blocks` that train into FP8 ones with dynamic scaling, where both sides divide by 16.

    The rows of a batch are padded to 16 inside the layer, in the product that sums over them.

    Args:
        blocks: whose layers are replaced in place; their weights stay what they are.
        emulate: compute in float32 what the FP8 kernels would, where a device has none.

    Raises:
        ValueError: no layer can be turned.
    """
    from torchao.float8 import (  # pyright: ignore[reportMissingImports]
        Float8LinearConfig,
        convert_to_float8_training,
    )

    found: list[str] = []

    def fits(module: nn.Module, name: str) -> bool:
        fit = (
            isinstance(module, nn.Linear)
            and module.weight.requires_grad
            and module.in_features % 16 == 0
            and module.out_features % 16 == 0
        )
        found.extend([name] if fit else [])
        return fit

    for block in blocks:
        convert_to_float8_training(
            block, module_filter_fn=fits, config=Float8LinearConfig(pad_inner_dim=True, emulate=emulate)
        )
    if not found:
        raise ValueError(
            "trainer.precision=fp8: the stage trains no linear layer of the language model whose sides divide by 16, "
            "and frozen layers stay in bf16. Use trainer.precision=bf16."
        )
