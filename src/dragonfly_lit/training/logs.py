"""Files for people and for checks: which samples went into which step, and what the model answers along the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from dragonfly_lit.io import disk
from dragonfly_lit.training.beside import Beside
from dragonfly_lit.training.sharding import uncompiled

Answer = Callable[[Any, Path, int], None]
"""`answer(model, folder, count)`: asks the model `count` questions and leaves answers and pictures in `folder`."""


class SampleLog(Callback):
    """One JSON line for each micro-batch: step, rank, sample keys and loss. `data_prep resume-check` reads it.

    Args:
        path: the file; rank r > 0 writes `path.r`.
        beside: catches a line that cannot be written.
    """

    def __init__(self, path: str | Path, beside: Beside | None = None) -> None:
        self.path, self.beside = Path(path), beside or Beside()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        rank = trainer.global_rank
        path = self.path if rank == 0 else self.path.with_name(f"{self.path.name}.{rank}")
        line = {
            "step": trainer.global_step + trainer.fit_loop._should_accumulate(),  # the step that it is part of, from 1
            "rank": rank,
            "keys": [key for row in batch.keys for key in row],
            "loss": float(outputs["step_loss"].loss),
        }
        with self.beside("callbacks.sample_log"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with disk.naming(path), path.open("a") as file:
                file.write(json.dumps(line) + "\n")


class AnswerLog(Callback):
    """A few answered questions with the crops zoomed into, each `every` steps and at the end, in `folder/step-N`.

    Rank zero asks, once the step's checkpoint is written: before the next step, or at the end. Under FSDP nothing is
    asked: no rank holds the weights, and generation calls parts that are sharded.

    Args:
        folder: where they go.
        answer: asks; training knows no questions of its own.
        every: optimizer steps; None is at the end only.
        count: questions each time.
        beside: catches whatever goes wrong in an answer or in a picture.
    """

    def __init__(
        self,
        folder: str | Path,
        answer: Answer,
        *,
        every: int | None = 500,
        count: int = 4,
        beside: Beside | None = None,
    ) -> None:
        self.folder, self.answer, self.every, self.count = Path(folder), answer, every, count
        self.beside = beside or Beside()
        self._asked = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.reads.append(lambda step: self.every is not None and step % self.every == 0)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._ask_if_due(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._ask_if_due(trainer, pl_module)

    def _ask_if_due(self, trainer: pl.Trainer, pl_module: Any) -> None:
        step, report = trainer.global_step, pl_module.report
        if report is None or report.stop or step == self._asked or report.step + 1 != step:
            return
        if step >= pl_module.stage.steps or (self.every is not None and step % self.every == 0):
            self._asked = step
            self._ask(trainer, pl_module, step)

    def _ask(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
        if getattr(pl_module.network, "sharded", False) or not trainer.is_global_zero:
            return
        # Answering must not change what training draws.
        with torch.random.fork_rng(), torch.no_grad(), uncompiled(pl_module.model):
            pl_module.model.eval()
            try:
                with self.beside("callbacks.answers"):
                    self.answer(pl_module.model, self.folder / f"step-{step:08d}", self.count)
            finally:
                pl_module.model.train()
