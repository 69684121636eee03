"""What holds a GPU's memory in a few steps of a run: files in `runs/NAME/memory`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

FOLDER = "memory"
log = logging.getLogger(__name__)


class MemorySnapshot(Callback):
    """Leaves `rank-N.pickle`, every allocation with the lines that made it, for pytorch.org/memory_viz.

    Nothing of it costs anything before and after the steps that it records.

    Args:
        first: optimizer step of this run before which recording starts, counted from 0: the first ones compile and
            make room.
        steps: optimizer steps that are recorded.
        entries: allocations that are kept, the last ones.
    """

    def __init__(self, first: int = 5, steps: int = 2, entries: int = 200_000) -> None:
        self.first, self.steps, self.entries = first, steps, entries
        self._start_at = 0
        self._until: int | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Refuses what cannot be recorded.

        Raises:
            ValueError: the run is not on a GPU of CUDA.
        """
        device = trainer.strategy.root_device
        if device.type != "cuda":
            raise ValueError(
                f"callbacks.memory_snapshot: torch records the memory of a GPU only, not of {device}. Leave the "
                "callback out, or use trainer=gpu."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._start_at = trainer.global_step + self.first

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._until is None and trainer.global_step == self._start_at:
            self._until = trainer.global_step + self.steps
            torch.cuda.memory._record_memory_history(max_entries=self.entries)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._until is not None and trainer.global_step >= self._until:
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._until is not None:  # the run was shorter
            self._write(trainer)
        elif self._start_at > trainer.global_step:
            log.warning(
                "callbacks.memory_snapshot.first=%d: the run ended before; nothing was recorded. Give a smaller one.",
                self.first,
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self._until is not None:  # memory that ran out is what the file is for
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        self._until, self._start_at = None, -1
        folder = Path(trainer.default_root_dir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        torch.cuda.memory._dump_snapshot(str(folder / f"rank-{trainer.global_rank}.pickle"))
        torch.cuda.memory._record_memory_history(enabled=None)
