"""What a run says about itself: speed, use of the machine, gradients, the loss of each source."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from dragonfly_lit.models.flops import Trained, Work, peak_flops, step_flops
from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.spec.records import Batch
from dragonfly_lit.training.network import named_weights
from dragonfly_lit.training.survival import device_memory
from dragonfly_lit.training.update import moving_rate


class Telemetry(Callback):
    """Logs to every logger each `every` optimizer steps; the keys are listed in docs/training.md.

    What it logs is in `trainer.callback_metrics` as well, on every rank, for callbacks that monitor something.
    Everything is summed on the device and over ranks, and read once at logging: between two lines it waits for nothing.

    Args:
        every: optimizer steps between two lines.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.last: dict[str, float] = {}
        """The last line."""
        self.validated: dict[str, float] = {}
        """The last line of validation."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        device = pl_module.device
        names = [name for name, p in named_weights(pl_module.model).items() if p.requires_grad]
        adapters, own = [n for n in names if ".lora_" in n], [n for n in names if ".lora_" not in n]
        parts = ("vision", "projector", "language")
        self._trained = Trained(
            adapters=bool(adapters), **{part: any(name.startswith(f"{part}.") for name in own) for part in parts}
        )
        self._config = pl_module.model.config
        self._projector = pl_module.model.projector
        self._peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        pl_module.reads.append(lambda step: step % self.every == 0)
        self._start_window()

    def _start_window(self) -> None:
        self._sums: Tensor | None = None
        self._sources = SourceLosses()
        self._loss = self._weight = self._waited = 0.0
        self._steps = self._skipped = 0
        self._since = self._idle_since = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._idle_since

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        sums = count(batch, outputs["step_loss"])
        self._sums = sums if self._sums is None else self._sums + sums
        self._sources.add(batch, outputs["step_loss"])
        for report in pl_module.reports:
            self._skipped += report.skipped is not None
            if report.skipped is None:
                self._loss, self._weight = self._loss + report.loss * report.weight, self._weight + report.weight
        if not trainer.fit_loop._should_accumulate():
            self._steps += 1
            if trainer.global_step % self.every == 0 or trainer.global_step >= pl_module.stage.steps:
                self._log(trainer, pl_module)
        self._idle_since = time.perf_counter()

    def _log(self, trainer: pl.Trainer, pl_module: Any) -> None:
        assert self._sums is not None
        report, world = pl_module.report, trainer.world_size
        local = self._sums.double()
        if world > 1:
            dist.all_reduce(local)
        samples, images, tokens, places, pairs, supervised = (int(value) for value in local.tolist())
        seconds = time.perf_counter() - self._since
        work = Work(images=images, tokens=tokens, pairs=pairs, supervised=supervised)
        flops = sum(step_flops(self._config, work, self._trained, self._projector).values()) / seconds
        self.last = {
            "loss": self._loss / self._weight if self._weight else float("nan"),
            "lr": report.lr * moving_rate(pl_module.optimizer, report.step),
            "grad_norm": report.grad_norm,
            **{f"grad_norm/{name}": norm for name, norm in report.grad_norms.items() if len(report.grad_norms) > 1},
            **{f"loss/{source}": loss for source, loss in self._sources.means(world).items()},
            "samples_per_s": samples / seconds,
            "tokens_per_s": tokens / seconds,
            "useful_tokens": tokens / places,
            "supervised_tokens": supervised / self._steps,
            "tflops_per_device": flops / world / 1e12,
            **({"mfu": flops / world / self._peak} if self._peak else {}),
            "memory_gb": device_memory(pl_module.device),
            "data_wait": self._waited / seconds,
            "skipped_steps": float(self._skipped),
            "epoch": float(trainer.current_epoch),
        }
        publish(trainer, self.last)
        self._start_window()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._validation = torch.zeros(2, dtype=torch.float64, device=pl_module.device)
        self._validation_sources = SourceLosses()
        self._validation_since = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        sums: LossSums = outputs["step_loss"]
        self._validation += torch.stack([sums.loss, sums.weight]).double()
        self._validation_sources.add(batch, sums)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        totals = self._validation
        if trainer.world_size > 1:
            dist.all_reduce(totals)
        loss, weight = totals.tolist()
        line = {f"val_loss/{s}": v for s, v in self._validation_sources.means(trainer.world_size).items()}
        line["val_loss"] = loss / weight if weight else float("nan")
        self.validated = line
        publish(trainer, line)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # The time of validation is not the time of training.
        if hasattr(self, "_since"):
            spent = time.perf_counter() - self._validation_since
            self._since, self._idle_since = self._since + spent, time.perf_counter()


def publish(trainer: pl.Trainer, line: dict[str, float]) -> None:
    """Hands a line to every logger, and to the callbacks that monitor."""
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in line.items()})
    for logger in trainer.loggers:
        logger.log_metrics(line, step=trainer.global_step)


def count(batch: Batch, step_loss: LossSums) -> Tensor:
    """Samples, images, tokens, places (tokens and padding), pairs and supervised labels of a batch, on its device."""
    useful = batch.sample_ids >= 0
    images = 0 if batch.pixel_values is None else len(batch.pixel_values)

    def known(number: int) -> Tensor:  # filled on the device: a number that is sent there would be waited for
        return torch.full((), number, dtype=torch.long, device=useful.device)

    return torch.stack(
        [
            known(batch.num_samples),
            known(images),
            useful.sum(),
            known(useful.numel()),
            ((batch.position_ids + 1) * useful).sum(),
            known(step_loss.rows.numel()),
        ]
    )


class SourceLosses:
    """Mean token loss of each source, summed sample by sample on the device and read when it is asked for."""

    def __init__(self) -> None:
        self._samples: list[Tensor] = []
        """Sums and counts, (2, samples), of each micro-batch."""
        self._sources: list[str] = []
        """Of all samples in turn."""

    def add(self, batch: Batch, step_loss: LossSums) -> None:
        """Takes a micro-batch in."""
        width, longest = batch.input_ids.shape[1], max(map(len, batch.sources))
        samples = batch.sample_ids.flatten().index_select(0, step_loss.rows).clamp(max=longest - 1)
        ones = torch.ones_like(step_loss.token_losses)
        sums = torch.stack([step_loss.token_losses, ones]).double()
        places = step_loss.rows // width * longest + samples
        self._samples.append(sums.new_zeros(2, len(batch.sources) * longest).index_add_(1, places, sums))
        self._sources += [source for row in batch.sources for source in [*row, *[""] * (longest - len(row))]]

    def means(self, world: int) -> dict[str, float]:
        """By source, over all ranks; nothing where there is one source only."""
        mine: dict[str, list[float]] = {}
        if self._samples:
            for source, *sums in zip(self._sources, *torch.cat(self._samples, dim=1).tolist(), strict=True):
                if source or any(sums):
                    mine[source] = [a + b for a, b in zip(mine.get(source, (0.0, 0.0)), sums, strict=True)]
        everyone: list[Any] = [mine]
        if world > 1:
            everyone = [None] * world
            dist.all_gather_object(everyone, mine)
        names = sorted({name for theirs in everyone for name in theirs})
        if len(names) < 2:
            return {}
        found = {name: [sum(t[name][i] for t in everyone if name in t) for i in (0, 1)] for name in names}
        return {name: loss / number for name, (loss, number) in found.items() if number}
