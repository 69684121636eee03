"""The processes of one evaluation: which one this is, waiting for all, passing values between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist

PATIENCE = timedelta(days=7)
"""Ranks finish at different times; a rank that fails is torchrun's to notice, not a timeout's."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that torchrun started.

    Attributes:
        rank: number of this process.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1
    _group: Any = field(default=None, repr=False)

    @classmethod
    def join(cls) -> Ranks:
        """The processes of the environment, joined over gloo; only this one when torchrun started none."""
        if not dist.is_available() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(rank=dist.get_rank(), world=dist.get_world_size(), _group=group)

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.world > 1:
            dist.barrier(group=self._group)

    def gather(self, value: Any) -> list[Any]:
        """What every process gave, on the first one; nothing on the others."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values or []

    def first_does(self, step: Callable[[], Any]) -> None:
        """`step` on the first process; where it fails there, every process raises its error.

        Args:
            step: without a word to the other processes.
        """
        error: Exception | None = None
        if self.first:
            try:
                step()
            except Exception as raised:
                error = raised
        error = self.broadcast(error)
        if error is not None:
            raise error

    def broadcast(self, value: Any) -> Any:
        """What the first process gave, on every process."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]
