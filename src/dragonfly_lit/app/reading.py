"""What a step of a run reads, and how many steps its samples are: `stage.steps=auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dragonfly_lit.app.recipe import recipe_of
from dragonfly_lit.app.stage import AUTO
from dragonfly_lit.io.text import counted


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a stage reads.

    Attributes:
        steps: of the stage.
        samples: of a step, on all ranks; of packed rows an estimate from probed lengths.
        told: the same as a line.
    """

    steps: int
    samples: float
    told: str


def reading_of(config: Mapping[str, Any], samples: float, tokens: float) -> Reading:
    """What the stage of a configuration reads.

    Args:
        config: resolved, its processes whole numbers.
        samples: of a micro-batch.
        tokens: of a sample, images included.

    Raises:
        ValueError: neither the steps nor the samples of the stage are given.
    """
    stage, trainer = config["stage"], config["trainer"]
    ranks = int(trainer["devices"]) * int(trainer["num_nodes"])
    micro_batches = ranks * int(stage["accumulate"])
    a_step = micro_batches * samples
    told = f"A step reads {micro_batches} x {samples:.3g} samples, about {a_step * tokens:,.0f} tokens"
    if stage["steps"] != AUTO:
        steps = int(stage["steps"])
        read = f"{counted(steps, 'step')} read{'s' * (steps == 1)} {steps * a_step:,.0f} samples"
        return Reading(steps=steps, samples=a_step, told=f"{told}; {read}.")
    wanted = stage.get("samples")
    if wanted is None:
        raise ValueError("stage.steps=auto: stage.samples says nothing to derive them from. Give one of the two.")
    steps = max(1, round(wanted / a_step))
    told = f"{told}, so stage.samples={wanted:,} are {steps:,} steps"
    if (size := recipe_of(config).get("batch_size")) and size != samples:
        of_recipe = micro_batches * size
        told += f" ({round(wanted / of_recipe):,} of {of_recipe} samples by the recipe's batch_size)"
    return Reading(steps=steps, samples=a_step, told=f"{told}.")
