"""Values of a device on their way to the host, which asks for them when it has launched something else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A copy of `values` as they are now, in pinned memory where they lie on a GPU."""

    def __init__(self, values: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._host = values.clone()

    def read(self) -> Tensor:
        """The values on the host; waits until the device has come to the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host


class LateReads:
    """Tensors of a device, given to the host one push later: it never waits for the step that it has just launched."""

    def __init__(self, device: torch.device) -> None:
        self.lag = 1 if device.type == "cuda" else 0
        self._waiting: deque[tuple[Any, HostCopy]] = deque()

    def push(self, tag: Any, values: Tensor) -> None:
        """Hand over `values` as they are now; they come back with `tag`."""
        self._waiting.append((tag, HostCopy(values)))

    def ready(self, *, last: bool = False) -> Iterator[tuple[Any, Tensor]]:
        """What was pushed before the last push; with `last` that one, too."""
        while len(self._waiting) > (0 if last else self.lag):
            tag, values = self._waiting.popleft()
            yield tag, values.read()
