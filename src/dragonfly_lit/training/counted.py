"""What a tower of the user's own keeps for its backward, counted by running it on tensors without numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dragonfly_lit.models.build import build_tower
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.vision import forget_constants
from dragonfly_lit.training.sharding import blocks


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes of one crop that lie there when backward begins, in layers as they are written.

    Attributes:
        everything: where nothing is computed again.
        in_blocks: of it, inside the blocks.
        inputs: of the blocks.
        largest: inside the block that keeps most.
    """

    everything: int
    in_blocks: int
    inputs: int
    largest: int

    def under(self, checkpointing: str) -> int:
        """Bytes under a mode of activation checkpointing; selective counts as full, as of the built-in tower."""
        if checkpointing == "none":
            return self.everything
        inputs = 0 if checkpointing == "offload" else self.inputs
        return min(self.everything, self.everything - self.in_blocks + inputs + self.largest)


def kept_of_tower(config: DragonflyConfig, *, half: bool) -> Kept | None:
    """What the tower that `config` names keeps of a crop; None where it cannot be run without numbers.

    Args:
        config: of the model.
        half: whether it holds bfloat16 weights, and so computes under autocast.
    """
    forget_constants()
    try:
        return _count(config, half)
    except Exception:  # a class of the user's own may compute anything from its numbers
        return None
    finally:
        forget_constants()


def _count(config: DragonflyConfig, half: bool) -> Kept:
    side, sizes = config.vision_config.image_size, dict[int, int]()
    inside, inputs = list[int](), list[int]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            sizes.setdefault(storage._cdata, storage.nbytes())
            alive.append(tensor)  # or another would get its place
        return tensor

    def enter(_block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        inside.append(-sum(sizes.values()))
        given = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor) and value.requires_grad]
        inputs.append(sum(value.untyped_storage().nbytes() for value in given))

    def leave(*_: Any) -> None:
        inside[-1] += sum(sizes.values())

    alive: list[Tensor] = []
    autocast: Callable[[], Any] = partial(torch.autocast, "cpu", dtype=torch.bfloat16) if half else nullcontext
    with FakeTensorMode():
        tower = build_tower(config).train()
        if half:
            _round(tower)
        weights = {weight.untyped_storage()._cdata for weight in tower.parameters()}
        for block in blocks(tower):
            block.register_forward_pre_hook(enter, with_kwargs=True)
            block.register_forward_hook(leave)
        pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast():
            tower(pixels)
    return Kept(
        everything=sum(sizes.values()), in_blocks=sum(inside), inputs=sum(inputs), largest=max(inside, default=0)
    )


def _round(tower: nn.Module) -> None:
    """`tower.bfloat16()`, which torch does not do without numbers."""
    for module in tower.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(weight.detach().bfloat16()))
