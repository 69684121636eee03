"""AdamW whose groups have names and whose state exists from the first step on, whatever waits to be thawed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from dragonfly_lit.training.network import named_weights, plain_name
from dragonfly_lit.training.stages import ParamGroup, Stage

MOMENTS = ("exp_avg", "exp_avg_sq")


def no_decay_names(model: nn.Module) -> set[str]:
    """Names of weights that weight decay spares: embeddings, and whatever has fewer than two axes (norms, biases)."""
    embeddings = {
        plain_name(f"{prefix}.{name}" if prefix else name)
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters(recurse=False)
    }
    return embeddings | {name for name, p in named_weights(model).items() if p.ndim < 2}


def build_optimizer(param_groups: Sequence[ParamGroup], no_decay: set[str], stage: Stage) -> AdamW:
    """AdamW over the claimed weights, each group once with and once without weight decay.

    Each group of the result carries `name`, `names` (of its parameters), `peak_lr`, `from_step` and `until_step`.
    The fused kernel is used where every weight lies on a device that has one.
    """
    groups: list[dict[str, Any]] = []
    for param_group in param_groups:
        for decays in (True, False):
            mine = {name: p for name, p in param_group.parameters.items() if (name not in no_decay) is decays}
            if mine:
                groups.append(
                    {
                        "params": list(mine.values()),
                        "lr": param_group.group.lr,
                        "weight_decay": param_group.group.weight_decay if decays else 0.0,
                        "name": param_group.group.name + ("" if decays else " (no decay)"),
                        "names": list(mine),
                        "group": param_group.group,
                    }
                )
    optimizer = AdamW(groups, betas=(stage.betas[0], stage.betas[1]), eps=stage.eps, fused=True)
    fill_state(optimizer)
    return optimizer


def fill_state(optimizer: AdamW) -> None:
    """Gives every weight its zero moments now.

    AdamW makes them at a weight's first gradient, so a checkpoint taken while a group waits would lack them,
    and a resumed run would start from another shape of state.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                **{moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS},
            }


def state_tensors(optimizer: AdamW) -> dict[str, torch.Tensor]:
    """The optimizer's live state by `parameter name/moment`."""
    return {
        f"{name}/{key}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in optimizer.state[parameter].items()
    }


def group_names(optimizer: AdamW) -> dict[str, list[str]]:
    """Names of each group's parameters: what a checkpoint's optimizer state is compared by."""
    return {group["name"]: list(group["names"]) for group in optimizer.param_groups}


def check_same_groups(saved: dict[str, list[str]], optimizer: AdamW, where: str) -> None:
    """Refuses an optimizer state of other weights; order does not matter, learning rates come from the config.

    Raises:
        ValueError: a group is missing or new, or trains other weights.
    """
    mine = group_names(optimizer)
    for name in [*saved, *mine]:
        ours, theirs = set(mine.get(name, ())), set(saved.get(name, ()))
        if ours != theirs:
            example = sorted(ours ^ theirs)[0]
            raise ValueError(
                f"resume={where}: optimizer group {name!r} has {len(theirs)} weights there and {len(ours)} here "
                f"(for example {example}). Resume with the same stage.groups, or use init_from= for the weights only."
            )
