"""What keeps a long run alive: signals of a scheduler, steps that would ruin the weights."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from dragonfly_lit.io import disk
from dragonfly_lit.io.commands import INTERRUPT_STATUS
from dragonfly_lit.io.text import counted
from dragonfly_lit.training.beside import Beside
from dragonfly_lit.training.update import StepReport

REQUEUE_STATUS = getattr(os, "EX_TEMPFAIL", 75)
"""Exit status after a pre-emption: the run is saved and wants to be started again with `resume=auto`."""
ONE_PRESS_SECONDS = 1.0
"""Signals this close together are one press of Ctrl-C: the terminal sends it to every process, and torchrun passes it
on to its own."""


class Preemption(Callback):
    """SIGTERM, SIGUSR1 or Ctrl-C to any rank: every rank ends its optimizer step, the run is saved and ends.

    `received` then says so, and the process should exit with `status`. A second SIGTERM or SIGUSR1 is ignored, a second
    Ctrl-C ends the process at once.
    """

    signals = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received = False
        self._pressed_at: float | None = None

    @property
    def status(self) -> int:
        """The exit status of the process once the run is saved."""
        return REQUEUE_STATUS if self._pressed_at is None else INTERRUPT_STATUS

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # Later than Lightning's own handlers, which raise out of the step or requeue by themselves; `Trainer` puts
        # back what was there before.
        def note(number: int, _frame: Any) -> None:
            pl_module.stop_after_step = True

        def interrupt(number: int, _frame: Any) -> None:
            if self._pressed_at is None:
                self._pressed_at = time.monotonic()
                pl_module.stop_after_step = True
                if trainer.is_global_zero:
                    say = "Ctrl-C: the run is saved after this step and ends. Press it again to end at once, unsaved."
                    print(f"\n{say}", file=sys.stderr, flush=True)
            elif time.monotonic() - self._pressed_at > ONE_PRESS_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        for number in self.signals:
            signal.signal(number, note)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a job in the background is none of Ctrl-C's
            signal.signal(signal.SIGINT, interrupt)
        # Every rank hears of it in the step's own collective, so Lightning need not ask before each micro-batch.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if any(report.stop for report in pl_module.reports):
            self.received = True


class BadSteps(Callback):
    """Counts steps that were not taken because loss or gradient was not finite or the loss jumped, and says which
    samples they had.

    Args:
        run: folder of the run; `bad_steps.jsonl` is written there.
        stop_after: consecutive skipped steps after which the run ends with an error.
        spike: a step whose loss exceeds this many times the median of the last `window` steps is skipped; None takes
            every finite step.
        window: steps that the median is taken over; no step is skipped as a spike before as many are known.
        beside: catches a line that cannot be written.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        stop_after: int = 5,
        spike: float | None = None,
        window: int = 64,
        beside: Beside | None = None,
    ) -> None:
        if spike is not None and spike <= 1:
            raise ValueError(
                f"callbacks.bad_steps.spike={spike} would skip ordinary steps. Use a factor above 1, or null."
            )
        self.path = Path(run) / "bad_steps.jsonl"
        self.stop_after, self.spike, self.beside = stop_after, spike, beside or Beside()
        self.total = self.consecutive = 0
        self._losses: deque[float] = deque(maxlen=window)
        self._batches: list[tuple[list[str], Tensor]] = []
        self._by_step: dict[int, list[tuple[list[str], Tensor]]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "consecutive": self.consecutive, "losses": list(self._losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total, self.consecutive = state_dict["total"], state_dict["consecutive"]
        self._losses.extend(state_dict["losses"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.spike is not None:
            pl_module.skip_rule = self.skip_rule

    def skip_rule(self, loss: float, norm: float) -> str | None:
        """The reason for which a finite step is not taken, if there is one."""
        if self.spike is None or len(self._losses) < (self._losses.maxlen or 0):
            return None
        usual = median(self._losses)
        return f"the loss is {loss / usual:.1f} times its median" if loss > self.spike * usual else None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._batches.append(([key for row in batch.keys for key in row], outputs["step_loss"].loss))
        if not trainer.fit_loop._should_accumulate():
            self._by_step[trainer.global_step - 1], self._batches = self._batches, []
        for report in pl_module.reports:
            self._take(trainer, report)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.total and trainer.is_global_zero:
            print(
                f"Skipped {self.total} of {counted(trainer.global_step, 'step')}: the loss or the gradient was not "
                f"finite, or the loss jumped. Their samples are in {self.path}."
            )

    def _take(self, trainer: pl.Trainer, report: StepReport) -> None:
        batches = self._by_step.pop(report.step, [])
        if report.skipped is None:
            self.consecutive = 0
            self._losses.append(report.loss)
            return
        self.total += 1
        self.consecutive += 1
        self._write(trainer, report.step, report.skipped, batches)
        if self.consecutive >= self.stop_after:
            raise ValueError(
                f"callbacks.bad_steps.stop_after={self.stop_after}: {self.consecutive} steps in a row were skipped "
                f"because {report.skipped}. Their samples are in {self.path}; lower the learning rate or repair them, "
                "then use resume=auto."
            )
        if self.total == report.step + 1 == trainer.max_steps:  # a run this short would end as if it had trained
            raise ValueError(
                f"None of the {counted(trainer.max_steps, 'step')} of this run was taken, because {report.skipped}. "
                f"Their samples are in {self.path}; lower the learning rate or repair them, and train again."
            )

    def _write(self, trainer: pl.Trainer, step: int, reason: str, batches: list[tuple[list[str], Tensor]]) -> None:
        """Keys of the micro-batches whose own loss is not finite; of all of them if each is."""
        bad = [keys for keys, loss in batches if not math.isfinite(float(loss))]
        mine = {"keys": [key for keys in bad for key in keys], "all": [key for keys, _ in batches for key in keys]}
        everyone: list[Any] = [mine]
        if dist.is_initialized() and dist.get_world_size() > 1:
            everyone = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, mine)
        if trainer.is_global_zero:
            keys = [key for rank in everyone for key in rank["keys"]] or [
                key for rank in everyone for key in rank["all"]
            ]
            with self.beside(self.path.name):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with disk.naming(self.path), self.path.open("a") as file:
                    file.write(json.dumps({"step": step, "reason": reason, "keys": keys}) + "\n")


def device_memory(device: torch.device) -> float:
    """Most memory that this process has held so far, in GB: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
