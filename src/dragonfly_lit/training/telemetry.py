"""What a run says about itself: speed, use of the machine, gradients, the loss of each source and kind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from dragonfly_lit.models.flops import FORWARD, Trained, Work, peak_flops, step_flops
from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.spec.kinds import ANSWERS, CAPTIONS
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
        self._parts = PartLosses()
        self._measures = Measures()
        self._loss = self._weight = self._waited = 0.0
        self._steps = self._skipped = 0
        self._since = self._idle_since = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._idle_since

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        sums = count(batch, outputs["step_loss"])
        self._sums = sums if self._sums is None else self._sums + sums
        self._parts.add(batch, outputs["step_loss"])
        self._measures.add(outputs["step_loss"])
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
        passes = [self._trained, *([FORWARD] if pl_module.objective.reference else [])]
        flops = sum(sum(step_flops(self._config, work, t, self._projector).values()) for t in passes)
        flops = (flops + pl_module.objective.more_flops(self._config, work)) / seconds
        self.last = {
            "loss": self._loss / self._weight if self._weight else float("nan"),
            "lr": report.lr * moving_rate(pl_module.optimizer, report.step),
            "grad_norm": report.grad_norm,
            **{f"grad_norm/{name}": norm for name, norm in report.grad_norms.items() if len(report.grad_norms) > 1},
            **self._parts.line(world),
            **self._measures.means(world),
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
        self._validation_parts = PartLosses()
        self._validation_measures = Measures()
        self._validation_since = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        sums: LossSums = outputs["step_loss"]
        self._validation += torch.stack([sums.loss, sums.weight]).double()
        self._validation_parts.add(batch, sums)
        self._validation_measures.add(sums)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        totals = self._validation
        if trainer.world_size > 1:
            dist.all_reduce(totals)
        loss, weight = totals.tolist()
        line = self._validation_parts.line(trainer.world_size, "val_")
        line |= {f"val_{name}": value for name, value in self._validation_measures.means(trainer.world_size).items()}
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
            known(batch.outline.supervised.numel()),
        ]
    )


class Measures:
    """Means of what an objective has to say beside its loss, summed on the device and read when they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weight: Tensor | None = None

    def add(self, step_loss: LossSums) -> None:
        """Takes a micro-batch in; one without a measure that others have counts as 0 of it."""
        weight = step_loss.weight.double()
        self._weight = weight if self._weight is None else self._weight + weight
        self._sums |= {name: self._sums.get(name, 0) + value.double() for name, value in step_loss.measures.items()}

    def means(self, world: int) -> dict[str, float]:
        """By name, over all ranks; a rank whose batches had none is asked all the same."""
        mine: list[tuple[str, float]] = []
        if self._weight is not None:
            mine = list(zip(["", *self._sums], torch.stack([self._weight, *self._sums.values()]).tolist(), strict=True))
        totals: dict[str, float] = {}
        for name, value in (entry for rank in _everyone(mine, world) for entry in rank):
            totals[name] = totals.get(name, 0.0) + value
        weight = totals.pop("", 0.0)
        return {name: total / weight if weight else float("nan") for name, total in totals.items()}


class PartLosses:
    """Mean token losses of each source and of each kind, summed branch by branch on the device, read when asked for."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        """Losses and counts, (2, branches), of each micro-batch."""
        self._parts: list[tuple[str, str]] = []
        """Source and kind of all these branches in turn."""

    def add(self, batch: Batch, step_loss: LossSums) -> None:
        """Takes a micro-batch in."""
        parts = _parts(batch)
        longest, most = max(map(len, parts)), max(len(kinds) for row in parts for _, kinds in row)
        rows, flat = step_loss.rows, batch.branch_ids.flatten()
        samples = batch.sample_ids.flatten().index_select(0, rows).clamp(max=longest - 1)
        branches = (flat.index_select(0, rows) - 1).clamp(min=0, max=most - 1)  # of a sample without branches the first
        places = (rows // batch.input_ids.shape[1] * longest + samples) * most + branches
        sums = torch.stack([step_loss.token_losses, torch.ones_like(step_loss.token_losses)]).double()
        self._sums.append(sums.new_zeros(2, len(parts) * longest * most).index_add_(1, places, sums))
        for row in parts:
            for source, kinds in [*row, *[("", ())] * (longest - len(row))]:
                self._parts += [(source, kind) for kind in [*kinds, *[""] * (most - len(kinds))]]

    def means(self, world: int) -> tuple[dict[str, float], dict[str, float]]:
        """By source and by kind, over all ranks; nothing where there is one only."""
        mine: dict[tuple[str, str], list[float]] = {}
        if self._sums:
            for part, *sums in zip(self._parts, *torch.cat(self._sums, dim=1).tolist(), strict=True):
                if any(part) or any(sums):
                    mine[part] = [a + b for a, b in zip(mine.get(part, (0.0, 0.0)), sums, strict=True)]
        everyone = _everyone(mine, world)
        sources, kinds = (_means(everyone, which) for which in (0, 1))
        return sources, {} if "" in kinds else kinds

    def line(self, world: int, before: str = "") -> dict[str, float]:
        """The same as it is logged: `loss/SOURCE` and `loss_KIND`, with `before` in front."""
        sources, kinds = self.means(world)
        line = {f"{before}loss/{name}": loss for name, loss in sources.items()}
        return line | {f"{before}loss_{name}": loss for name, loss in kinds.items()}


def _everyone(mine: Any, world: int) -> list[Any]:
    """What each rank has, in their order."""
    if world == 1:
        return [mine]
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, mine)
    return everyone


def _parts(batch: Batch) -> list[list[tuple[str, tuple[str, ...]]]]:
    """Source and kinds of each sample, a list a row."""
    kinds = batch.kinds if any(batch.kinds) else [[("",)] * len(row) for row in batch.sources]
    return [list(zip(*row, strict=True)) for row in zip(batch.sources, kinds, strict=True)]


def _means(everyone: list[dict[tuple[str, str], list[float]]], which: int) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for rank in everyone:
        for part, sums in rank.items():
            found[part[which]] = [a + b for a, b in zip(found.get(part[which], (0.0, 0.0)), sums, strict=True)]
    means = {name: loss / number for name, (loss, number) in sorted(found.items()) if number}
    return means if len(means) > 1 else {}


def by_kind(line: Mapping[str, Any]) -> str:
    """What a line of training says of each kind, as `answers 0.0112, captions 3.0159`; empty where it has one kind."""
    kinds = [kind for kind in (ANSWERS, CAPTIONS) if f"loss_{kind}" in line]
    return ", ".join(f"{kind} {float(line[f'loss_{kind}']):.4f}" for kind in kinds)
