"""The optimizer of a stage: its groups have names, and all of its state goes into a checkpoint by name.

Any torch optimizer will do. AdamW's state exists from the first step on, whatever waits to be thawed; another's is
made by itself at a weight's first gradient, and is made here only when a checkpoint that holds it is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from dragonfly_lit.training.network import named_weights, plain_name
from dragonfly_lit.training.stages import ParamGroup, Stage

PLAIN = (bool, int, float, str, type(None))
_OURS = ("params", "lr", "name", "names", "group", "built")


def no_decay_names(model: nn.Module) -> set[str]:
    """Names of weights that weight decay spares: embeddings, and whatever has fewer than two axes (norms, biases)."""
    embeddings = {
        plain_name(f"{prefix}.{name}" if prefix else name)
        for prefix, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters(recurse=False)
    }
    return embeddings | {name for name, p in named_weights(model).items() if p.ndim < 2}


def build_optimizer(param_groups: Sequence[ParamGroup], no_decay: set[str], stage: Stage) -> Optimizer:
    """The stage's optimizer over the weights of its groups, each group once with and once without weight decay.

    Each group of the result carries `name`, `names` (of its parameters) and `group` (the stage's).

    Raises:
        ValueError: the optimizer does not take these groups.
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
    try:
        optimizer = stage.optimizer(groups)
    except (TypeError, ValueError) as error:
        raise ValueError(f"stage.optimizer cannot be built: {error}") from error
    _check_takes(optimizer, groups)
    if type(optimizer) is AdamW:
        fill_state(optimizer)
    for group in optimizer.param_groups:
        group["built"] = {key: group[key] for key in group if key not in _OURS}
    return optimizer


def _check_takes(optimizer: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"stage.optimizer gives a {type(optimizer).__name__}, which is not a torch.optim.Optimizer.")
    step = type(optimizer).step
    if step is Optimizer.step or "closure" not in inspect.signature(step).parameters:
        raise ValueError(
            f"stage.optimizer: {class_name(optimizer)} has no step(closure=None). Give it one that calls the closure, "
            "as the optimizers of torch do."
        )
    sharded = any(isinstance(weight, DTensor) for group in groups for weight in group["params"])
    if sharded and class_name(optimizer).startswith("bitsandbytes."):  # its kernels read memory, and know no shards
        raise ValueError(
            f"stage.optimizer: {class_name(optimizer)} cannot move the shards of strategy=fsdp. Use strategy=ddp, or "
            "optimizer=adamw."
        )
    if "weight_decay" not in optimizer.defaults and (decayed := [g for g in groups if g["weight_decay"]]):
        raise ValueError(
            f"stage.groups {decayed[0]['name']}: weight_decay={decayed[0]['weight_decay']}, but "
            f"{class_name(optimizer)} does not decay weights. Set weight_decay=0, or use another stage.optimizer."
        )


def class_name(part: Any) -> str:
    """Where the class of an optimizer or an objective is: what a checkpoint says of it."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def fill_state(optimizer: AdamW) -> None:
    """Gives every weight its zero moments now.

    AdamW makes them at a weight's first gradient, so a checkpoint taken while a group waits would lack them,
    and a resumed run would start from another shape of state.
    """
    for group in optimizer.param_groups:
        moments = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=_scalar_device(group, parameter)),
                **{moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in moments},
            }


def _scalar_device(group: Mapping[str, Any], parameter: Tensor) -> torch.device:
    """Where torch's optimizers keep their counters: with the weight if the kernel reads them there, else on the CPU."""
    return parameter.device if group.get("fused") or group.get("capturable") else torch.device("cpu")


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's live state by `parameter name/moment`."""
    return {key: value for key, value in _states(optimizer) if isinstance(value, Tensor)}


def _states(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    for _, name, parameter in _named(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}/{key}", value


def _named(optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            yield group, name, parameter


def plain_state(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """What an optimizer keeps beside tensors: numbers by weight, and fields of its groups that it has changed itself.

    Raises:
        ValueError: something of it is neither a tensor nor a plain value.
    """
    weights = {key: value for key, value in _states(optimizer) if not isinstance(value, Tensor)}
    groups = {
        f"{group['name']}/{key}": value
        for group in optimizer.param_groups
        for key, value in group.items()
        if key not in _OURS and _changed(value, group["built"].get(key))
    }
    for key, value in (weights | groups).items():
        if not isinstance(value, PLAIN):
            raise ValueError(
                f"stage.optimizer: {class_name(optimizer)} keeps a {type(value).__name__} as {key}, which a checkpoint "
                "cannot hold. Use an optimizer whose state is tensors and numbers."
            )
    return {kind: found for kind, found in (("weights", weights), ("groups", groups)) if found}


def _changed(value: Any, built: Any) -> bool:
    if isinstance(value, Tensor) or isinstance(built, Tensor):
        return value is not built
    return bool(value != built)


def load_plain_state(optimizer: Optimizer, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Takes back what `plain_state` gave."""
    weights, groups = state.get("weights", {}), state.get("groups", {})
    for _, name, parameter in _named(optimizer):
        prefix = f"{name}/"
        mine = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if mine:
            optimizer.state[parameter].update(mine)
    for group in optimizer.param_groups:
        prefix = f"{group['name']}/"
        group.update({key.removeprefix(prefix): value for key, value in groups.items() if key.startswith(prefix)})


def make_room(optimizer: Optimizer, saved: Mapping[str, tuple[torch.Size, torch.dtype]]) -> None:
    """Makes the state that a checkpoint holds and this optimizer has not made yet, to be read into.

    Args:
        optimizer: fresh.
        saved: shape and type of each tensor of the checkpoint's state, by `parameter name/moment`.

    Raises:
        ValueError: a weight is sharded, and its state has another shape than the weight.
    """
    for group, name, parameter in _named(optimizer):
        for key in [key for key in saved if key.rpartition("/")[0] == name]:
            moment = key.rpartition("/")[2]
            if moment not in optimizer.state.get(parameter, {}):
                shape, dtype = saved[key]
                optimizer.state[parameter][moment] = _room(group, parameter, shape, dtype, key)


def _room(group: Mapping[str, Any], parameter: Tensor, shape: torch.Size, dtype: torch.dtype, key: str) -> Tensor:
    if shape == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
    if not len(shape):
        return torch.zeros((), dtype=dtype, device=_scalar_device(group, parameter))
    if isinstance(parameter, DTensor):
        raise ValueError(
            f"stage.optimizer: {key} has shape {tuple(shape)}, its weight {tuple(parameter.shape)}. Such a state "
            "cannot be dealt out with strategy=fsdp. Use strategy=ddp, or another optimizer."
        )
    return torch.empty(shape, dtype=dtype, device=parameter.device)


def group_names(optimizer: Optimizer) -> dict[str, list[str]]:
    """Names of each group's parameters: what a checkpoint's optimizer state is compared by."""
    return {group["name"]: list(group["names"]) for group in optimizer.param_groups}


def check_same_optimizer(saved: str, optimizer: Optimizer, where: str) -> None:
    """Refuses the state of an optimizer of another class.

    Raises:
        ValueError: it is of another class.
    """
    if saved != class_name(optimizer):
        raise ValueError(
            f"resume={where} holds the state of {saved}, this run has stage.optimizer={class_name(optimizer)}. Resume "
            "with the same optimizer, or use init_from= for the weights only."
        )


def check_same_groups(saved: dict[str, list[str]], optimizer: Optimizer, where: str) -> None:
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
