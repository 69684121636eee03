"""What one sees: a table before the first step, a bar while it runs."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from dragonfly_lit.io.console import standard_output
from dragonfly_lit.models.quantized import quantized_size
from dragonfly_lit.spec.layout import Layout
from dragonfly_lit.training.stages import ParamGroup
from dragonfly_lit.training.telemetry import by_kind
from dragonfly_lit.training.update import moving_rate

FIRST_LINE, LINES = 8.0, 30.0
"""Seconds until the first line where the output is not a terminal, and between two lines."""
FORWARD = 0.4
"""Time of a sample that is only looked at, as a share of one that is trained on, until it is measured."""
BAR_FROM, RATES_FROM = 80, 120
"""Columns of a terminal from which a bar, and learning rate and speed, have room beside step, loss and time."""


class TimeLeft:
    """How long a run goes on: its steps, its validations, and what is scored after them.

    The first step of a process, which warms everything up, counts only as long as it is the only one.

    Args:
        steps: to be taken in all.
        val_every: steps between two validations; one follows the last step in any case.
        num_val: samples of a validation.
        num_scored: samples, or images with their questions, that are looked at behind the last step.
    """

    def __init__(self, steps: int, *, val_every: int, num_val: int = 0, num_scored: int = 0) -> None:
        self.steps, self.val_every, self.num_val, self.num_scored = steps, val_every, num_val, num_scored
        self._seconds = self._first = 0.0
        self._taken = self._samples = self._first_samples = 0
        self._validating, self._validated = 0.0, 0

    def step_taken(self, seconds: float, samples: int) -> None:
        """A step has taken `seconds` for its `samples`."""
        if not self._taken:
            self._first, self._first_samples = seconds, samples
        self._taken, self._seconds, self._samples = self._taken + 1, self._seconds + seconds, self._samples + samples

    def validated(self, seconds: float) -> None:
        """A validation has taken `seconds`."""
        self._validating, self._validated = self._validating + seconds, self._validated + 1

    def left(self, step: int) -> float | None:
        """Seconds until the run has ended, after `step` steps of it; None before one was taken here."""
        if not self._taken:
            return None
        few = self._taken == 1
        seconds = self._seconds - (0.0 if few else self._first)
        a_step = seconds / (self._taken if few else self._taken - 1)
        a_sample = FORWARD * seconds / max(1, self._samples - (0 if few else self._first_samples))
        validations = len(range(step + self.val_every - step % self.val_every, self.steps, self.val_every)) + 1
        validation = self._validating / self._validated if self._validated else self.num_val * a_sample
        if self._validated and self.num_val:
            a_sample = validation / self.num_val
        return a_step * (self.steps - step) + validations * validation * bool(self.num_val) + self.num_scored * a_sample


class Bar(ProgressBar):
    """Steps done, loss, learning rate, samples and tokens a second, and the time left with validation and scoring.

    Where the output is not a terminal, a line after 8 seconds, one every 30 seconds and one at the end.

    Args:
        num_scored: images or samples that are looked at once training has ended.
    """

    def __init__(self, num_scored: int = 0) -> None:
        super().__init__()
        self.num_scored = num_scored
        self._console = Console()
        self._progress: Progress | None = None

    def disable(self) -> None:
        self._console.quiet = True

    def enable(self) -> None:
        self._console.quiet = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._samples = self._tokens = 0
        self._loss: float | None = None
        self._since = self._step_since = time.perf_counter()
        self._next_line, self._validating, self._step_samples = self._since + FIRST_LINE, 0.0, 0
        self._time = TimeLeft(
            pl_module.stage.steps,
            val_every=max(1, int(trainer.val_check_interval) // pl_module.stage.accumulate),
            num_scored=self.num_scored,
        )
        if trainer.is_global_zero and sys.stdout.isatty():
            bar = [BarColumn()] if self._console.width >= BAR_FROM else []
            progress = Progress(
                TextColumn("stage {task.fields[stage]}"),
                *bar,
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=self._console,
            )
            progress.start()
            self._progress = progress
            self._task = progress.add_task(
                "", total=pl_module.stage.steps, completed=trainer.global_step, stage=pl_module.stage.name, text=""
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.is_global_zero:
            return
        num_samples = batch.num_samples * trainer.world_size
        self._samples, self._step_samples = self._samples + num_samples, self._step_samples + num_samples
        self._tokens += batch.input_ids.numel() * trainer.world_size
        for report in pl_module.reports:
            self._loss = report.loss if self._loss is None else 0.9 * self._loss + 0.1 * report.loss
        report, step = pl_module.report, trainer.global_step
        if trainer.fit_loop._should_accumulate():
            return
        now = time.perf_counter()
        self._time.step_taken(now - self._step_since, self._step_samples)
        self._time.num_val = samples_of_validation(trainer)
        self._step_since, self._step_samples = now, 0
        if self._loss is None:
            return
        told = f"loss {self._loss:.4f} left {clock(self._time.left(step))}"
        if self._progress is not None:
            rates = f" {self._rates(pl_module)}" if self._console.width >= RATES_FROM else ""
            self._progress.update(self._task, completed=step, text=told + rates)
        elif now > self._next_line or step >= pl_module.stage.steps or report.stop:
            self._next_line = now + LINES
            # What matters is at the start of the line, wherever a narrow log cuts or wraps it.
            self._console.print(
                f"stage {pl_module.stage.name} step {step}/{pl_module.stage.steps} {told} {self._rates(pl_module)}"
                + (f" ({kinds})" if (kinds := by_kind(trainer.callback_metrics)) else ""),
                highlight=False,
                soft_wrap=True,
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._validation_since = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not hasattr(self, "_time"):
            return
        spent = time.perf_counter() - self._validation_since
        self._time.validated(spent)
        self._step_since, self._since = self._step_since + spent, self._since + spent

    def _rates(self, pl_module: Any) -> str:
        seconds = time.perf_counter() - self._since
        report = pl_module.report
        return (
            f"lr {report.lr * moving_rate(pl_module.optimizer, report.step):.2e} "
            f"{self._samples / seconds:.1f} samples/s {self._tokens / seconds:,.0f} tokens/s"
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def clock(seconds: float | None) -> str:
    """A time that is left, as 1:02:03, or in days where it is more than one."""
    if seconds is None:
        return "?"
    if seconds >= 86400:
        return f"{seconds / 86400:.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def samples_of_validation(trainer: Any) -> int:
    """Samples that a validation of all ranks looks at, as far as it is known; 0 where there is no validation data."""
    batches = sum(number for number in trainer.num_val_batches if number != float("inf"))
    # Counted, as batches are smaller where their crops are bounded, and at the end of a source.
    count = getattr(trainer.datamodule, "val_samples", None)  # a data module of the user's own may not know
    return count(int(batches) * trainer.world_size) if count else 0


class StartTable(pl.Callback):
    """Rank zero prints, before the first step, what trains, what is frozen and what an image costs."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            table = start_table(pl_module.model, pl_module.param_groups(), pl_module.stage.name)
            standard_output().print(table, image_cost(pl_module.model.config.layout), sep="\n", highlight=False)


