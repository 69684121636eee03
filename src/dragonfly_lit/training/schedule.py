"""Step -> learning-rate factor: pure functions, so that a resumed run needs no state for them."""

from __future__ import annotations

import math
from typing import Literal

Shape = Literal["cosine", "linear", "constant"]


def factor(step: int, *, shape: str, steps: int, warmup_steps: int = 0, floor: float | int = 0.0) -> float:
    """The factor that multiplies a learning rate in optimizer step `step`, counted from 0.

    It rises linearly to 1 over `warmup_steps` (the first step already has 1 / (warmup_steps + 1)), then
    falls to `floor` at `steps` along `shape`; past `steps` it stays at the floor.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if shape == "constant":
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    remaining = 1.0 - done if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return floor + (1.0 - floor) * remaining


def num_warmup_steps(warmup: float | int, steps: int) -> int:
    """Steps of warm-up: a value below 1 is a share of `steps`, rounded up; from 1 on it is a number of steps."""
    return math.ceil(warmup * steps) if warmup < 1 else int(warmup)
