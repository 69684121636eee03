"""The order of a source's samples as a pure function of (seed, source, stream, epoch, offset).

An epoch permutes blocks of neighbouring samples; the blocks of all epochs, one epoch after the other, are dealt in
turn to C streams; a stream shuffles the samples inside windows of its blocks. So every sample is read once an
epoch by exactly one stream, for any number of ranks and workers, and no shuffle buffer has to be restored.
Random bits are BLAKE2's and Philox's raw ones, which no numpy release may change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np


def _digest(*key: int | str, size: int) -> bytes:
    return blake2b("\0".join(map(str, key)).encode(), digest_size=size).digest()


def uniform(*key: int | str) -> float:
    """A number in [0, 1) that depends on `key` only."""
    return (int.from_bytes(_digest(*key, size=8), "little") >> 11) / 2**53


def choose(count: int, *key: int | str) -> int:
    """A number in range(count) that depends on `key` only."""
    return int(uniform(*key) * count)


def permutation(count: int, *key: int | str) -> np.ndarray:
    """A permutation of range(count) that depends on `key` only."""
    bits = np.random.Philox(key=int.from_bytes(_digest(*key, size=16), "little")).random_raw(count)
    return np.argsort(bits, kind="stable")


@dataclass
class SourceOrder:
    """Which samples a stream reads from one source, epoch by epoch.

    Attributes:
        name: the source's name; part of the key of every shuffle.
        num_samples: samples in the source.
        seed: of the run.
        num_streams: canonical streams, C.
        block: neighbouring samples that stay together until the window mixes them.
        window: samples that are shuffled together within a stream.
    """

    name: str
    num_samples: int
    seed: int
    num_streams: int
    block: int
    window: int
    _blocks: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _windows: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def block_size(self) -> int:
        """Samples a block: smaller than `block` where the source could not give every stream one."""
        return max(1, min(self.block, self.num_samples // self.num_streams))

    @property
    def num_blocks(self) -> int:
        return -(-self.num_samples // self.block_size)

    def _epoch_blocks(self, epoch: int) -> np.ndarray:
        if epoch not in self._blocks:
            while len(self._blocks) >= 4:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[epoch] = permutation(self.num_blocks, self.seed, self.name, "blocks", epoch)
        return self._blocks[epoch]

    def _share(self, stream: int, epoch: int) -> range:
        """Places, within the epoch's permuted blocks, of the blocks dealt to `stream`."""
        first = (stream - epoch * self.num_blocks) % self.num_streams
        return range(first, self.num_blocks, self.num_streams)

    def _samples(self, stream: int, epoch: int, window: int) -> np.ndarray:
        """The shuffled samples of one window; empty beyond the stream's share of the epoch."""
        key = (stream, epoch, window)
        if key not in self._windows:
            per_window = max(1, self.window // self.block_size)
            places = self._share(stream, epoch)[window * per_window : (window + 1) * per_window]
            blocks = self._epoch_blocks(epoch)[list(places)] if len(places) else np.empty(0, np.int64)
            samples = (blocks[:, None] * self.block_size + np.arange(self.block_size)).ravel()
            samples = samples[samples < self.num_samples]
            shuffled = samples[permutation(len(samples), self.seed, self.name, "window", epoch, stream, window)]
            while len(self._windows) >= 4 * self.num_streams:
                self._windows.pop(next(iter(self._windows)))
            self._windows[key] = shuffled
        return self._windows[key]

    def take(self, stream: int, epoch: int, window: int, offset: int) -> tuple[int, tuple[int, int, int]]:
        """The sample at (epoch, window, offset) of `stream`, and the position behind it.

        The position handed in may be one past a window's end; the one handed back is normalised on the next call,
        so that a position is three small integers. The epoch in which the sample was read is that of the position
        handed back.
        """
        while True:
            samples = self._samples(stream, epoch, window)
            if offset < len(samples):
                return int(samples[offset]), (epoch, window, offset + 1)
            per_window = max(1, self.window // self.block_size)
            if (window + 1) * per_window < len(self._share(stream, epoch)):
                window, offset = window + 1, 0
            else:
                epoch, window, offset = epoch + 1, 0, 0
