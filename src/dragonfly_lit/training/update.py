"""From summed gradients to one update: the global mean, the schedule, the clipping and the skipping of bad steps.

The loss is a sum over supervised tokens, divided once by the weight of the whole optimizer step: all its
micro-batches on all ranks. So a step does not depend on how its samples were dealt out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from dragonfly_lit.models.host_reads import HostCopy
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


class PendingReport:
    """The report of a step that its device decides on: on its way to the host, which may ask for it later.

    Args:
        totals: what the report is made of, on its device.
        build: makes the report of their values.
    """

    def __init__(self, totals: Tensor, build: Callable[[list[float]], StepReport]) -> None:
        self._totals, self._build = HostCopy(totals), build

    def read(self) -> StepReport:
        """The report; waits until the device has come to it, which it has when another step has been launched."""
        return self._build(self._totals.read().tolist())


def decides_by_itself(optimizer: Optimizer) -> bool:
    """Whether the optimizer's kernel can leave out a step without a word from the host, as fused ones on a GPU can."""
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return fused and all(p.device.type == "cuda" for group in optimizer.param_groups for p in group["params"])


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
    names, totals = _add_up(optimizer, step, loss, weight, stop)
    report = _report(_read(totals), names, step=step, factor=factor, divided_by=divided_by, skip_rule=skip_rule)
    gradients = _gradients(optimizer)
    if report.skipped:
        optimizer.zero_grad(set_to_none=True)
    elif gradients:
        scale = divided_by / report.weight if report.weight > 0 else 0.0
        clip = min(1.0, stage.clip / (report.grad_norm + 1e-6)) if stage.clip is not None else 1.0
        torch._foreach_mul_(gradients, scale * clip)  # pyright: ignore[reportPrivateImportUsage]
    return report


def launch_update(
    optimizer: Any,
    stage: Stage,
    step: int,
    *,
    loss: Tensor,
    weight: Tensor,
    divided_by: float | int,
    stop: bool = False,
) -> PendingReport:
    """`prepare_update` without a wait: the optimizer scales the gradients and decides whether the step is taken.

    Args:
        optimizer: a fused one, of which `decides_by_itself` holds; whose gradients are summed over the micro-batches.
        stage: groups, schedule and clipping.
        step: number of this step, counted from 0.
        loss: this rank's sum of weighted token losses.
        weight: this rank's sum of weights.
        divided_by: what the gradients were divided by already (accumulation times ranks).
        stop: whether this rank wants to stop after the step.
    """
    factor = set_learning_rates(optimizer, stage, step)
    names, totals = _add_up(optimizer, step, loss, weight, stop)
    loss_sum, weight_sum, _, *squares = totals.unbind()
    positive = weight_sum > 0
    scale = torch.where(positive, divided_by / weight_sum, 0.0)
    norm = (torch.stack(squares).sqrt() * scale).square().sum().sqrt()
    mean = torch.where(positive, loss_sum / weight_sum, 0.0)
    clip = (stage.clip / (norm + 1e-6)).clamp(max=1.0) if stage.clip is not None else 1.0
    # How torch tells a fused optimizer what to divide its gradients by, as it reads them: no pass of their own.
    optimizer.grad_scale = (scale * clip).float().reciprocal()
    # And that they are bad: it then changes neither weights nor state.
    optimizer.found_inf = (mean.isfinite() & norm.isfinite()).logical_not().float()
    return PendingReport(totals, partial(_report, names=names, step=step, factor=factor, divided_by=divided_by))


def _add_up(optimizer: Optimizer, step: int, loss: Tensor, weight: Tensor, stop: bool) -> tuple[list[str], Tensor]:
    """Names of the groups; over all ranks loss, weight, wishes to stop and the groups' sums of squared gradients."""
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
    sums, norms = torch.stack([loss.double(), weight.double(), wish]), torch.stack(squares)
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return names, torch.cat([sums, norms])
    together = torch.cat([sums, norms]) if sharded else sums  # squares only where each rank holds a shard
    dist.all_reduce(together)
    return names, together if sharded else torch.cat([together, norms])


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _report(
    totals: list[float],
    names: Sequence[str],
    *,
    step: int,
    factor: float,
    divided_by: float | int,
    skip_rule: SkipRule | None = None,
) -> StepReport:
    loss_sum, weight_sum, wants_stop, *group_squares = totals
    scale = divided_by / weight_sum if weight_sum > 0 else 0.0
    norms = dict.fromkeys(names, 0.0)
    for name, square in zip(names, group_squares, strict=True):  # a group's weights with and without decay
        norms[name] = math.hypot(norms[name], math.sqrt(square) * scale if square >= 0 else math.nan)
    norm = math.hypot(*norms.values())
    mean = loss_sum / weight_sum if weight_sum > 0 else 0.0
    return StepReport(
        step=step,
        loss=mean,
        weight=weight_sum,
        lr=factor,
        grad_norms=norms,
        grad_norm=norm,
        skipped=_skip_reason(mean, norm, skip_rule),
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
    # Shards that live in the host's memory are summed there; the sums meet those of the loss on its device.
    return (torch.stack(norms).double().square().sum() / _holders(gradients[0])).to(like.device)


def _holders(gradient: Tensor) -> int:
    """Ranks that hold the same shard, each of which adds its square to the sum over all ranks."""
    if not isinstance(gradient, DTensor):
        return 1
    placed = zip(gradient.placements, gradient.device_mesh.shape, strict=True)
    return math.prod(size for placement, size in placed if placement.is_replicate())


def _read(sums: Tensor) -> list[float]:
    """The one wait for the device in a step, where the host decides on it."""
    return sums.tolist()
