"""Averages of the trained weights, by name, so that every strategy and a resume keep them.

Lightning's own `WeightAveraging` copies the whole LightningModule, frozen weights included, knows no shards, and puts
what it averages under Lightning's `state_dict`, which a checkpoint of this project does not hold.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor


class EMAWeightAveraging(callbacks.EMAWeightAveraging):
    """An exponential moving average of the weights that train, next to them on the device.

    Validation within a run looks at the averages, and so does whatever loads a checkpoint that has them: evaluation,
    export, `init_from`. `resume` goes on with both, to the bit.

    Args:
        decay: what an update keeps of the average.
        update_every_n_steps: optimizer steps between two updates.
        update_starting_at_step: first of them; until then the average is the weights of the start.
    """

    def __init__(
        self, *, decay: float | int = 0.999, update_every_n_steps: int = 1, update_starting_at_step: int | None = None
    ) -> None:
        if not 0 <= decay < 1 or update_every_n_steps < 1:
            raise ValueError(
                f"decay={decay} must be from 0 to below 1, and update_every_n_steps={update_every_n_steps} at least 1."
            )
        super().__init__(
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
        )
        self._kwargs = {}  # a function that cannot be sent to another process, and is not asked here
        self.decay = decay
        self._average: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Nothing: the weights are not where they train yet."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        with torch.no_grad():
            self._average = {name: weight.detach().clone() for name, weight in self._weights(pl_module).items()}
        pl_module.averages = self._average
        self._latest_update_step = 0  # of this fit; a resume sets it again
        self._average_model = _Updates(self)  # type: ignore[assignment]

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Nothing: the averages are among the module's tensors."""

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self.state_key not in checkpoint["callbacks"]:
            rank_zero_warn("The checkpoint holds no averaged weights. The average starts from its weights.")
            _copy(self._weights(pl_module), self._average)

    def update(self, pl_module: Any) -> None:
        """Moves the averages towards the weights."""
        weights = self._weights(pl_module)
        pairs = [(_local(average), _local(weights[name])) for name, average in self._average.items()]
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                [average for average, _ in pairs], [weight for _, weight in pairs], 1 - self.decay
            )

    def _swap_models(self, pl_module: Any) -> None:
        with torch.no_grad():
            for name, weight in self._weights(pl_module).items():
                mine, theirs = _local(self._average[name]), _local(weight)
                kept = theirs.clone()
                theirs.copy_(mine)
                mine.copy_(kept)
        pl_module.publish_weights()

    def _copy_average_to_current(self, pl_module: Any) -> None:
        _copy(self._average, self._weights(pl_module))
        pl_module.publish_weights()

    def _weights(self, pl_module: Any) -> dict[str, Tensor]:
        return pl_module.trained_weights()


class _Updates:
    """What Lightning calls where it has an `AveragedModel`."""

    def __init__(self, owner: EMAWeightAveraging) -> None:
        self._owner = owner

    def update_parameters(self, pl_module: Any) -> None:
        self._owner.update(pl_module)


def _copy(source: dict[str, Tensor], into: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in into.items():
            _local(tensor).copy_(_local(source[name]))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
