"""What trains, from which step and how fast: data, never an `if`.

A stage freezes every weight and thaws what its groups name. Whether a group moves in a step is a pure
function of the step, so a run that resumes in the middle of a freeze schedule needs no state for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, get_args

from torch import nn
from torch.optim import AdamW, Optimizer

from dragonfly_lit.models.quantized import BITS, quantized_layers
from dragonfly_lit.training.network import named_weights
from dragonfly_lit.training.schedule import Shape, factor, num_decay_steps, num_warmup_steps

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
"""Parameter groups, each with its `params`, `lr` and `weight_decay`, to an optimizer over them."""
Schedule = Callable[[int, int], float]
"""`schedule(step, steps)`: the factor of every learning rate in optimizer step `step` of `steps`, counted from 0."""

ADAMW: OptimizerFactory = partial(AdamW, betas=(0.9, 0.999), eps=1e-8, fused=True)
"""The optimizer where a stage names no other."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Weights that train together.

    Attributes:
        match: shell-style patterns over full parameter names, such as `projector.*`; `*` crosses dots.
        lr: peak learning rate.
        weight_decay: of weights other than norms, biases and embeddings.
        from_step: optimizer step from which the group moves; until then its gradients are dropped.
        until_step: first optimizer step in which it no longer moves; None is never.
        optional: whether patterns may match nothing, for parts that some models do not have.
    """

    match: str | Sequence[str]
    lr: float | int
    weight_decay: float | int = 0.1
    from_step: int = 0
    until_step: int | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(
                f"stage.groups {self.name}: lr={self.lr} must be positive. Leave the group out to freeze it."
            )
        if self.until_step is not None and self.until_step <= self.from_step:
            raise ValueError(
                f"stage.groups {self.name}: until_step={self.until_step} does not come after "
                f"from_step={self.from_step}; it would never train. Leave the group out to freeze it."
            )

    @property
    def patterns(self) -> tuple[str, ...]:
        return (self.match,) if isinstance(self.match, str) else tuple(self.match)

    @property
    def name(self) -> str:
        return " ".join(self.patterns)

    def moves(self, step: int) -> bool:
        """Whether the group's weights change in optimizer step `step`, counted from 0."""
        return self.from_step <= step and (self.until_step is None or step < self.until_step)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters in the language model, through peft. Source: arXiv 2106.09685."""

    rank: int = 16
    alpha: float | int = 32
    dropout: float | int = 0.0
    target: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training.

    Attributes:
        name: of the stage; resuming asks for the same one.
        steps: optimizer steps.
        groups: what trains; everything else is frozen.
        accumulate: micro-batches a rank in one optimizer step.
        schedule: shape of the learning rate after the warm-up: cosine, linear, constant or wsd; or a function of one's
            own, which gives the whole factor: `warmup`, `decay` and `floor` are not asked then.
        warmup: below 1 a share of `steps`, else a number of steps.
        decay: of wsd: its last steps, in which the rate falls, counted as the warm-up's are.
        floor: final learning rate as a share of the peak.
        clip: largest norm of all gradients together; None does not clip.
        optimizer: builds the optimizer from its parameter groups.
        lora: adapters in the language model; name them in a group, such as `language.*lora_*`.
        init_from: where the weights come from: a path, `auto` or None.
    """

    name: str
    steps: int
    groups: Sequence[Group]
    accumulate: int = 1
    schedule: str | Schedule = "cosine"
    warmup: float | int = 0.01
    decay: float | int = 0.1
    floor: float | int = 0.0
    clip: float | int | None = 1.0
    optimizer: OptimizerFactory = ADAMW
    lora: Lora | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.schedule) and self.schedule not in get_args(Shape):
            raise ValueError(
                f"stage.schedule={self.schedule} is unknown. Use one of {', '.join(get_args(Shape))}, or a function of "
                "your own: stage.schedule={_target_: my_parts.schedule.mine}."
            )
        if self.schedule == "wsd" and self.decay <= 0:
            raise ValueError(
                f"stage.decay={self.decay}: the rate of stage.schedule=wsd falls over a share of the steps or a number "
                "of them. Use stage.schedule=constant for one that does not fall."
            )
        if self.steps < 1 or self.accumulate < 1:
            raise ValueError(f"stage.steps={self.steps} and stage.accumulate={self.accumulate} must be at least 1.")
        if self.warmup < 0 or not 0 <= self.floor <= 1:
            raise ValueError(
                f"stage.warmup={self.warmup} and stage.floor={self.floor}: the warm-up is a share of the steps or a "
                "number of them, 0 for none, and the floor a share of the peak between 0 and 1."
            )
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"stage.clip={self.clip} would stop every step. Use null to clip nothing.")
        if not self.groups:
            raise ValueError("stage.groups is empty: nothing would train. Name what trains by pattern.")

    def lr_factor(self, step: int) -> float:
        """The factor of every group's learning rate in optimizer step `step`, counted from 0."""
        if callable(self.schedule):
            given = self.schedule(step, self.steps)
            try:
                found = math.nan if isinstance(given, str) else float(given)
            except TypeError:
                found = math.nan
            if not (math.isfinite(found) and found >= 0):
                raise ValueError(
                    f"stage.schedule gives {given!r} for step {step} of {self.steps}. It must give a factor from 0 on."
                )
            return found
        return factor(
            step,
            shape=self.schedule,
            steps=self.steps,
            warmup_steps=num_warmup_steps(self.warmup, self.steps),
            decay_steps=num_decay_steps(self.decay, self.steps),
            floor=self.floor,
        )


