"""The model as its stage found it, beside the one that trains: what an objective with a reference compares with.

Frozen weights are the same in both, so of the model only what trains is kept twice, in the type in which it computes;
adapters are turned off and not kept at all. The kept weights stand in the model's place for one forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dragonfly_lit.training.checkpoint.locate import give_back
from dragonfly_lit.training.lora import adapter_layers, is_adapter
from dragonfly_lit.training.network import TrainingNetwork, named_weights


class Reference:
    """Keeps the weights of a network that train as they are now; a checkpoint gives them back.

    Args:
        network: frozen and thawed, on its device, sharded where it will be, in the type in which it computes.
    """

    def __init__(self, network: TrainingNetwork) -> None:
        self._network = network
        self._trained = {
            name: weight
            for name, weight in named_weights(network.model).items()
            if weight.requires_grad and not is_adapter(name)
        }
        self.weights: dict[str, Tensor] = {name: w.detach().clone() for name, w in self._trained.items()}
        """By name, sharded as the model's are."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network is the reference for as long: its weights, no adapters, no dropout, no gradients."""
        network = self._network
        layers, modes = list(adapter_layers(network.model)), [(part, part.training) for part in network.modules()]
        self._swap()
        network.eval()
        for layer in layers:
            layer._disable_adapters = True  # `enable_adapters` would thaw what the stage has frozen
        try:
            with torch.no_grad():
                yield
        finally:
            for layer in layers:
                layer._disable_adapters = False
            for part, training in modes:  # frozen parts are in another one than the others
                part.training = training
            self._swap()

    def _swap(self) -> None:
        give_back(self._network)
        with torch.no_grad():
            for name, weight in self._trained.items():
                self.weights[name] = _swapped(weight, self.weights[name])

    def to(self, device: torch.device | str) -> None:
        """Moves what is kept there."""
        self.weights = {name: weight.to(device) for name, weight in self.weights.items()}


def _swapped(weight: nn.Parameter, kept: Tensor) -> Tensor:
    """Puts `kept` into a weight; what was there before."""
    if not isinstance(weight, DTensor):
        before = weight.data
        weight.data = kept.to(before.device)
        return before
    assert isinstance(kept, DTensor)
    mine, theirs = kept.to_local(), weight.to_local()  # whose storage FSDP2 gathers from
    before = theirs.clone()
    theirs.copy_(mine)
    mine.copy_(before)
    return kept
