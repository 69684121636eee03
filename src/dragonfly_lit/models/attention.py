"""Who sees whom: packed samples and branches under every attention implementation.

A token attends to the tokens before it of its own sample that lie on the trunk or on its own branch.
`sdpa` and `eager` get a dense mask; `packed_varlen`, registered here with transformers, gathers for every
branch the keys it may see and runs variable-length attention, so nothing is spent on what is masked.
Without `sample_ids` every implementation goes transformers' own way.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

PACKED = "packed_varlen"
IMPLEMENTATIONS = ("auto", "eager", "sdpa", PACKED, "flash_attention_2")
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which keys each run of queries sees, for variable-length attention.

    Attributes:
        queries: flat positions of the tokens that are not padding, run by run; None when that is all of them.
        keys: flat positions of the keys, run by run; None when they are the queries.
        query_ends: 0 and the end of every run in `queries`.
        key_ends: 0 and the end of every run in `keys`.
        query_lengths: length of every run in `queries`.
        key_lengths: length of every run in `keys`.
    """

    queries: Int[Tensor, " queries"] | None
    keys: Int[Tensor, " keys"] | None
    query_ends: Int[Tensor, " runs_and_1"]
    key_ends: Int[Tensor, " runs_and_1"]
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]


class _Run(NamedTuple):
    start: int
    end: int
    row: int
    sample: int
    branch: int


def needs_mask(sample_ids: Int[Tensor, "rows tokens"], branch_ids: Int[Tensor, "rows tokens"] | None) -> bool:
    """Whether plain causal attention would be wrong: two samples in a row, a branch, or padding on the left."""
    several = (sample_ids > 0).any() | (sample_ids[:, 0] < 0).any()
    if branch_ids is not None:
        several = several | (branch_ids > 0).any()
    return bool(several)


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


def _runs(sample_ids: Tensor, branch_ids: Tensor) -> list[_Run]:
    rows, tokens = sample_ids.shape
    change = torch.ones(rows, tokens, dtype=torch.bool, device=sample_ids.device)
    change[:, 1:] = (sample_ids[:, 1:] != sample_ids[:, :-1]) | (branch_ids[:, 1:] != branch_ids[:, :-1])
    starts = change.flatten().nonzero().squeeze(1)
    facts = torch.stack([starts, starts // tokens, sample_ids.flatten()[starts], branch_ids.flatten()[starts]], dim=1)
    found = facts.tolist()
    ends = [run[0] for run in found[1:]] + [rows * tokens]
    return [
        _Run(start, end, row, sample, branch) for (start, row, sample, branch), end in zip(found, ends, strict=True)
    ]


def pack_runs(sample_ids: Int[Tensor, "rows tokens"], branch_ids: Int[Tensor, "rows tokens"] | None) -> Packing:
    """The runs of a batch and the keys that each of them sees; padding is in none of them."""
    runs = _runs(sample_ids, torch.zeros_like(sample_ids) if branch_ids is None else branch_ids)
    kept = [run for run in runs if run.sample >= 0]
    seen: list[list[_Run]] = []
    for i, run in enumerate(kept):
        before = [
            other
            for other in kept[:i]
            if (other.row, other.sample) == (run.row, run.sample) and other.branch in (0, run.branch)
        ]
        seen.append([*before, run])
    query_lengths = tuple(run.end - run.start for run in kept)
    key_lengths = tuple(sum(r.end - r.start for r in keys) for keys in seen)
    device = sample_ids.device
    return Packing(
        queries=None if len(kept) == len(runs) else _positions(kept, device),
        keys=None if query_lengths == key_lengths else _positions([run for keys in seen for run in keys], device),
        query_ends=_ends(query_lengths, device),
        key_ends=_ends(key_lengths, device),
        query_lengths=query_lengths,
        key_lengths=key_lengths,
    )


def _positions(runs: list[_Run], device: torch.device) -> Tensor:
    ranges = [torch.arange(run.start, run.end) for run in runs]
    return (torch.cat(ranges) if ranges else torch.zeros(0, dtype=torch.long)).to(device)


def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    return F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0)).to(device)


def packed_varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface: (rows, heads, tokens, width) in, (rows, tokens, heads, width) out."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    rows, heads, tokens, _ = query.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    keys = packing.queries if packing.keys is None else packing.keys
    if packing.queries is not None:
        q = q.index_select(0, packing.queries)
    if keys is not None:
        k, v = k.index_select(0, keys), v.index_select(0, keys)
    on_gpu = query.is_cuda and query.dtype in _HALF and dropout == 0.0
    attend = _varlen_kernel() if on_gpu else _run_by_run
    out = attend(q, k, v, packing, scaling, dropout)
    if packing.queries is not None:
        out = out.new_zeros(rows * tokens, heads, out.shape[-1]).index_copy(0, packing.queries, out)
    return out.view(rows, tokens, heads, -1), None


