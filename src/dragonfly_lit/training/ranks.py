"""Which process this is, before and after the processes of a run have met."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only


def global_rank() -> int:
    """Number of this process among those of the run; 0 where it is alone."""
    only: Any = rank_zero_only  # Lightning keeps the rank as an attribute of a function
    return int(getattr(only, "rank", 0))


def rank() -> int:
    """The same in torch's own group, once that exists."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Processes of torch's group; 1 where there is none."""
    return dist.get_world_size() if dist.is_initialized() else 1
