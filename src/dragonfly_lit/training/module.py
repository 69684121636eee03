"""The LightningModule: it builds, hands sums to the update, names what a checkpoint holds; it has no ideas."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from dragonfly_lit.io.console import told_if_slow
from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.models.quantized import quantization_of
from dragonfly_lit.spec.records import Batch
from dragonfly_lit.training.checkpoint.format import CheckpointInfo
from dragonfly_lit.training.checkpoint.locate import (
    AVERAGES,
    OPTIMIZER,
    REFERENCE,
    WEIGHTS,
    ZOOM,
    check_init_from,
    check_resume,
    give_back,
    load_weights,
    network_tensors,
)
from dragonfly_lit.training.lora import add_adapters, lora_scale
from dragonfly_lit.training.masters import BUCKET_MB, Masters
from dragonfly_lit.training.network import Told, TrainingNetwork, named_weights
from dragonfly_lit.training.objectives import Objective, Supervised
from dragonfly_lit.training.optimizer import build_optimizer, class_name, group_names, no_decay_names, state_tensors
from dragonfly_lit.training.precision import cast_weights, check_precision, to_fp8
from dragonfly_lit.training.reference import Reference
from dragonfly_lit.training.sending import skeleton_of
from dragonfly_lit.training.sharding import blocks
from dragonfly_lit.training.stages import ParamGroup, Stage, check_trains_floats, freeze, param_groups, widen
from dragonfly_lit.training.update import (
    PendingReport,
    SkipRule,
    StepReport,
    decides_by_itself,
    launch_update,
    prepare_update,
    set_learning_rates,
)

log = logging.getLogger(__name__)


class TrainingModule(pl.LightningModule):
    """Trains one stage of a Dragonfly model.

    The Trainer must have `max_steps=stage.steps`, `accumulate_grad_batches=stage.accumulate`, `precision="32-true"`
    and no clipping of its own.

    Args:
        model_factory: builds the model, on the CPU, whenever a run starts.
        stage: what trains.
        objective: what it lowers; None is the supervised one.
        model_name: written into checkpoints, and asked for when one is loaded.
        precision: fp32, bf16 or fp8.
        gradients: in what they are added up: float32 or bfloat16.
        compile: off, blocks, or auto: blocks on a GPU.
        init_from: a run, a checkpoint or a transformers folder whose weights the model starts from; None keeps the
            factory's.
        skeleton_factory: the same without weights: called with the meta device as default, reads none. Where several
            ranks train, only the first builds the model with weights and sends them; None lets all build it.
    """

    def __init__(
        self,
        model_factory: Callable[[], nn.Module],
        stage: Stage,
        *,
        objective: Objective | None = None,
        model_name: str = "dragonfly",
        precision: str = "fp32",
        gradients: str = "float32",
        compile: str = "auto",
        init_from: str | Path | None = None,
        skeleton_factory: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.model_factory, self.skeleton_factory = model_factory, skeleton_factory
        self.stage, self.model_name = stage, model_name
        self.objective = objective or Supervised()
        self.reference: Reference | None = None
        """The model as the stage found it, from `configure_optimizers` on, where the objective asks for it."""
        self.precision, self.gradients = precision, gradients
        self.compile_mode = compile
        self.init_from = init_from
        self.network: TrainingNetwork | None = None
        self.holds_half = False
        """Whether the model's weights are bfloat16, from `configure_optimizers` on, and masters of them train."""
        self.strict_loading = False
        self.report: StepReport | None = None
        """The newest that is here: of the last optimizer step, or on a GPU of the one before."""
        self.reports: list[StepReport] = []
        """Those that came with the last micro-batch, in the order of their steps: none or one, or two at once."""
        self.reads: list[Callable[[int], bool]] = []
        """Asked with the number of steps taken, by who must know of a step at its end; else its report may come a step
        later on a GPU, which then never waits for the host."""
        self.decides_by_itself: bool | None = None
        """Whether the device decides on a step; None: where it can."""
        self._pending: PendingReport | None = None
        self.stop_after_step = False
        """Set by a callback of any rank; every rank's report says so after the next step."""
        self.averages: dict[str, Tensor] | None = None
        """Averaged weights by name, where a callback keeps some: they go into checkpoints."""
        self.skip_rule: SkipRule | None = None
        """Asked with loss and gradient norm of every step; a reason skips it."""

    def configure_model(self) -> None:
        if self.network is not None:
            return
        strategy: Any = self.trainer.strategy
        check_precision(self.precision, strategy.root_device, self.gradients)
        skeleton = None
        if self.skeleton_factory is not None and not getattr(strategy, "reads_weights", True):
            skeleton = skeleton_of(self.skeleton_factory)
        with told_if_slow("Building the model and reading its weights ..."):
            model: Any = self.model_factory() if skeleton is None else skeleton
        check_trains_floats(model, self.stage)
        fresh: set[str] = set()
        if self.init_from is not None:
            check_init_from(Path(self.init_from), self.stage, self.model_name)
            widen(model, self.stage)
            if skeleton is None:
                with told_if_slow(f"Reading the weights from {self.init_from} ..."):
                    fresh = load_weights(model, Path(self.init_from), fresh=ZOOM)
            if fresh:
                log.info(f"{self.init_from} has no zoom rule with weights: {len(fresh)} of this one begin afresh.")
        if self.stage.lora is not None:
            add_adapters(model.language, self.stage.lora)
        freeze(model, self.stage)
        if still := [name for name, p in model.named_parameters() if name in fresh and not p.requires_grad]:
            raise ValueError(
                f"init_from={self.init_from} has no zoom rule with weights, and stage {self.stage.name} would leave "
                f"{still[0]} as it was drawn. Match zoom.* with a group of the stage, or take the zoom of init_from."
            )
        self.objective.check(model)
        if self.objective.reference:
            model.zoom.explores = False  # both passes of a batch see the same crops, as long as scores are the same
        self.holds_half = self.precision != "fp32" and getattr(strategy, "holds_half", False)
        cast_weights(model, self.precision, frozen=torch.bfloat16 if self.holds_half else None)
        if self.precision == "fp8":
            to_fp8(blocks(model.language))
        self.no_decay = no_decay_names(model)
        self.network = TrainingNetwork(model, self.precision, self.objective)
        if hasattr(strategy, "arrange"):
            strategy.arrange(self.network, self)

    @property
    def model(self) -> Any:
        """The Dragonfly model within the network."""
        assert self.network is not None, "the model exists from configure_model on"
        return self.network.model

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        assert self.network is not None
        if batch_index % self.trainer.accumulate_grad_batches == 0:
            # Lightning does it behind the forward, whose activations would lie beside the gradients of the step before.
            self.optimizer.zero_grad()
        told = self._told(batch)
        if isinstance(self.network, FSDPModule) and self.trainer.strategy.reduce_last_only:  # type: ignore[attr-defined]
            self.network.set_requires_gradient_sync(not self.trainer.fit_loop._should_accumulate())
        if self.masters is not None:
            self.masters.begin(last=not self.trainer.fit_loop._should_accumulate())
        self.reports = []
        step_loss = self.network(batch, told)
        self._sums.append(torch.stack([step_loss.loss.detach(), step_loss.weight]))
        return {"loss": step_loss.loss, "step_loss": step_loss.detached}

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        assert self.network is not None
        return {"step_loss": self.network(batch, self._told(batch))}

    def _told(self, batch: Batch) -> Told | None:
        """What the model said of a batch before the stage's first step, where the objective asks for it."""
        if not self.objective.reference:
            return None
        assert self.reference is not None, "there is one from configure_optimizers on"
        assert self.network is not None
        with self.reference.in_place():
            sums: LossSums = self.network(batch, tell=True)
        return Told(sums.token_losses)

    def on_train_start(self) -> None:
        self._sums: list[Tensor] = []
        self.optimizer.found_inf = self.optimizer.grad_scale = self._pending = None
        if self.decides_by_itself is None:
            self.decides_by_itself = decides_by_itself(self.optimizer)
        set_learning_rates(self.optimizer, self.stage, self.trainer.global_step)
        self.model.train()  # not at an epoch's start: a run that resumes within an epoch does not come by there

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # What a callback reads before the next step is the rate of that step.
        set_learning_rates(self.optimizer, self.stage, self.trainer.global_step)

    def configure_optimizers(self) -> Optimizer:
        assert self.network is not None
        found = self.param_groups()
        if self.holds_half:
            bucket_mb = getattr(self.trainer.strategy, "bucket_mb", BUCKET_MB)
            masters = self.network.hold_half(sums=getattr(torch, self.gradients), bucket_mb=bucket_mb)
            found = [group.over(masters.weights) for group in found]
        if self.objective.reference and self.reference is None:
            self.reference = Reference(self.network)
        optimizer = build_optimizer(found, self.no_decay, self.stage)
        if self.masters is not None:
            self.masters.follow(optimizer)
        return optimizer

    @property
    def masters(self) -> Masters | None:
        """Of the weights that train, where the model computes with their roundings."""
        return None if self.network is None else self.network.masters

    def trained_weights(self) -> dict[str, nn.Parameter]:
        """What the optimizer moves, by name; whoever changes it calls `publish_weights`."""
        assert self.network is not None
        if self.masters is not None:
            return self.masters.weights
        give_back(self.network)
        return {name: weight for name, weight in named_weights(self.model).items() if weight.requires_grad}

    def publish_weights(self) -> None:
        """The model computes with `trained_weights` as they are now."""
        if self.masters is not None:
            self.masters.publish()

    @property
    def optimizer(self) -> Any:
        """The stage's, without Lightning's wrapping."""
        return self.optimizers(use_pl_optimizer=False)

    def param_groups(self) -> list[ParamGroup]:
        """What trains, with its live parameters."""
        return param_groups(self.model, self.stage.groups)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """After the last backward of an optimizer step: everything that happens to gradients happens here."""
        loss, weight = torch.stack(self._sums).double().sum(dim=0)
        self._sums.clear()
        ranks = self.trainer.world_size
        if self.masters is not None:
            self.masters.collect()
            ranks = 1  # they add up and do not divide
        step = self.trainer.global_step
        sums: dict[str, Any] = {
            "loss": loss,
            "weight": weight,
            "divided_by": self.trainer.accumulate_grad_batches * ranks,
            "stop": self.stop_after_step,
        }
        if not self.decides_by_itself or self.skip_rule is not None:
            report = prepare_update(optimizer, self.stage, step, **sums, skip_rule=self.skip_rule)
            self.reports.append(report)
        else:
            if self._pending is not None:
                self.reports.append(self._pending.read())  # it came while the host launched this step
            self._pending = launch_update(self.optimizer, self.stage, step, **sums)
            if self._must_know(step + 1):
                self.reports.append(self._pending.read())
                self._pending = None
        self.report = self.reports[-1] if self.reports else self.report

    def _must_know(self, taken: int) -> bool:
        """Whether somebody needs the report of a step at its end."""
        stopping = any(report.stop for report in self.reports)
        return stopping or taken >= self.stage.steps or any(asks(taken) for asks in self.reads)

    @property
    def knows_last_step(self) -> bool:
        """Whether the report of the last optimizer step is here."""
        return self._pending is None

    def checkpoint_tensors(self, trainable_only: bool) -> dict[str, Tensor]:
        """Live tensors by name: weights, their averages, and the optimizer's state.

        Where the language model is held in few bits, frozen weights are left out in any case: its own are not floats.
        """
        quantized = quantization_of(self.model) is not None
        tensors = network_tensors(self.model, trainable_only=trainable_only or quantized)
        if self.masters is not None:
            tensors |= {f"{WEIGHTS}{name}": master.detach() for name, master in self.masters.weights.items()}
        tensors |= {f"{AVERAGES}{name}": tensor for name, tensor in (self.averages or {}).items()}
        if self.reference is not None:
            tensors |= {f"{REFERENCE}{name}": tensor for name, tensor in self.reference.weights.items()}
        return tensors | {f"{OPTIMIZER}{name}": tensor for name, tensor in state_tensors(self.optimizer).items()}

    def checkpoint_info(self, trainable_only: bool) -> CheckpointInfo:
        """What a checkpoint of now is."""
        quantize = quantization_of(self.model)
        return CheckpointInfo(
            stage=self.stage.name,
            model=self.model_name,
            step=self.trainer.global_step,
            steps=self.stage.steps,
            groups=group_names(self.optimizer),
            trainable_only=trainable_only or quantize is not None,
            init_from=None if self.init_from is None else str(Path(self.init_from).resolve()),
            lora_scale=lora_scale(self.stage.lora),
            quantize=quantize,
            optimizer=class_name(self.optimizer),
            objective=class_name(self.objective),
        )

    def check_resume(self, info: CheckpointInfo, folder: Path) -> None:
        """Refuses to go on from another stage, model or set of weights."""
        quantize = quantization_of(self.model)
        check_resume(info, folder, self.stage, self.model_name, self.optimizer, self.objective, quantize)