@dataclass(frozen=True, kw_only=True)
class ParamGroup:
    """The parameters that one group of a stage trains, by name."""

    group: Group
    parameters: Mapping[str, nn.Parameter] = field(repr=False)

    def over(self, weights: Mapping[str, nn.Parameter]) -> ParamGroup:
        """The same group over other weights of these names, such as masters."""
        return replace(self, parameters={name: weights[name] for name in self.parameters})


def param_groups(model: nn.Module, groups: Sequence[Group]) -> list[ParamGroup]:
    """Which parameters each group trains.

    Raises:
        ValueError: a pattern matches nothing, or two groups claim the same weight.
    """
    parameters = named_weights(model)
    owners: dict[str, str] = {}
    found = []
    for group in groups:
        mine: dict[str, nn.Parameter] = {}
        for pattern in group.patterns:
            names = [name for name in parameters if fnmatchcase(name, pattern)]
            if not names and not group.optional:
                parts = ", ".join(dict.fromkeys(f"{name.split('.')[0]}.*" for name in parameters))
                raise ValueError(f"stage.groups: match={pattern} matches no weight of the model. It has {parts}.")
            mine |= {name: parameters[name] for name in names}
        for name in mine:
            if name in owners:
                raise ValueError(
                    f"stage.groups: {name} is claimed by match={owners[name]} and by match={group.name}. "
                    "Narrow one of the patterns."
                )
            owners[name] = group.name
        if mine:
            found.append(ParamGroup(group=group, parameters=mine))
    if not found:
        raise ValueError("stage.groups: nothing of the model is matched, so nothing would train. Name a part of it.")
    return found


def check_trains_floats(model: nn.Module, stage: Stage) -> None:
    """Refuse a stage that would train weights which are held in few bits.

    Raises:
        ValueError: names the pattern, a weight, and the ways out.
    """
    for name, layer in quantized_layers(model).items():
        for pattern in (pattern for group in stage.groups for pattern in group.patterns):
            if fnmatchcase(name, pattern):
                raise ValueError(
                    f"stage.groups: match={pattern} would train {name}, which model.quantize={layer.kind} holds in "
                    f"{BITS[layer.kind]} bits. Train adapters (stage.lora, match=language.*lora_*) or other parts, or "
                    "set model.quantize=null."
                )


def widen(model: nn.Module, stage: Stage) -> None:
    """Weights that will train to float32, before a checkpoint's are read into them: none of its bits is lost."""
    patterns = [pattern for group in stage.groups for pattern in group.patterns]
    for name, weight in named_weights(model).items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            weight.data = weight.data.float()


def freeze(model: nn.Module, stage: Stage) -> list[ParamGroup]:
    """Freezes everything, thaws what the stage names; a part without a trainable weight goes into eval mode.

    A group that waits for its `from_step` counts as trainable: the sharding and the optimizer's state are the
    same in every step.
    """
    found = param_groups(model, stage.groups)
    model.requires_grad_(False)
    for param_group in found:
        for parameter in param_group.parameters.values():
            parameter.requires_grad_(True)
    return found
