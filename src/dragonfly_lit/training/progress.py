"""What one sees: a table before the first step, a bar while it runs."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dragonfly_lit.spec.layout import Layout
from dragonfly_lit.training.stages import ParamGroup
from dragonfly_lit.training.update import moving_rate


class Bar(ProgressBar):
    """Steps done, loss, learning rate, samples and tokens a second, time left.

    Where the output is not a terminal, a line every 30 seconds and one at the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console()
        self._progress: Progress | None = None

    def disable(self) -> None:
        self._console.quiet = True

    def enable(self) -> None:
        self._console.quiet = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._samples = self._tokens = 0
        self._loss: float | None = None
        self._first_step = trainer.global_step
        self._since = self._printed = time.perf_counter()
        if trainer.is_global_zero and sys.stdout.isatty():
            progress = Progress(
                TextColumn("stage {task.fields[stage]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
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
        self._samples += batch.num_samples * trainer.world_size
        self._tokens += batch.input_ids.numel() * trainer.world_size
        for report in pl_module.reports:
            self._loss = report.loss if self._loss is None else 0.9 * self._loss + 0.1 * report.loss
        report, step = pl_module.report, trainer.global_step
        if self._loss is None or trainer.fit_loop._should_accumulate():
            return
        if self._progress is not None:
            self._progress.update(self._task, completed=step, text=self._text(pl_module))
        elif time.perf_counter() - self._printed > 30 or step >= pl_module.stage.steps or report.stop:
            self._printed = time.perf_counter()
            left = (self._printed - self._since) / (step - self._first_step) * (pl_module.stage.steps - step)
            self._console.print(
                f"stage {pl_module.stage.name} step {step}/{pl_module.stage.steps} {self._text(pl_module)} "
                f"left {time.strftime('%H:%M:%S', time.gmtime(left)) if left < 86400 else f'{left / 86400:.1f} days'}",
                highlight=False,
                soft_wrap=True,
            )

    def _text(self, pl_module: Any) -> str:
        seconds = time.perf_counter() - self._since
        report = pl_module.report
        return (
            f"loss {self._loss:.4f} lr {report.lr * moving_rate(pl_module.optimizer, report.step):.2e} "
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


class StartTable(pl.Callback):
    """Rank zero prints, before the first step, what trains, what is frozen and what an image costs."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            table = start_table(pl_module.model, pl_module.param_groups(), pl_module.stage.name)
            Console().print(table, image_cost(pl_module.model.config.layout), sep="\n", highlight=False)


def start_table(model: Any, param_groups: list[ParamGroup], stage: str) -> Table:
    """Weights of each part, trained and frozen, and how its groups learn."""
    table = Table(title=f"Stage {stage}", title_justify="left")
    for header, side in (("part", "left"), ("trained", "right"), ("frozen", "right"), ("learning rate", "left")):
        table.add_column(header, justify=side)  # type: ignore[arg-type]
    sums = [0, 0]
    for part, module in model.named_children():
        counts = [sum(p.numel() for p in module.parameters() if p.requires_grad is kind) for kind in (True, False)]
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
