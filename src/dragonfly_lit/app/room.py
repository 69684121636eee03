"""Whether a run fits its GPU, said before its weights are loaded, and what would make it fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from dragonfly_lit.app.planning import RESERVED, Machine, plan


class DoesNotFitError(ValueError):
    """Weights, gradients and optimizer are larger than a GPU."""


def ways_out(config: Mapping[str, Any], machine: Machine, text_tokens: int) -> list[str]:
    """Overrides under which a run fits that does not, each with what it would hold."""
    found = []
    for overrides in (
        {"strategy.activation_checkpointing": "selective"},
        {"strategy.activation_checkpointing": "full"},
        {"strategy": "fsdp"},
        {"strategy": "fsdp", "strategy.activation_checkpointing": "full"},
    ):
        other = copy.deepcopy(dict(config))
        if "strategy" in overrides:
            if other["strategy"]["name"] == "fsdp":
                continue
            other["strategy"]["name"] = "fsdp"
        other["strategy"]["activation_checkpointing"] = overrides.get("strategy.activation_checkpointing", "none")
        total = plan(other, machine, text_tokens).memory.total
        if total + RESERVED <= machine.memory:
            found.append(f"{' '.join(f'{key}={value}' for key, value in overrides.items())} ({total / 1e9:.1f} GB)")
    return found[:2]


def check_fits(config: Mapping[str, Any], gpu: str, gpu_memory: float | int) -> str | None:
    """Refuse a run whose weights, gradients and optimizer alone are too large; a line where the rest makes it so.

    Args:
        config: resolved.
        gpu: its name.
        gpu_memory: its bytes.

    Raises:
        DoesNotFitError: the arithmetic, and the way out.
    """
    machine = Machine(gpu=gpu, memory=gpu_memory, peak=1.0, mfu=1.0, node=1.0, network=1.0)
    found = plan(config, machine)
    held, sizes = found.memory, {key: size / 1e9 for key, size in vars(found.memory).items()}
    if held.total + RESERVED <= gpu_memory:
        return None
    fixed = ("weights", "optimizer", "gradients", "reference", "gathered")
    named = " + ".join(f"{sizes[key]:.1f} GB {key}" for key in fixed if sizes[key] > 0.05)
    fits = ways_out(config, machine, 128)
    advice = f"Set {' or '.join(fits)}." if fits else "Use more GPUs with strategy=fsdp, or a smaller model."
    if held.held + held.gathered > gpu_memory:
        over = f", over {found.shards} shards" if found.shards > 1 else ""
        raise DoesNotFitError(
            f"{found.parameters[0]:,} weights, {found.parameters[1]:,} of them trained{over}: "
            f"{named} = {(held.held + held.gathered) / 1e9:.1f} GB do not fit {gpu_memory / 1e9:.1f} GB of {gpu}. "
            f"{advice}"
        )
    kept = held.language + held.tower + held.logits
    return (
        f"{named} + {kept / 1e9:.1f} GB activations of {found.work.tokens:,} tokens = {held.total / 1e9:.1f} GB may "
        f"not fit {gpu_memory / 1e9:.1f} GB of {gpu}. {advice}"
    )


def look_for_room(config: Mapping[str, Any]) -> str | None:
    """`check_fits` on the GPU of this process; nothing where no plan can be made, which is not what a run fails of."""
    import torch

    from dragonfly_lit.training.sharding import can_compile

    properties, trainer = torch.cuda.get_device_properties(0), config["trainer"]
    if trainer["compile"] == "auto" and not can_compile(torch.device("cuda")):
        config = {**config, "trainer": {**trainer, "compile": "off"}}
    try:
        return check_fits(config, properties.name, float(properties.total_memory))
    except DoesNotFitError:
        raise
    except Exception:  # a part of the user's own may be anything; building it says better what is wrong
        return None
