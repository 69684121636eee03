"""From summed gradients to one update: the global mean, the schedule, the clipping and the skipping of bad steps.

The loss is a sum over supervised tokens, divided once by the weight of the whole optimizer step: all its
micro-batches on all ranks. So a step does not depend on how its samples were dealt out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from dragonfly_lit.training.stages import Stage

SkipRule = Callable[[float, float], str | None]
"""Loss and gradient norm of a step to the reason for which it is not taken, or None."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What is known about an optimizer step on every rank, before it is taken.

    Attributes:
        step: number of the step, counted from 0.
        loss: mean over the step's supervised tokens, weighted.
        weight: sum of their weights.
        lr: factor of every learning rate.
        grad_norms: by group name, before clipping.
        grad_norm: of all groups together, before clipping.
        skipped: why the step was not taken; None if it was.
        stop: whether some rank asked to stop after this step.
    """

    step: int
    loss: float
    weight: float
    lr: float
    grad_norms: dict[str, float] = field(default_factory=dict)
    grad_norm: float = 0.0
    skipped: str | None = None
    stop: bool = False


def set_learning_rates(optimizer: Optimizer, stage: Stage, step: int) -> float:
    """Gives every group its rate of optimizer step `step`; the factor of them all."""
    factor = stage.lr_factor(step)
    for group in optimizer.param_groups:
        group["lr"] = group["group"].lr * factor if group["group"].moves(step) else 0.0
    return factor


def moving_rate(optimizer: Optimizer, step: int) -> float:
    """Largest peak rate of the groups that move in optimizer step `step`; 0 where none does."""
    return max((group["group"].lr for group in optimizer.param_groups if group["group"].moves(step)), default=0.0)


def prepare_update(
    optimizer: Optimizer,
    stage: Stage,
    step: int,
    *,
    loss: Tensor,
    weight: Tensor,
    divided_by: float | int,
    stop: bool = False,
    skip_rule: SkipRule | None = None,
) -> StepReport:
    """Makes the gradients those of the global mean and sets the learning rates, or drops the gradients.

    One collective a step carries the sums, the norms of sharded gradients and the wish to stop; one wait for the device
    reads them, as whether a step is taken must be known before it is.

    Args:
        optimizer: whose gradients are summed over this step's micro-batches.
        stage: groups, schedule and clipping.
        step: number of this step, counted from 0.
        loss: this rank's sum of weighted token losses.
        weight: this rank's sum of weights.
        divided_by: what the gradients were divided by already (accumulation times ranks).
        stop: whether this rank wants to stop after the step.
        skip_rule: asked about steps that are finite.
    """
    factor = set_learning_rates(optimizer, stage, step)
    names, squares, sharded = [], [], False
    for group in optimizer.param_groups:
        if not group["group"].moves(step):
            for parameter in group["params"]:
                parameter.grad = None
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        sharded |= any(isinstance(g, DTensor) for g in gradients)
        names.append(group["group"].name)
        squares.append(_sum_of_squares(gradients, weight))
    wish = torch.full((), float(stop), dtype=torch.float64, device=loss.device)  # filled there, not sent
    totals = _all_reduce(torch.stack([loss.double(), weight.double(), wish]), squares, sharded)
    loss_sum, weight_sum, wants_stop, *group_squares = totals
    scale = divided_by / weight_sum if weight_sum > 0 else 0.0
    norms = dict.fromkeys(names, 0.0)
    for name, square in zip(names, group_squares, strict=True):  # a group's weights with and without decay
        norms[name] = math.hypot(norms[name], math.sqrt(square) * scale if square >= 0 else math.nan)
    norm = math.hypot(*norms.values())
    mean = loss_sum / weight_sum if weight_sum > 0 else 0.0
    skipped = _skip_reason(mean, norm, skip_rule)
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if skipped:
        optimizer.zero_grad(set_to_none=True)
    elif gradients:
        clip = min(1.0, stage.clip / (norm + 1e-6)) if stage.clip is not None else 1.0
        torch._foreach_mul_(gradients, scale * clip)  # pyright: ignore[reportPrivateImportUsage]
    return StepReport(
        step=step,
        loss=mean,
        weight=weight_sum,
        lr=factor,
        grad_norms=norms,
        grad_norm=norm,
        skipped=skipped,
        stop=wants_stop > 0,
    )


def _skip_reason(loss: float, norm: float, skip_rule: SkipRule | None) -> str | None:
    if not math.isfinite(loss):
        return "the loss is not finite"
    if not math.isfinite(norm):
        return "the gradient is not finite"
    return skip_rule(loss, norm) if skip_rule is not None else None


def _sum_of_squares(gradients: Sequence[Tensor], like: Tensor) -> Tensor:
    if not gradients:
        return like.new_zeros((), dtype=torch.float64)
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    norms = torch._foreach_norm(local)  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack(norms).double().square().sum()


def _all_reduce(sums: Tensor, squares: Sequence[Tensor], sharded: bool) -> list[float]:
    """Sums over ranks; squares of gradients only where each rank holds a shard."""
    norms = torch.stack(list(squares))
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return _read(torch.cat([sums, norms]))
    together = torch.cat([sums, norms]) if sharded else sums
    dist.all_reduce(together)
    return _read(together if sharded else torch.cat([together, norms]))


def _read(sums: Tensor) -> list[float]:
    """The one wait for the device in a step."""
    return sums.tolist()
