"""Block by block: activation checkpointing, compiling, FSDP2; frozen and trained weights are never sharded together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from types import MethodType
from typing import Any, Literal, cast, get_args

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    OffloadWrapper,
    checkpoint_wrapper,
    offload_wrapper,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.fx.experimental import _config as symbolic_shapes
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from dragonfly_lit.models.loss import AT_ONCE, losses_of_rows

ActivationCheckpointing = Literal["none", "selective", "full", "offload"]
Compile = Literal["auto", "off", "blocks"]

KEPT = {
    "aten::mm",
    "aten::addmm",
    "aten::_scaled_mm",
    "aten::_flash_attention_forward",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "dragonfly_lit::packed_attention",
    "torch_attn::_varlen_attn",
    "flash_attn::_flash_attn_forward",
    "flash_attn::_flash_attn_varlen_forward",
    "flash_attn_3::fwd",
    "flash_attn_3::_flash_attn_forward",
    "flex_attention",
}
"""Kept by selective checkpointing, by name, as most come with packages: what costs most to compute again. Norms,
activations and rotations are redone."""
GRAPHS = 64
"""Cases of a block that may be compiled: one piece of code serves all parts, with gradients and without."""


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


def checkpoint_activations(model: nn.Module, mode: str | Mapping[str, str]) -> None:
    """Computes activations again in backward: of whole blocks (full), all but their matmuls and attention (selective),
    or of whole blocks from inputs that wait in the host's memory (offload).

    Blocks through which no gradient flows (a frozen tower before the first trained weight) save nothing anyway.

    Args:
        model: whose blocks are wrapped in place.
        mode: of all parts, or of each by its name; parts without one save everything.

    Raises:
        ValueError: a mode or a part is unknown.
    """
    parts = dict(model.named_children())
    modes = dict.fromkeys(parts, mode) if isinstance(mode, str) else dict(mode)
    for part, wanted in modes.items():
        key = "strategy.activation_checkpointing" + ("" if isinstance(mode, str) else f".{part}")
        if part not in parts:
            raise ValueError(f"{key}={wanted}: the model has no part {part}. Use {', '.join(parts)}.")
        if wanted not in get_args(ActivationCheckpointing):
            raise ValueError(f"{key}={wanted} is unknown. Use one of {', '.join(get_args(ActivationCheckpointing))}.")
        for slots, index in block_slots(parts[part]):
            slots[index] = _wrapped(slots[index], wanted)


def _wrapped(block: nn.Module, mode: str) -> nn.Module:
    if mode == "none":
        return block
    if mode == "selective":
        return checkpoint_wrapper(block, context_fn=partial(create_selective_checkpoint_contexts, keep))
    wrapped = checkpoint_wrapper(block)
    return offload_wrapper(wrapped) if mode == "offload" else wrapped


def keep(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    """Whether selective checkpointing keeps what an operation gives."""
    name = operation.name().split(".")[0]  # without the name of its overload
    return CheckpointPolicy.MUST_SAVE if name in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def compile_blocks(model: nn.Module, mode: str, device: torch.device | str, *, hooked: bool = False) -> None:
    """Compiles one block of each kind, which serves all of them, at all lengths.

    Args:
        model: whose blocks are compiled in place, at their first call.
        mode: off, blocks, or auto: blocks where they run on a GPU and can be compiled.
        device: that they run on.
        hooked: whether others hang hooks on the blocks (shards are gathered there), which stay out of the graphs.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in get_args(Compile):
        raise ValueError(f"trainer.compile={mode} is unknown. Use one of {', '.join(get_args(Compile))}.")
    if mode == "off" or (mode == "auto" and not can_compile(torch.device(device))):
        return
    from torch._dynamo import config  # not before it is needed: it takes seconds

    config.recompile_limit = max(GRAPHS, config.recompile_limit)
    # Every pack has other lengths, and two that are equal once need not be so again.
    symbolic_shapes.use_duck_shape = False
    for block in blocks(model):
        if isinstance(block, OffloadWrapper):  # what sends to the host stays out of the graph
            block = block._checkpoint_wrapped_module._checkpoint_wrapped_module
        if hooked:
            block.forward = torch.compile(block.forward, dynamic=True)
        else:
            block.compile(dynamic=True)


