"""The root that is wrapped and sharded: one module whose forward returns the loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.spec.records import Batch
from dragonfly_lit.training.masters import Masters
from dragonfly_lit.training.objectives import Objective, Supervised, check_sums
from dragonfly_lit.training.precision import autocast


def plain_name(name: str) -> str:
    """A parameter's name without what activation checkpointing and compiling put into it."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")


def named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by plain name, shared ones once."""
    return {plain_name(name): parameter for name, parameter in model.named_parameters()}


@dataclass(frozen=True)
class Told:
    """What a reference has said of a batch; not a tensor, which a sharded root would round as it does its inputs."""

    token_losses: Tensor


class TrainingNetwork(nn.Module):
    """A Dragonfly model and its loss behind one forward, as DDP and FSDP2 want it.

    Args:
        model: with `loss_sums(...)`.
        precision: of the run.
        objective: makes the loss; None is the supervised one.
    """

    model: Any

    def __init__(self, model: nn.Module, precision: str = "fp32", objective: Objective | None = None) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.objective = objective or Supervised()
        self.sharded = False
        """A sharded network casts its weights as it gathers them."""
        self.masters: Masters | None = None
        """Of the weights that train, where the network holds them in bfloat16."""

    def hold_half(self, **options: Any) -> Masters:
        """Holds every weight in bfloat16 from now on, with masters of those that train; see Masters for `options`.

        The network is on its device, its trained weights in float32 and its frozen ones in bfloat16.
        """
        if self.masters is not None:  # of a fit before
            return self.masters
        trained = {name: weight for name, weight in named_weights(self.model).items() if weight.requires_grad}
        self.masters = Masters(trained, **options)
        device_type = next(self.model.parameters()).device.type
        for part in self.model.children():
            if not type(part).__module__.startswith(HALF_SAFE):
                _autocast(part, device_type)
        return self.masters

    def forward(self, batch: Batch, told: Told | None = None, *, tell: bool = False) -> LossSums:
        """The sums of the objective.

        Args:
            batch: on the device.
            told: what the reference has said of it, where the objective has one.
            tell: whether this network is the reference: the sums are those of plain tokens.
        """
        casts = not self.sharded and self.masters is None
        with autocast(self.precision if casts else "fp32", batch.input_ids.device.type):
            if tell:
                return self.model.token_losses(**batch.model_inputs(), labels=batch.labels)
            sums = self.objective(self.model, batch, None if told is None else told.token_losses)
        check_sums(sums, self.objective, learns=self.training and torch.is_grad_enabled())
        return sums


HALF_SAFE = ("dragonfly_lit.", "transformers.")
"""Modules whose parts compute in the type of their weights. One of the user's own may mix types, as autocast allows."""


def _autocast(part: nn.Module, device_type: str) -> None:
    plain = part.forward

    @wraps(plain)
    def forward(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            return plain(*inputs, **named)

    part.forward = forward
