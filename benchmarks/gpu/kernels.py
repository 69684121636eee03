"""Attention kernels: exactness at a small size against float64, speed at a real one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.recording import Report
from dragonfly_lit.models.attention import block_mask, dense_mask, packed_varlen_attention
from dragonfly_lit.spec.outline import pack_runs

Samples = list[tuple[int, tuple[int, ...]]]
"""Tokens of each sample's trunk, and of its branches."""
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def kernels(report: Report) -> None:
    """Packed attention, flex attention and a dense mask: the same numbers, and how fast."""
    short, long, branch = (16, 20, 5) if report.dry else (160, 1024, 60)
    width = 32 if report.dry else 128
    branched = [(short, (9, 17, 5)), (2 * short, ()), (short, (30, 30))]
    report.attempt("exact_packed", _exactness, report, [(short, ()), (3 * short, ()), (short + 3, ())], width)
    report.attempt("exact_branches", _exactness, report, branched, width)
    report.attempt("time_8_samples", _timing, report, [(long, ())] * 8, width)
    report.attempt("time_branches", _timing, report, [(long, (branch,) * 4)] * 6, width)
    report.attempt("time_2_long", _timing, report, [(4 * long, ())] * 2, width)


def _ids(samples: Samples) -> tuple[Tensor, Tensor]:
    sample_ids: list[int] = []
    branch_ids: list[int] = []
    for number, (trunk, branches) in enumerate(samples):
        sample_ids += [number] * (trunk + sum(branches))
        branch_ids += [0] * trunk
        for branch, length in enumerate(branches):
            branch_ids += [branch + 1] * length
    return torch.tensor([sample_ids]), torch.tensor([branch_ids])


def _ways(report: Report, samples: Samples) -> tuple[dict[str, Attend], Tensor]:
    sample_ids, branch_ids = _ids(samples)
    packing = pack_runs(sample_ids, branch_ids).map(lambda tensor: tensor.to(report.device))
    sample_ids, branch_ids = sample_ids.to(report.device), branch_ids.to(report.device)
    mask = dense_mask(sample_ids, branch_ids)

    def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return packed_varlen_attention(torch.nn.Identity(), q, k, v, None, packing=packing)[0]

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)

    found: dict[str, Attend] = {"packed_varlen": packed, "sdpa_dense_mask": dense}
    if not report.dry:
        from torch.nn.attention.flex_attention import flex_attention

        blocks = block_mask(sample_ids, branch_ids)
        compiled: Any = torch.compile(flex_attention, dynamic=False)
        found["flex_attention"] = lambda q, k, v: compiled(q, k, v, block_mask=blocks, enable_gqa=True).transpose(1, 2)
    return found, mask


def _inputs(report: Report, tokens: int, width: int) -> list[Tensor]:
    heads, groups = (4, 2) if report.dry else (32, 8)
    draw = torch.Generator(report.device).manual_seed(0)
    options: dict[str, Any] = {"device": report.device, "dtype": report.half, "generator": draw}
    return [torch.randn(1, h, tokens, width, **options).requires_grad_() for h in (heads, groups, groups)]


def _exactness(report: Report, samples: Samples, width: int) -> dict[str, Any]:
    """Relative errors of output and gradients, each way, against float64."""
    ways, mask = _ways(report, samples)
    q, k, v = _inputs(report, mask.shape[-1], width)
    wide = [x.double() for x in (q, k, v)]
    keys, values = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in wide[1:])
    scores = (wide[0] @ keys.transpose(-1, -2)) * width**-0.5
    goal = (scores.masked_fill(~mask, -math.inf).softmax(-1) @ values).transpose(1, 2)
    direction = torch.randn_like(goal)
    goals = [goal, *torch.autograd.grad((goal * direction).sum(), (q, k, v))]
    errors = {}
    for name, attend in ways.items():
        out = attend(q, k, v)
        found = [out, *torch.autograd.grad((out.double() * direction).sum(), (q, k, v))]
        pairs = zip(found, goals, strict=True)
        errors[name] = [float(f"{((a.double() - b.double()).norm() / b.double().norm()).item():.2e}") for a, b in pairs]
    return {"relative error of out, dq, dk, dv": errors}


def _timing(report: Report, samples: Samples, width: int) -> dict[str, Any]:
    """Milliseconds and TFLOP/s of every way, forward and with backward; only pairs that see each other count."""
    ways, mask = _ways(report, samples)
    pairs, tokens = int(mask.sum()), mask.shape[-1]
    q, k, v = _inputs(report, tokens, width)
    flops = 4 * pairs * q.shape[1] * width
    direction = torch.randn(1, tokens, q.shape[1], width, device=report.device, dtype=report.half)
    times: dict[str, Any] = {"tokens": tokens, "pairs": pairs}
    for name, attend in ways.items():
        with torch.no_grad():
            forward = report.ms(lambda: attend(q, k, v), 10)  # noqa: B023
        both = report.ms(lambda: torch.autograd.grad(attend(q, k, v), (q, k, v), direction), 10)  # noqa: B023
        times[name] = {
            "forward_ms": round(forward, 3),
            "both_ms": round(both, 3),
            "forward_tflops": round(flops / forward / 1e9, 1),
            "both_tflops": round(3.5 * flops / both / 1e9, 1),
        }
        report.free()
    return times
