"""Variable-length attention over the runs of a pack as one operator, of whose lengths no compiler has to know.

Lengths come as a tensor on the host, so a compiled block has no guard on them and the host never waits for a device.
On a GPU in half precision the operator calls torch's flash kernels, which take fewer heads of keys than of queries;
on a CPU torch's flash kernel for CPUs, all runs of one length in one call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

HALF = (torch.float16, torch.bfloat16)
_FORWARD = "(Tensor query, Tensor key, Tensor value, Tensor keys, Tensor ends, Tensor host_ends, float scale)"
_BACKWARD = _FORWARD.replace("(", "(Tensor grad, Tensor out, Tensor lse, ")


class _Runs(NamedTuple):
    """Runs of one shape: flat starts of their queries and (in the gathered keys) of their keys."""

    queries: int
    keys: int
    query_starts: list[int]
    key_starts: list[int]


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, ends: Tensor, host_ends: Tensor, scale: float
) -> Tensor:
    """Causal attention within every run: (tokens, heads, width) in and out.

    Args:
        query: of all tokens.
        key: likewise; its heads may be a divisor of the query's.
        value: likewise.
        keys: as in Packing.
        ends: as in Packing, where the queries are.
        host_ends: as in Packing.
        scale: of the scores.
    """
    if has_kernel(query):
        return torch.ops.dragonfly_lit.packed_attention(query, key, value, keys, ends, host_ends, scale)[0]
    return run_by_run(query, key, value, keys, host_ends, scale)


def has_kernel(query: Tensor) -> bool:
    """Whether the operator has a kernel for such queries; others go run by run through torch's own attention."""
    if query.device.type == "cuda":
        return query.dtype in HALF and _has_flash_width(query.shape[-1])
    return query.device.type in ("cpu", "meta")


def _has_flash_width(width: int) -> bool:
    # By arithmetic: a compiler that does not know the width can ask no range for it.
    return width % 8 == 0 and 8 <= width <= 256


def run_by_run(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, host_ends: Tensor, scale: float, dropout: float = 0.0
) -> Tensor:
    """The same from torch's scaled_dot_product_attention, for any device, type and dropout."""
    query_lengths, key_lengths = host_ends.diff().tolist()
    if query_lengths != key_lengths:
        key, value = key.index_select(0, keys), value.index_select(0, keys)
    outs = []
    parts = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    for q, k, v in parts:
        mask = _mask(len(q), len(k), q.device)
        out = F.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in (q, k, v)),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            dropout_p=dropout,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


def _mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
    """True where a query of a branch sees a key; None where causal order says it."""
    if num_queries == num_keys:
        return None
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)


# ------------------------------------------------------------------------------------------------------ on a GPU


def _gathered(keys: Tensor, host_ends: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tensors if _alone(host_ends) else tuple(tensor.index_select(0, keys) for tensor in tensors)


def _alone(host_ends: Tensor) -> bool:
    return torch.equal(host_ends[0], host_ends[1])


def _scattered(keys: Tensor, host_ends: Tensor, tokens: int, *grads: Tensor) -> tuple[Tensor, ...]:
    """Gradients of gathered keys summed into their places."""
    if _alone(host_ends):
        return grads
    # In float32: a trunk's gradient is the sum over all of its branches.
    dtype = torch.promote_types(grads[0].dtype, torch.float32)
    sums = (grad.new_zeros(tokens, *grad.shape[1:], dtype=dtype) for grad in grads)
    return tuple(s.index_add_(0, keys, grad.to(dtype)).to(grad.dtype) for s, grad in zip(sums, grads, strict=True))


def _flash(query, key, value, keys, ends, host_ends, scale: float) -> tuple[Tensor, Tensor]:
    key, value = _gathered(keys, host_ends, key, value)
    longest_query, longest_key = host_ends.diff().amax(1).tolist()
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, ends[0], ends[1], longest_query, longest_key, 0.0, True, False, scale=scale
    )
    return out, lse


def _flash_backward(grad, out, lse, query, key, value, keys, ends, host_ends, scale: float):
    tokens = len(key)
    key, value = _gathered(keys, host_ends, key, value)
    longest_query, longest_key = host_ends.diff().amax(1).tolist()
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
    grad_query, grad_key, grad_value = torch.ops.aten._flash_attention_backward(
        grad, query, key, value, out, lse, ends[0], ends[1], longest_query, longest_key, 0.0, True,
        no_dropout, torch.empty(0, device=query.device), scale=scale,
    )  # fmt: skip
    return grad_query, *_scattered(keys, host_ends, tokens, grad_key, grad_value)


# ------------------------------------------------------------------------------------------------------ on a CPU


def _by_shape(host_ends: Tensor) -> Iterator[_Runs]:
    """Runs of equal numbers of queries and keys together."""
    query_ends, key_ends = host_ends.tolist()
    found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for i in range(len(query_ends) - 1):
        shape = query_ends[i + 1] - query_ends[i], key_ends[i + 1] - key_ends[i]
        found[shape].append((query_ends[i], key_ends[i]))
    for (queries, keys), starts in found.items():
        yield _Runs(queries, keys, [q for q, _ in starts], [k for _, k in starts])


def _places(starts: list[int], length: int) -> slice | Tensor:
    """Where runs of one length lie: a slice where they follow one another."""
    if all(second - first == length for first, second in pairwise(starts)):
        return slice(starts[0], starts[-1] + length)
    return (torch.tensor(starts)[:, None] + torch.arange(length)).flatten()


