"""95% intervals by bootstrap over images: questions about one image are drawn together, since their errors are not independent."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

LEVEL = 0.95
CHUNK = 64
"""Resamples held in memory at once."""


class Resamples:
    """Draws of clusters with replacement.

    Args:
        clusters: what each question belongs to, in the order of the questions.
        num: of resamples.
        seed: of the drawing.
    """

    def __init__(self, clusters: Sequence[Hashable], *, num: int = 1000, seed: int = 0) -> None:
        names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
        self.cluster = np.array([names[name] for name in clusters])
        self.num_clusters, self.num, self.seed = len(names), num, seed

    def counts(self) -> Iterator[np.ndarray]:
        """How often each cluster is drawn, `[resamples, clusters]`, a few resamples at a time."""
        draw = np.random.default_rng(self.seed)
        chances = np.full(self.num_clusters, 1 / self.num_clusters)
        for start in range(0, self.num, CHUNK):
            yield draw.multinomial(self.num_clusters, chances, size=min(CHUNK, self.num - start))

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean over questions of `values[questions]` in each resample."""
        sums = np.bincount(self.cluster, values, self.num_clusters)
        sizes = np.bincount(self.cluster, minlength=self.num_clusters)
        return np.concatenate([(count @ sums) / (count @ sizes) for count in self.counts()])

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each resample the numbers of its questions, and for each of them which copy of its cluster it is of."""
        members = np.argsort(self.cluster, kind="stable")
        ends = np.cumsum(np.bincount(self.cluster, minlength=self.num_clusters))
        blocks = np.split(members, ends[:-1])
        for counts in self.counts():
            for count in counts:
                drawn = [(blocks[c], copy) for c in np.flatnonzero(count) for copy in range(count[c])]
                yield (
                    np.concatenate([block for block, _ in drawn]),
                    np.concatenate([np.full(len(block), copy) for block, copy in drawn]),
                )


def interval(estimates: np.ndarray) -> list[float]:
    """The middle `LEVEL` of the estimates; NaNs (a resample without any positive) are left out."""
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(estimates, [tail, 1 - tail]) if np.isfinite(estimates).any() else (np.nan, np.nan)
    return [float(low), float(high)]
