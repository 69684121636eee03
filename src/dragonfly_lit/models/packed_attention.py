"""Variable-length attention over the runs of a pack as one operator, of whose lengths no compiler has to know.

Lengths come as a tensor on the host, so a compiled block has no guard on them and the host never waits for a device.
On a GPU in half precision the operator calls torch's flash kernels, which take fewer heads of keys than of queries;
on a CPU torch's flash kernel for CPUs: all runs of one length in one call, each for itself, then what all branches of
a sample see of its trunk in one more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
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
    """Runs of one length, and where their tokens lie: a slice where they follow one another."""

    length: int
    places: slice | Tensor


class _Trunk(NamedTuple):
    """Queries behind one another that all see the same keys, which come before each of them."""

    queries: slice
    keys: slice | Tensor


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
        grad,
        query,
        key,
        value,
        out,
        lse,
        ends[0],
        ends[1],
        longest_query,
        longest_key,
        0.0,
        True,
        no_dropout,
        torch.empty(0, device=query.device),
        scale=scale,
    )
    return grad_query, *_scattered(keys, host_ends, tokens, grad_key, grad_value)


# ------------------------------------------------------------------------------------------------------ on a CPU


def _runs_of(host_ends: Tensor) -> Iterator[_Runs]:
    """Runs of equal numbers of queries together; of each its own tokens alone."""
    starts_of: dict[int, list[int]] = defaultdict(list)
    for start, end in pairwise(host_ends[0].tolist()):
        starts_of[end - start].append(start)
    for length, starts in starts_of.items():
        if all(second - first == length for first, second in pairwise(starts)):
            yield _Runs(length, slice(starts[0], starts[-1] + length))
        else:
            yield _Runs(length, (torch.tensor(starts)[:, None] + torch.arange(length)).flatten())


def _trunks_of(keys: Tensor, host_ends: Tensor) -> list[_Trunk]:
    """What runs see besides themselves; runs behind one another that see the same, such as branches, together."""
    if _alone(host_ends):
        return []
    own, seen = host_ends.diff()
    before, at = seen - own, host_ends[1, :-1].long()
    first, last = keys[at], keys[at + (before - 1).clamp(min=0)]
    columns = (*host_ends[0].unfold(0, 2, 1).unbind(1), before, at, first, last)
    found: list[_Trunk] = []
    for start, end, length, place, one, other in torch.stack([c.long() for c in columns], dim=1).tolist():
        if not length:
            continue
        together = other - one == length - 1  # places ascend
        trunk = slice(one, other + 1) if together else keys[place : place + length]
        if found and together and found[-1].keys == trunk and found[-1].queries.stop == start:
            found[-1] = _Trunk(slice(found[-1].queries.start, end), trunk)
        else:
            found.append(_Trunk(slice(start, end), trunk))
    return found


def _batched(tensor: Tensor, places: slice | Tensor, length: int | None, heads: int) -> Tensor:
    """(runs, heads, length, width) of runs of one length, None for one run, with heads repeated up to `heads`."""
    taken = tensor[places] if isinstance(places, slice) else tensor.index_select(0, places)
    runs = taken[None] if length is None else taken.unflatten(0, (-1, length))
    if runs.shape[2] != heads:
        runs = runs.repeat_interleave(heads // runs.shape[2], dim=2)
    return runs.transpose(1, 2)


def _flat(value: Tensor, heads: int) -> Tensor:
    """(runs, heads, length, width) as (tokens, heads, width), with repeated heads summed into `heads`."""
    flat = value.transpose(1, 2).flatten(0, 1)
    return flat if flat.shape[1] == heads else flat.unflatten(1, (heads, -1)).sum(2)


def _put(target: Tensor, places: slice | Tensor, value: Tensor) -> None:
    if isinstance(places, slice):
        target[places] = value
    else:
        target.index_copy_(0, places, value)


def _add(target: Tensor, places: slice | Tensor, value: Tensor) -> None:
    if isinstance(places, slice):
        target[places] += value
    else:
        target.index_add_(0, places, value.to(target.dtype))


def _cpu(query, key, value, keys, ends, host_ends, scale: float) -> tuple[Tensor, Tensor]:
    query, key, value = (x.contiguous() for x in (query, key, value))  # rows are taken from what lies in rows only
    out, heads = torch.empty_like(query), query.shape[1]
    lse = query.new_empty(len(query), heads, dtype=_lse_dtype(query))
    for length, places in _runs_of(host_ends):
        found, sums = _attend((_batched(x, places, length, heads) for x in (query, key, value)), True, scale)
        _put(out, places, _flat(found, heads))
        _put(lse, places, sums.transpose(1, 2).flatten(0, 1))
    for queries, trunk in _trunks_of(keys, host_ends):
        parts = ((query, queries), (key, trunk), (value, trunk))
        found, sums = _attend((_batched(x, places, None, heads) for x, places in parts), False, scale)
        # A softmax over two sets of keys is that of each, by its share of the sum of both.
        here, own = sums[0].T, lse[queries]
        both = torch.logaddexp(own, here)
        shares = [(part - both).exp().unsqueeze(-1) for part in (own, here)]
        out[queries] = (out[queries] * shares[0] + _flat(found, heads) * shares[1]).to(out.dtype)
        lse[queries] = both
    return out, lse.T.contiguous()


def _attend(parts: Iterable[Tensor], causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """What queries see of keys and values, and the logarithms of the sums of their softmax."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*parts, 0.0, causal, scale=scale)


def _cpu_backward(grad, out, lse, query, key, value, keys, ends, host_ends, scale: float):
    heads, lse = query.shape[1], lse.T.contiguous()
    grad, query, key, value = (x.contiguous() for x in (grad, query, key, value))
    grads = [torch.empty_like(x) for x in (query, key, value)]
    trunks = _trunks_of(keys, host_ends)
    if trunks:  # in float32: a trunk's gradient is the sum over all of its branches
        grads = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in grads]

    def part(queries: slice | Tensor, of: slice | Tensor, length: int | None, causal: bool, write: Callable) -> None:
        sums = _batched(lse[..., None], queries, length, heads)[..., 0].contiguous()
        # Of all keys of the queries, so that every part of the keys gets its share of the gradient.
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *(_batched(x, queries, length, heads) for x in (grad, query)),
            *(_batched(x, of, length, heads) for x in (key, value)),
            _batched(out, queries, length, heads),
            sums,
            0.0,
            causal,
            scale=scale,
        )
        for target, places, gradient in zip(grads, (queries, of, of), found, strict=True):
            write(target, places, _flat(gradient, target.shape[1]))

    for length, places in _runs_of(host_ends):
        part(places, places, length, True, _put)
    for queries, trunk in trunks:
        part(queries, trunk, None, False, _add)
    return tuple(found.to(x.dtype) for found, x in zip(grads, (query, key, value), strict=True))


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