@contextmanager
def uncompiled(model: nn.Module) -> Generator[None, None, None]:
    """Blocks run as they are written meanwhile: a model that answers has other cases than one that trains."""
    compiled = {module: module._compiled_call_impl for module in model.modules() if module._compiled_call_impl}
    leave_uncompiled(model)
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def leave_uncompiled(model: nn.Module) -> None:
    """Blocks run as they are written from now on."""
    for module in model.modules():
        module._compiled_call_impl = None


def can_compile(device: torch.device) -> bool:
    """Whether `trainer.compile=auto` compiles blocks on such a device here."""
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    has_compiler = any(shutil.which(name) for name in compilers if name)
    return device.type == "cuda" and find_spec("triton") is not None and has_compiler


def units(root: nn.Module) -> list[nn.Module]:
    """What is sharded on its own, besides the root: every block, the embedding and the head where they are not one
    weight, and every part whose weights train differently from the root's.

    The root keeps what is left of the kind (trainable or frozen) that most of the language model's has: embeddings and
    a head tied to them stay together, and nobody calls the language model as a whole, so that it could not be a unit.

    Raises:
        ValueError: one module holds frozen and trainable weights directly.
    """
    alone = [*blocks(root), *ends(root)]
    found = [unit for one in alone for unit in (*_islands(one, _kind(one)), one)]
    inside = {p for unit in found for p in unit.parameters()}
    left = [p for p in root.parameters() if p not in inside]
    of_language = {*getattr(getattr(root, "model", root), "language", nn.Module()).parameters()}
    decide = [p for p in left if p in of_language] or left
    trained = sum(p.numel() for p in decide if p.requires_grad)
    majority = trained * 2 >= sum(p.numel() for p in decide)
    return found + _islands(root, majority, exclude=inside)


def ends(root: nn.Module) -> list[nn.Module]:
    """The language model's embedding and head; none where they share a weight."""
    model: Any = getattr(root, "model", root)
    if not hasattr(model, "get_output_embeddings"):
        return []
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [] if {*words.parameters()} & {*head.parameters()} else [words, head]


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
    root: nn.Module,
    mesh: DeviceMesh,
    *,
    policy: MixedPrecisionPolicy,
    reshard: bool = True,
    offload: bool = False,
    before: Callable[[nn.Module], None] | None = None,
) -> None:
    """Shards `root` over `mesh` unit by unit.

    Args:
        root: its forward must return the loss: sharded children cannot be called from outside.
        mesh: of the ranks; of two dimensions, shards are dealt out over the second one and repeated over the first.
        policy: types of gathered weights and of summed gradients.
        reshard: whether a unit's gathered weights are given back after its forward; False saves a gather in backward.
        offload: whether shards and optimizer state live in CPU memory.
        before: called with every unit before it is sharded, and with the root last.
    """
    options: dict = {"mesh": mesh, "mp_policy": policy}
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    words_and_head = ends(root)
    for unit in units(root):
        if before is not None:
            before(unit)
        # Backward begins with the head: it stays gathered.
        fully_shard(unit, reshard_after_forward=reshard and unit not in words_and_head[1:], **options)
    if before is not None:
        before(root)
    fully_shard(root, reshard_after_forward=False, **options)
    for words in words_and_head[:1]:
        cast(FSDPModule, words).set_unshard_in_backward(False)  # the gradient of a look-up asks for no weight
    for head in words_and_head[1:]:
        # One gather and one sum over ranks for all rows: ranks have other numbers of them.
        setattr(head, AT_ONCE, MethodType(_through_forward, head))
        register_fsdp_forward_method(head, AT_ONCE)
    _prefetch(root, words_and_head[1:])


def _through_forward(head: nn.Module, *rows: Any) -> torch.Tensor:
    return losses_of_rows(head.forward, *rows)  # `forward`: the hooks of shards run around all of it


def _prefetch(root: nn.Module, head: list[nn.Module]) -> None:
    """A block's weights are asked for while the one before it computes, in forward and in backward."""
    chains: dict[nn.ModuleList, list[Any]] = {}
    for slots, index in block_slots(root):
        chains.setdefault(slots, []).append(slots[index])
    language = getattr(getattr(root, "model", root), "language", nn.Module())
    before_head = {slots for slots, _ in block_slots(language)}
    for slots, chain in chains.items():
        line: list[Any] = [*chain, *(head if slots in before_head else [])]
        for earlier, later in pairwise(line):
            earlier.set_modules_to_forward_prefetch([later])
            later.set_modules_to_backward_prefetch([earlier])
