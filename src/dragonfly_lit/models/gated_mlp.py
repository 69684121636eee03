"""The gate of a language model's MLP on a CPU, some rows at a time, so that it stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ROWS = 256
"""Of a width of some thousands so many are about what a core's cache holds."""
KNOWN = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP")
"""Classes of transformers' whose forward is `down_proj(silu(gate_proj(x)) * up_proj(x))`."""
SILU = ("SiLU", "SiLUActivation")
"""Of torch, and of transformers from one release on."""


@contextmanager
def gates_by_rows(decoder: nn.Module) -> Iterator[None]:
    """Within, `silu(gate) * up` of every block is computed some rows at a time, to the same bits, and so are gradients.

    Blocks that are compiled, or computed again in backward, and MLPs of other kinds are left as they are.

    Args:
        decoder: whose blocks are `layers`.
    """
    changed: list[nn.Module] = []
    for block in getattr(decoder, "layers", ()):
        mlp = getattr(block, "mlp", None)
        again = getattr(block, "gradient_checkpointing", False) or hasattr(block, "_checkpoint_wrapped_module")
        if mlp is not None and not again and block._compiled_call_impl is None and _is_known(mlp):
            mlp.forward = partial(_forward, mlp)
            changed.append(mlp)
    try:
        yield
    finally:
        for mlp in changed:
            del mlp.forward


def _is_known(mlp: nn.Module) -> bool:
    kind = type(mlp)
    known = kind.__name__ in KNOWN and kind.__module__.startswith("transformers.models.")
    return known and type(mlp.act_fn).__name__ in SILU and "forward" not in vars(mlp)


def _forward(mlp: Any, states: Tensor) -> Tensor:
    return mlp.down_proj(_Gated.apply(mlp.gate_proj(states), mlp.up_proj(states)))


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate, memory_format=torch.contiguous_format)
        for made, *given in _by_rows(out, gate, up):
            torch.ops.aten.silu.out(given[0], out=made).mul_(given[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        of_gate, of_up = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (gate, up))
        for to_gate, to_up, some_gate, some_up, some in _by_rows(of_gate, of_up, gate, up, grad):
            torch.ops.aten.silu_backward.grad_input(some * some_up, some_gate, grad_input=to_gate)
            torch.ops.aten.silu.out(some_gate, out=to_up).mul_(some)
        return of_gate, of_up


def _by_rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.reshape(-1, tensor.shape[-1]).split(ROWS) for tensor in tensors), strict=True)
