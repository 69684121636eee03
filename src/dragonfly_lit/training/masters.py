"""Weights that train in bfloat16: the model computes with their roundings, the optimizer moves float32 masters.

Autocast would round every weight again in each forward and each activation on its way; here both are bfloat16 already.
Whatever keeps weights (a checkpoint, averages, the next stage) keeps the masters, so nothing of them is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

ALIGN = 64
"""Places in a bucket at which a gradient may begin, so that kernels read 16 bytes at a time."""
BUCKET_MB = 25


class Masters:
    """Takes trained weights into its care: they become bfloat16, and their gradients are added up here.

    Args:
        trained: float32 weights of a model by name, on their device.
        sums: in what gradients are added up over micro-batches and ranks.
        bucket_mb: of gradients that are sent in one piece, where there are several ranks.
    """

    def __init__(
        self, trained: Mapping[str, nn.Parameter], *, sums: torch.dtype = torch.float32, bucket_mb: float = BUCKET_MB
    ) -> None:
        self.weights: dict[str, nn.Parameter] = {}
        """Float32, by name: what an optimizer is to move."""
        self._last = True
        self._rounded = list(trained.values())
        for name, weight in trained.items():
            self.weights[name] = nn.Parameter(weight.data)
            weight.data = weight.data.to(torch.bfloat16)
        # In the order in which backward gives gradients, so that a bucket is full soon.
        order = list(zip(self._rounded, self.weights.values(), strict=True))[::-1]
        self._buckets = [_Bucket(pairs, sums, self._send) for pairs in _divide(order, bucket_mb * 1e6 / sums.itemsize)]
        self._sent = 0

    def begin(self, *, last: bool = True) -> None:
        """Before a forward.

        Args:
            last: whether its backward is the last of the optimizer step, in which ranks add up their gradients.
        """
        self._last = last
        for bucket in self._buckets:
            bucket.begin()

    def publish(self) -> None:
        """Rounds the masters into the model, after something has moved them."""
        rounded: list[Tensor] = list(self._rounded)
        masters: list[Tensor] = list(self.weights.values())
        with torch.no_grad():
            torch._foreach_copy_(rounded, masters)  # pyright: ignore[reportPrivateImportUsage]

    def to(self, device: torch.device | str) -> None:
        """Moves the masters there, as a module moves its weights."""
        for master in self.weights.values():
            master.data = master.data.to(device)

    def follow(self, optimizer: Optimizer) -> None:
        """Publishes after every step of `optimizer`."""
        optimizer.register_step_post_hook(lambda *_: self.publish())

    def collect(self) -> None:
        """After the last backward of an optimizer step: the masters' gradients are the sums over it, on every rank."""
        self._send(everything=True)
        for bucket in self._buckets:
            bucket.hand_over()
        self._sent = 0

    def _send(self, everything: bool = False) -> None:
        """Starts to add up buckets over ranks as soon as they are full, in the same order on every rank."""
        if not self._last or _ranks() == 1:
            return
        while self._sent < len(self._buckets) and (everything or self._buckets[self._sent].full):
            self._buckets[self._sent].send()
            self._sent += 1


class _Bucket:
    """Gradients of some weights, one behind the other in one tensor, which exists while there are any."""

    def __init__(
        self, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]], dtype: torch.dtype, filled: Callable[[], None]
    ) -> None:
        self._masters, self._dtype, self._filled = [master for _, master in pairs], dtype, filled
        self._flat: Tensor | None = None
        self._views: list[Tensor] = []
        self._have: set[int] = set()
        """Weights that had a gradient in this optimizer step."""
        self._arrived: set[int] = set()
        """Those that had one in this backward."""
        self._work: Any = None
        for index, (weight, _) in enumerate(pairs):
            weight.register_post_accumulate_grad_hook(lambda weight, index=index: self._take(index, weight))

    @property
    def full(self) -> bool:
        return len(self._arrived) == len(self._masters)

    def begin(self) -> None:
        self._arrived.clear()

    def _take(self, index: int, weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        assert self._work is None, "a gradient came after its bucket was sent"
        view = self._room()[index]
        if index in self._have:
            view.add_(gradient)
        else:
            view.copy_(gradient)
        self._have.add(index)
        self._arrived.add(index)
        if self.full:
            self._filled()

    def _room(self) -> list[Tensor]:
        if self._flat is None:
            sizes = [_padded(master.numel()) for master in self._masters]
            self._flat = torch.empty(sum(sizes), dtype=self._dtype, device=self._masters[0].device)
            self._views = self._split(self._flat, sizes)
        return self._views

    def _split(self, flat: Tensor, sizes: list[int]) -> list[Tensor]:
        return [
            piece[: master.numel()].view(master.shape)
            for piece, master in zip(flat.split(sizes), self._masters, strict=True)
        ]

    def send(self) -> None:
        for index, view in enumerate(self._room()):
            if index not in self._have:
                view.zero_()  # another rank may have one
        self._work = dist.all_reduce(self._flat, async_op=True)

    def hand_over(self) -> None:
        """Makes the sums the masters' gradients, and forgets them."""
        if self._work is not None:
            self._work.wait()
            self._have = set(range(len(self._masters)))
        if self._flat is not None:
            if self._dtype != torch.float32:
                sizes = [_padded(master.numel()) for master in self._masters]
                self._views = self._split(self._flat.float(), sizes)
            for index in self._have:
                self._masters[index].grad = self._views[index]
        self._flat, self._work, self._views = None, None, []
        self._have, self._arrived = set(), set()


def _padded(number: int) -> int:
    return -(-number // ALIGN) * ALIGN


def _divide(
    pairs: Sequence[tuple[nn.Parameter, nn.Parameter]], most: float
) -> Iterator[list[tuple[nn.Parameter, nn.Parameter]]]:
    """Runs of pairs with at most that many numbers, or of one pair; never of two devices."""
    run: list[tuple[nn.Parameter, nn.Parameter]] = []
    for pair in pairs:
        size = sum(_padded(master.numel()) for _, master in [*run, pair])
        if run and (size > most or pair[1].device != run[0][1].device):
            yield run
            run = []
        run.append(pair)
    if run:
        yield run


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