def start_table(model: Any, param_groups: list[ParamGroup], stage: str) -> Table:
    """Weights of each part, trained and frozen, and how its groups learn."""
    table = Table(title=f"Stage {stage}", title_justify="left")
    for header, side in (("part", "left"), ("trained", "right"), ("frozen", "right"), ("learning rate", "left")):
        table.add_column(header, justify=side)  # type: ignore[arg-type]
    sums = [0, 0]
    for part, module in model.named_children():
        counts = [sum(p.numel() for p in module.parameters() if p.requires_grad is kind) for kind in (True, False)]
        counts[1] += quantized_size(module)[0]
        if not any(counts):
            continue
        sums = [a + b for a, b in zip(sums, counts, strict=True)]
        groups = [c.group for c in param_groups if any(name.startswith(f"{part}.") for name in c.parameters)]
        table.add_row(part, *(f"{n:,}" if n else "-" for n in counts), ", ".join(map(_pace, groups)))
    table.add_section()
    table.add_row("all", *(f"{n:,}" if n else "-" for n in sums), "")
    return table


def _pace(group: Any) -> str:
    text = f"{group.lr:g}"
    if group.from_step:
        text += f" from step {group.from_step}"
    return text + (f" until step {group.until_step}" if group.until_step is not None else "")


def image_cost(layout: Layout) -> str:
    """One line: crops and tokens of an image."""
    zoom = layout.zoom
    shown = int(zoom.low) + zoom.num_medium + zoom.num_high_kept
    return (
        f"An image costs {layout.num_tokens:,} tokens: {zoom.num_crops} crops of {layout.image_size} px are looked at "
        f"(low {int(zoom.low)}, medium {zoom.num_medium}, high {zoom.num_high}), {shown} are shown to the language "
        "model."
    )
