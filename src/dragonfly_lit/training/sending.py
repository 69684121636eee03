"""Weights that the first rank alone has read: the others build the model without them and are sent what they hold.

So the files are read once a job, and no host holds more than one whole model, however many ranks it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

_HELD = ("_parameters", "_buffers", "_modules")
"""Where a module has its weights, buffers and parts."""


class Sender:
    """Sends tensors of the first rank's `root` to all ranks, part by part, each once.

    Args:
        root: built alike on every rank; on others than the first, tensors may be on the meta device.
        device: where the tensors go, on every rank.

    Raises:
        ValueError: the ranks have built different models.
    """

    def __init__(self, root: nn.Module, device: torch.device) -> None:
        self._device, self._sent = device, set[Tensor]()
        _check_alike(root)

    @torch.no_grad()
    def __call__(self, part: nn.Module) -> None:
        """Sends what `part` holds and no part before it did; shared weights stay shared."""
        for _, tensor in _tensors(part):
            if tensor in self._sent or isinstance(tensor, DTensor):  # of a part before, which is sharded by now
                continue
            if tensor.is_meta:
                torch.utils.swap_tensors(tensor, _empty(tensor, self._device))
            else:
                tensor.data = tensor.data.to(self._device).contiguous()
            dist.broadcast(tensor.detach(), src=0)
            self._sent.add(tensor)


def skeleton_of(build: Callable[[], nn.Module]) -> nn.Module | None:
    """What `build` gives on the meta device; None where a part of it cannot be built without its numbers."""
    try:
        with torch.device("meta"):
            found = build()
    except Exception:  # a class of the user's own may compute anything; whole, it says by itself what is wrong
        return None
    # What no weight and no buffer holds would not be sent.
    own = [value for module in found.modules() for key, value in vars(module).items() if key not in _HELD]
    return None if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(own)) else found


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _empty(like: Tensor, device: torch.device) -> Tensor:
    made = torch.empty_like(like, device=device, memory_format=torch.contiguous_format)
    return nn.Parameter(made, requires_grad=like.requires_grad) if isinstance(like, nn.Parameter) else made


def _check_alike(root: nn.Module) -> None:
    mine = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in _tensors(root)]
    theirs = [mine]
    dist.broadcast_object_list(theirs, src=0)
    for here, there in zip(mine, cast(list[tuple[str, tuple[int, ...], str]], theirs[0]), strict=False):
        if here != there:
            raise ValueError(
                f"rank {dist.get_rank()} has built {here[0]} {here[1]} in {here[2]} where rank 0 has {there[0]} "
                f"{there[1]} in {there[2]}: they see other files or run other code. Give all nodes the same."
            )
    if len(mine) != len(theirs[0]):
        raise ValueError(
            f"rank {dist.get_rank()} has built a model of {len(mine)} tensors, and rank 0 one of {len(theirs[0])}: "
            "they see other files or run other code. Give all nodes the same."
        )
