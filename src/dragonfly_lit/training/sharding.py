"""Block by block: activation checkpointing, compiling, FSDP2; frozen and trained weights are never sharded together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.fx.experimental import _config as symbolic_shapes
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from dragonfly_lit.models.packed_attention import OPERATOR

ActivationCheckpointing = Literal["none", "selective", "full"]
Compile = Literal["off", "blocks"]

_MATMULS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    OPERATOR,
}
"""Kept by selective checkpointing: what costs most to compute again; norms, activations and rotations are redone."""


def block_slots(model: nn.Module) -> Iterator[tuple[nn.ModuleList, int]]:
    """Where the transformer blocks of all parts stand: the entries of every outermost module list that have weights."""
    stack: list[nn.Module] = [model]
    while stack:
        for child in stack.pop().children():
            if isinstance(child, nn.ModuleList) and len(child) and next(child[0].parameters(), None) is not None:
                yield from ((child, index) for index in range(len(child)))
            else:
                stack.append(child)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of all parts."""
    return [slots[index] for slots, index in block_slots(model)]


def checkpoint_activations(model: nn.Module, mode: str) -> None:
    """Computes activations again in backward: of whole blocks, or (selective) all but their matmuls and attention.

    Blocks through which no gradient flows (a frozen tower before the first trained weight) save nothing anyway.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in get_args(ActivationCheckpointing):
        known = ", ".join(get_args(ActivationCheckpointing))
        raise ValueError(f"strategy.activation_checkpointing={mode} is unknown. Use one of {known}.")
    if mode == "none":
        return
    options: dict[str, Any] = (
        {"context_fn": partial(create_selective_checkpoint_contexts, _keep_matmuls)} if mode == "selective" else {}
    )
    for slots, index in block_slots(model):
        slots[index] = checkpoint_wrapper(slots[index], **options)


def _keep_matmuls(_context, operation, *_args, **_kwargs) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _MATMULS else CheckpointPolicy.PREFER_RECOMPUTE


def compile_blocks(model: nn.Module, mode: str) -> None:
    """Compiles each block in place; blocks of one kind share the compiled code.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in get_args(Compile):
        raise ValueError(f"trainer.compile={mode} is unknown. Use one of {', '.join(get_args(Compile))}.")
    if mode == "blocks":
        for block in blocks(model):
            # Every pack has other lengths, and two that are equal once need not be so again.
            block.compile(dynamic=True)
        symbolic_shapes.use_duck_shape = False


def units(root: nn.Module) -> list[nn.Module]:
    """What is sharded on its own, besides the root: every block, and every part whose weights train differently
    from the root's.

    The root keeps what is left of the kind (trainable or frozen) that most of it has, so that embeddings and a head
    tied to them stay together.

    Raises:
        ValueError: one module holds frozen and trainable weights directly.
    """
    found = [unit for block in blocks(root) for unit in (*_islands(block, _kind(block)), block)]
    inside = {p for unit in found for p in unit.parameters()}
    left = [p for p in root.parameters() if p not in inside]
    trained = sum(p.numel() for p in left if p.requires_grad)
    majority = trained * 2 >= sum(p.numel() for p in left)
    return found + _islands(root, majority, exclude=inside)


def _kind(module: nn.Module) -> bool:
    weights = list(module.parameters())
    return sum(p.numel() for p in weights if p.requires_grad) * 2 >= sum(p.numel() for p in weights)


def _islands(module: nn.Module, kind: bool, exclude: set[nn.Parameter] | frozenset = frozenset()) -> list[nn.Module]:
    """The largest modules below `module` whose weights are all of the other kind."""
    found = []
    for name, child in module.named_children():
        weights = [p for p in child.parameters() if p not in exclude]
        if not weights or all(p.requires_grad is kind for p in weights):
            continue
        callable_itself = not isinstance(child, nn.ModuleList | nn.ModuleDict)
        if callable_itself and all(p.requires_grad is not kind for p in weights):
            found.append(child)
            continue
        direct = [p for p in child.parameters(recurse=False) if p not in exclude and p.requires_grad is not kind]
        if direct:
            raise ValueError(
                f"strategy=fsdp cannot shard {name}: it holds frozen and trained weights side by side. "
                "Use strategy=ddp, or match all of its weights in stage.groups."
            )
        found += _islands(child, kind, exclude)
    return found


def shard(
    root: nn.Module, mesh: DeviceMesh, *, policy: MixedPrecisionPolicy, reshard: bool = True, offload: bool = False
) -> None:
    """Shards `root` over `mesh` unit by unit.

    Args:
        root: its forward must return the loss: sharded children cannot be called from outside.
        mesh: one dimension: the ranks.
        policy: types of gathered weights and of summed gradients.
        reshard: whether a unit's gathered weights are given back after its forward; False saves a gather in backward.
        offload: whether shards and optimizer state live in CPU memory.
    """
    options: dict = {"mesh": mesh, "mp_policy": policy}
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    for unit in units(root):
        fully_shard(unit, reshard_after_forward=reshard, **options)
    fully_shard(root, reshard_after_forward=False, **options)
