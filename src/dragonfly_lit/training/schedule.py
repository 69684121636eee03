"""Step -> learning-rate factor: pure functions, so that a resumed run needs no state for them."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["cosine", "linear", "constant", "wsd"]


def factor(
    step: int, *, shape: str, steps: int, warmup_steps: int = 0, decay_steps: int = 0, floor: float | int = 0.0
) -> float:
    """The factor that multiplies a learning rate in optimizer step `step`, counted from 0.

    It rises linearly to 1 over `warmup_steps` (the first step already has 1 / (warmup_steps + 1)), then
    falls to `floor` at `steps` along `shape`; past `steps` it stays at the floor.

    Args:
        step: of the optimizer, counted from 0.
        shape: after the warm-up: `cosine`, `linear`, `constant`, or `wsd` (warm-up, stable, decay), which stays at 1
            and falls linearly over the last `decay_steps`.
        steps: of the whole stage.
        warmup_steps: in which it rises.
        decay_steps: in which `wsd` falls; where the warm-up leaves fewer, those.
        floor: last factor.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if shape == "constant":
        return 1.0
    first = max(warmup_steps, steps - decay_steps) if shape == "wsd" else warmup_steps
    done = min(1.0, max(0, step - first) / max(1, steps - first))
    remaining = 0.5 * (1.0 + math.cos(math.pi * done)) if shape == "cosine" else 1.0 - done
    return floor + (1.0 - floor) * remaining


def num_warmup_steps(warmup: float | int, steps: int) -> int:
    """Steps of warm-up: a value below 1 is a share of `steps`, rounded up; from 1 on it is a number of steps."""
    return math.ceil(warmup * steps) if warmup < 1 else int(warmup)


def num_decay_steps(decay: float | int, steps: int) -> int:
    """Steps in which `wsd` falls, counted as the warm-up's are."""
    return num_warmup_steps(decay, steps)