def _batched(tensor: Tensor, places: slice | Tensor, length: int, heads: int) -> Tensor:
    """(runs, heads, length, width) of runs of one length, with heads repeated up to `heads`."""
    taken = tensor[places] if isinstance(places, slice) else tensor.index_select(0, places)
    runs = taken.unflatten(0, (-1, length))
    if runs.shape[2] != heads:
        runs = runs.repeat_interleave(heads // runs.shape[2], dim=2)
    return runs.transpose(1, 2)


def _put(target: Tensor, places: slice | Tensor, value: Tensor) -> None:
    """(runs, heads, length, width) back into (tokens, heads, width), the repeated heads summed."""
    flat = value.transpose(1, 2).flatten(0, 1)
    if flat.shape[1] != target.shape[1]:
        flat = flat.unflatten(1, (target.shape[1], -1)).sum(2)
    if isinstance(places, slice):
        target[places] = flat
    else:
        target.index_copy_(0, places, flat)


def _cpu(query, key, value, keys, ends, host_ends, scale: float) -> tuple[Tensor, Tensor]:
    key, value = _gathered(keys, host_ends, key, value)
    out, heads = torch.empty_like(query, memory_format=torch.contiguous_format), query.shape[1]
    lse = query.new_empty(heads, len(query), dtype=_lse_dtype(query))
    for runs in _by_shape(host_ends):
        at, of = _places(runs.query_starts, runs.queries), _places(runs.key_starts, runs.keys)
        mask = _additive(runs, query)
        found, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            _batched(query, at, runs.queries, heads),
            _batched(key, of, runs.keys, heads),
            _batched(value, of, runs.keys, heads),
            0.0, mask is None, attn_mask=mask, scale=scale,
        )  # fmt: skip
        _put(out, at, found)
        lse[:, at] = sums.transpose(0, 1).flatten(1)
    return out, lse


def _cpu_backward(grad, out, lse, query, key, value, keys, ends, host_ends, scale: float):
    tokens, heads = len(key), query.shape[1]
    key, value = _gathered(keys, host_ends, key, value)
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
    for runs in _by_shape(host_ends):
        at, of = _places(runs.query_starts, runs.queries), _places(runs.key_starts, runs.keys)
        mask = _additive(runs, query)
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            _batched(grad, at, runs.queries, heads),
            _batched(query, at, runs.queries, heads),
            _batched(key, of, runs.keys, heads),
            _batched(value, of, runs.keys, heads),
            _batched(out, at, runs.queries, heads),
            lse[:, at].unflatten(1, (-1, runs.queries)).transpose(0, 1).contiguous(),
            0.0, mask is None, attn_mask=mask, scale=scale,
        )  # fmt: skip
        for target, places, gradient in zip(grads, (at, of, of), found, strict=True):
            _put(target, places, gradient)
    return grads[0], *_scattered(keys, host_ends, tokens, grads[1], grads[2])


def _additive(runs: _Runs, like: Tensor) -> Tensor | None:
    mask = _mask(runs.queries, runs.keys, like.device)
    return None if mask is None else like.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))


def _lse_dtype(query: Tensor) -> torch.dtype:
    return torch.promote_types(query.dtype, torch.float32)


# ------------------------------------------------------------------------------------------------------ operators

_forward = torch.library.custom_op(
    "dragonfly_lit::packed_attention",
    _cpu,
    mutates_args=(),
    device_types="cpu",
    schema=f"{_FORWARD} -> (Tensor, Tensor)",
)
_forward.register_kernel("cuda")(_flash)
_backward = torch.library.custom_op(
    "dragonfly_lit::packed_attention_backward",
    _cpu_backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"{_BACKWARD} -> (Tensor, Tensor, Tensor)",
)
_backward.register_kernel("cuda")(_flash_backward)


@_forward.register_fake
def _(query, key, value, keys, ends, host_ends, scale):
    return query.new_empty(query.shape), query.new_empty(query.shape[1], query.shape[0], dtype=_lse_dtype(query))


@_backward.register_fake
def _(grad, out, lse, query, key, value, keys, ends, host_ends, scale):
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


def _keep(ctx, inputs, output) -> None:  # torch's names
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*output, *tensors)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad, _grad_of_lse):
    grads = torch.ops.dragonfly_lit.packed_attention_backward(grad, *ctx.saved_tensors, ctx.scale)
    return *grads, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)

OPERATOR = torch.ops.dragonfly_lit.packed_attention.default
"""The forward, for those who choose by operator what is kept for backward."""


def _products(query: Tensor, host_ends: Tensor) -> int:
    """Multiply-adds of one matrix product over all runs, as torch counts attention: what the mask hides included."""
    queries, keys = host_ends.diff().long()
    return 2 * query.shape[1] * query.shape[2] * int((queries * keys).sum())


@register_flop_formula(torch.ops.dragonfly_lit.packed_attention, get_raw=True)
def _(query, key, value, keys, ends, host_ends, scale, out_val=None, **_) -> int:
    return 2 * _products(query, host_ends)


@register_flop_formula(torch.ops.dragonfly_lit.packed_attention_backward, get_raw=True)
def _(grad, out, lse, query, key, value, keys, ends, host_ends, scale, out_val=None, **_) -> int:
    return 4 * _products(query, host_ends)  # the scores once more, which torch's formula counts, are not the model's
