"""Who sees whom: packed samples and branches under every attention implementation.

A token attends to the tokens before it of its own sample that lie on the trunk or on its own branch.
`sdpa` and `eager` get a dense mask, `flex_attention` a mask of blocks; `packed_varlen`, registered here with
transformers, gathers for every branch the keys it may see and runs variable-length attention, so nothing is spent on
what is masked; `packed_fa2` and `packed_fa3` do so with the kernels of flash-attn's packages.
Without `sample_ids` every implementation goes transformers' own way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import no_type_check

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from dragonfly_lit.models.packed_attention import HALF, packed_attention, run_by_run
from dragonfly_lit.spec.outline import Outline, Packing, is_plain, pack_runs

PACKED, FLEX = "packed_varlen", "flex_attention"
FLASH = {
    "flash_attention_2": ("packed_fa2", "flash_attn"),
    "flash_attention_3": ("packed_fa3", "flash_attn_interface"),
}
"""Choice to the name under which it is registered with transformers, and the module that has its kernels."""
IMPLEMENTATIONS = ("auto", "eager", "sdpa", PACKED, *FLASH, FLEX)
VARIABLE = (PACKED, *(name for name, _ in FLASH.values()))
"""Implementations that take a Packing."""


def dense_mask(
    sample_ids: Int[Tensor, "rows tokens"], branch_ids: Int[Tensor, "rows tokens"] | None
) -> Bool[Tensor, "rows 1 tokens tokens"]:
    """True where the query (second last axis) sees the key (last axis)."""
    tokens = sample_ids.shape[1]
    order = torch.arange(tokens, device=sample_ids.device)
    mask = (order[:, None] >= order[None, :]) & (sample_ids[:, :, None] == sample_ids[:, None, :])
    if branch_ids is not None:
        query, key = branch_ids[:, :, None], branch_ids[:, None, :]
        mask = mask & ((key == 0) | (key == query))
    return mask[:, None]


def packed_varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    attend: Callable[..., Tensor] = packed_attention,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: (rows, heads, tokens, width) in, (rows, tokens, heads, width) out."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast the rotation hands on float32, and values come in the type that attention is to be computed in.
    q, k, v = (x.to(value.dtype).transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    if dropout:
        out = run_by_run(q, k, v, packing.keys, packing.host_ends, scale, dropout)
    else:
        out = attend(q, k, v, packing.keys, packing.ends, packing.host_ends, scale)
    return out.unflatten(0, (query.shape[0], query.shape[2])), None


def register_flash(name: str, module: str) -> None:
    """Gives transformers an implementation that packs with the kernels of a package.

    Args:
        name: of the implementation.
        module: that has `flash_attn_varlen_func`.
    """
    # Looked up once and here: a compiled block cannot look for a module.
    kernel = import_module(module).flash_attn_varlen_func
    AttentionInterface.register(name, partial(packed_varlen_attention, attend=partial(_flash, kernel)))
    AttentionMaskInterface.register(name, sdpa_mask)


def _flash(
    kernel: Callable, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, ends: Tensor, host_ends: Tensor, scale: float
) -> Tensor:
    if not torch.equal(host_ends[0], host_ends[1]):
        k, v = k.index_select(0, keys), v.index_select(0, keys)
    longest_query, longest_key = host_ends.diff().amax(1).tolist()
    out = kernel(
        q,
        k,
        v,
        cu_seqlens_q=ends[0],
        cu_seqlens_k=ends[1],
        max_seqlen_q=longest_query,
        max_seqlen_k=longest_key,
        softmax_scale=scale,
        causal=True,
    )
    return out[0] if isinstance(out, tuple) else out  # some releases give the sums of the softmax with it


def block_mask(sample_ids: Int[Tensor, "rows tokens"], branch_ids: Int[Tensor, "rows tokens"] | None) -> BlockMask:
    """`dense_mask` for flex attention: which blocks are empty, full or cut."""
    rows, tokens = sample_ids.shape
    branches = torch.zeros_like(sample_ids) if branch_ids is None else branch_ids

    @no_type_check  # torch counts this function's arguments, which a wrapper would hide
    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (branches[row, key] == 0) | (branches[row, key] == branches[row, query])
        return (query >= key) & (sample_ids[row, query] == sample_ids[row, key]) & own

    return create_block_mask(sees, rows, None, tokens, tokens, device=sample_ids.device)


def attention_arguments(
    config: PreTrainedConfig,
    sample_ids: Int[Tensor, "rows tokens"],
    branch_ids: Int[Tensor, "rows tokens"] | None,
    dtype: torch.dtype,
    outline: Outline | None = None,
) -> dict:
    """What the language model's forward takes so that samples and branches see what they may and nothing else.

    Args:
        config: of the language model.
        sample_ids: as in Batch.
        branch_ids: as in Batch.
        dtype: of the hidden states.
        outline: of the batch; without one the ids are read, for which the host waits where they are on a device.

    Raises:
        ValueError: the implementation cannot keep packed samples or branches apart, or the language model has a
            sliding window that a row exceeds.
    """
    implementation, window = config._attn_implementation, getattr(config, "sliding_window", None)
    plain = is_plain(sample_ids, branch_ids) if outline is None else outline.plain
    too_long = window is not None and sample_ids.shape[1] > window
    if plain and (too_long or implementation not in VARIABLE):
        return {}
    if too_long:
        raise ValueError(
            f"language sliding_window={window} is shorter than a row of {sample_ids.shape[1]} tokens, and the masks of "
            "packed samples have no window. Pack to fewer tokens (data.max_tokens), or turn packing off."
        )
    if implementation in VARIABLE:
        # A mask of four axes is handed through by transformers, which would build a dense one otherwise.
        return {
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=sample_ids.device),
            "packing": pack_runs(sample_ids, branch_ids) if outline is None else outline.packing,
        }
    if implementation in ("sdpa", "eager"):
        mask = dense_mask(sample_ids, branch_ids)
        if implementation == "eager":
            mask = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
        return {"attention_mask": mask}
    if implementation == FLEX:
        return {"attention_mask": block_mask(sample_ids, branch_ids)}
    raise ValueError(
        f"attention={implementation} cannot keep packed samples apart here. "
        f"Use attention={PACKED} (flash kernels on a GPU), sdpa or eager."
    )


def choose_attention(name: str, device: torch.device | str, dtype: torch.dtype) -> tuple[str, str]:
    """The implementation to give to transformers, and why, in one sentence.

    Args:
        name: one of IMPLEMENTATIONS.
        device: on which the model will run.
        dtype: in which attention will be computed.

    Raises:
        ValueError: the name is unknown, or what it needs is not here.
    """
    on_gpu, half = torch.device(device).type == "cuda", dtype in HALF
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"attention={name} is unknown. Use one of {', '.join(IMPLEMENTATIONS)}.")
    if name in FLASH:
        registered, module = FLASH[name]
        installed = find_spec(module) is not None
        if not (on_gpu and half and installed):
            raise ValueError(
                f"attention={name} needs a GPU, float16 or bfloat16 and the module {module} of flash-attn; here are "
                f"device {device}, {dtype}, {module} {'installed' if installed else 'missing'}. Use attention=auto."
            )
        register_flash(registered, module)
        return registered, f"{registered} with {module}'s kernels, as asked"
    if name == FLEX:
        if not on_gpu:
            raise ValueError(f"attention={FLEX} needs a GPU: it has no backward on {device}. Use attention=auto.")
        return FLEX, f"{FLEX}, as asked: a mask of blocks when samples are packed"
    if name in ("eager", "sdpa"):
        return name, f"{name}, as asked: a dense mask when samples are packed"
    asked = "as asked" if name == PACKED else f"{'a GPU' if on_gpu else str(device)} in {dtype}"
    if on_gpu and half:
        return PACKED, f"{PACKED} with torch's flash kernels: {asked}"
    if on_gpu and name == "auto":
        return "sdpa", f"sdpa with a dense mask for packed samples: {device} in {dtype} has no variable-length kernel"
    return PACKED, f"{PACKED}, samples of one length at a time: {asked}"


AttentionInterface.register(PACKED, packed_varlen_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
