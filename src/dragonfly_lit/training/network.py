"""The root that is wrapped and sharded: one module whose forward returns the loss."""

from __future__ import annotations

from typing import Any

from torch import nn

from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.spec.records import Batch
from dragonfly_lit.training.precision import autocast


def plain_name(name: str) -> str:
    """A parameter's name without what activation checkpointing and compiling put into it."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")


def named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by plain name, shared ones once."""
    return {plain_name(name): parameter for name, parameter in model.named_parameters()}


class TrainingNetwork(nn.Module):
    """A Dragonfly model and its loss behind one forward, as DDP and FSDP2 want it.

    Args:
        model: with `loss_sums(...)`.
        precision: of the matmuls; a sharded network casts as it gathers, not in forward.
    """

    model: Any

    def __init__(self, model: nn.Module, precision: str = "fp32") -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.sharded = False  # a sharded network casts as it gathers

    def forward(self, batch: Batch) -> LossSums:
        with autocast("fp32" if self.sharded else self.precision, batch.input_ids.device.type):
            return self.model.loss_sums(**batch.model_inputs(), labels=batch.labels, label_weights=batch.label_weights)