def _run_by_run(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scaling: float | None, dropout: float) -> Tensor:
    outs = []
    lengths = zip(
        q.split(packing.query_lengths), k.split(packing.key_lengths), v.split(packing.key_lengths), strict=True
    )
    for query, key, value in lengths:
        num_queries, num_keys = len(query), len(key)
        mask = None
        if num_queries != num_keys:
            ones = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device)
            mask = ones.tril(num_keys - num_queries)
        out = F.scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            key.transpose(0, 1)[None],
            value.transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs) if outs else q


@lru_cache(maxsize=1)
def _varlen_kernel():
    """flash-attn's kernel where it is installed, else torch's own."""
    if find_spec("flash_attn") is not None:
        return _flash_attn
    return _torch_varlen


def _flash_attn(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scaling: float | None, dropout: float) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func(
        q,
        k,
        v,
        packing.query_ends,
        packing.key_ends,
        max(packing.query_lengths),
        max(packing.key_lengths),
        dropout_p=dropout,
        softmax_scale=scaling,
        causal=True,
    )


def _torch_varlen(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scaling: float | None, dropout: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    options: dict = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    if "scale" in known:
        options["scale"] = scaling
    elif scaling is not None and scaling != q.shape[-1] ** -0.5:
        q = q * (scaling * q.shape[-1] ** 0.5)
    out = varlen_attn(
        q, k, v, packing.query_ends, packing.key_ends, max(packing.query_lengths), max(packing.key_lengths), **options
    )
    assert isinstance(out, Tensor)
    return out


def attention_arguments(
    config: PreTrainedConfig,
    sample_ids: Int[Tensor, "rows tokens"],
    branch_ids: Int[Tensor, "rows tokens"] | None,
    dtype: torch.dtype,
) -> dict:
    """What the language model's forward takes so that samples and branches see what they may and nothing else.

    Raises:
        ValueError: the implementation cannot keep packed samples or branches apart, or the language model has a
            sliding window that a row exceeds.
    """
    if not needs_mask(sample_ids, branch_ids):
        return {}
    implementation, window = config._attn_implementation, getattr(config, "sliding_window", None)
    if window is not None and sample_ids.shape[1] > window:
        raise ValueError(
            f"language sliding_window={window} is shorter than a row of {sample_ids.shape[1]} tokens, and the masks of "
            "packed samples have no window. Pack to fewer tokens (data.max_tokens), or turn packing off."
        )
    if implementation == PACKED:
        # A mask of four axes is handed through by transformers, which would build a dense one otherwise.
        return {
            "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=sample_ids.device),
            "packing": pack_runs(sample_ids, branch_ids),
        }
    if implementation in ("sdpa", "eager"):
        mask = dense_mask(sample_ids, branch_ids)
        if implementation == "eager":
            mask = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
        return {"attention_mask": mask}
    raise ValueError(
        f"attention={implementation} cannot keep packed samples apart here. "
        f"Use attention={PACKED} (flash-attn's kernels where installed), sdpa or eager."
    )


def choose_attention(name: str, device: torch.device | str, dtype: torch.dtype) -> tuple[str, str]:
    """The implementation to give to transformers, and why, in one sentence.

    Args:
        name: one of IMPLEMENTATIONS; `flash_attention_2` means flash-attn's kernels through `packed_varlen`.
        device: on which the model will run.
        dtype: in which attention will be computed.
    """
    on_gpu, half = torch.device(device).type == "cuda", dtype in _HALF
    flash = find_spec("flash_attn") is not None
    kernel = "flash-attn" if flash else "torch's varlen_attn"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"attention={name} is unknown. Use one of {', '.join(IMPLEMENTATIONS)}.")
    if name == "flash_attention_2" and not (on_gpu and half and flash):
        raise ValueError(
            f"attention=flash_attention_2 needs a GPU, float16 or bfloat16 and the package flash-attn; here are device "
            f"{device}, {dtype}, flash-attn {'installed' if flash else 'missing'}. Use attention=auto."
        )
    if name in ("eager", "sdpa"):
        return name, f"{name}, as asked: a dense mask when samples are packed"
    if on_gpu and half:
        return PACKED, f"{PACKED} with {kernel}: {'as asked' if name != 'auto' else f'a GPU in {dtype}'}"
    if name == PACKED:
        return PACKED, f"{PACKED} run by run, as asked: its kernels need a GPU and half precision"
    return "sdpa", f"sdpa with a dense mask for packed samples: {device} in {dtype} has no variable-length kernel"


AttentionInterface.register(PACKED, packed_varlen_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
