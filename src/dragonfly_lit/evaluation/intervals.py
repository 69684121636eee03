"""95% intervals by bootstrap over images: questions about one image err together, so they are drawn together."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from dragonfly_lit.evaluation.metrics.base import QuestionMetric

LEVEL = 0.95
SUMMARIES = 200
"""Resamples of a score that is not a mean: each costs a whole summary."""
DIGITS = 6
"""Decimals of a bound; the last ones would depend on the number of threads."""


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

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each cluster is drawn, `[resamples, clusters]`."""
        chances = np.full(self.num_clusters, 1 / self.num_clusters)
        return np.random.default_rng(self.seed).multinomial(self.num_clusters, chances, size=self.num)

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean of `values[questions]` in each resample, over the questions where it is a number."""
        known = np.isfinite(values)
        sums = np.bincount(self.cluster[known], values[known], self.num_clusters)
        sizes = np.bincount(self.cluster[known], minlength=self.num_clusters)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.counts @ sums) / (self.counts @ sizes)

    def aligned(self, kinds: Sequence[Hashable]) -> Iterator[np.ndarray]:
        """For each of at most `SUMMARIES` resamples, the question that replaces each question.

        A cluster is replaced by one whose questions are of the same kinds, so that pairs stay pairs and splits keep
        their size: a bootstrap stratified by kind.

        Args:
            kinds: what kind each question is of.
        """
        members = np.argsort(self.cluster, kind="stable")
        blocks = np.split(members, np.cumsum(np.bincount(self.cluster, minlength=self.num_clusters))[:-1])
        strata: dict[Hashable, list[np.ndarray]] = {}
        for block in blocks:
            strata.setdefault(tuple(kinds[row] for row in block), []).append(block)
        stacks = [np.stack(stratum) for stratum in strata.values()]
        draw = np.random.default_rng(self.seed)
        for _ in range(min(self.num, SUMMARIES)):
            stand_in = np.empty(len(self.cluster), dtype=np.int64)
            for stack in stacks:
                stand_in[stack] = stack[draw.integers(len(stack), size=len(stack))]
            yield stand_in


def interval(estimates: np.ndarray) -> list[float] | None:
    """The middle `LEVEL` of the estimates; those that are no number (a resample without any positive) are left out."""
    estimates = estimates[np.isfinite(estimates)]
    if not len(estimates):
        return None
    tail = (1 - LEVEL) / 2
    return [round(float(bound), DIGITS) for bound in np.quantile(estimates, [tail, 1 - tail])]


def intervals(
    metric: QuestionMetric, scores: Mapping[str, float], resamples: Resamples
) -> dict[str, list[float] | None]:
    """An interval for each score that is not a count.

    A score that is the mean of a column is resampled as such; the others through the metric's own summary.
    """
    wanted = [name for name in scores if not name.startswith("num_")]
    found = {name: interval(resamples.means(column)) for name, column in _columns(metric, scores).items()}
    if rest := [name for name in wanted if name not in found]:
        drawn = _summaries(metric, resamples)
        found |= {name: interval(np.array([summary.get(name, math.nan) for summary in drawn])) for name in rest}
    return {name: found[name] for name in wanted}


def _columns(metric: QuestionMetric, scores: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The scores that are plain means, each with what it is the mean of."""
    found: dict[str, np.ndarray] = {}
    for name, score in scores.items():
        column, _, group = name.partition("/")
        if column not in metric.columns or column.startswith("num_"):
            continue
        values = np.array(metric.column(column))
        if group:
            inside = [group in (question.split, question.category) for question in metric.questions]
            values = np.where(inside, values, math.nan)
        known = values[np.isfinite(values)]
        if len(known) and math.isclose(known.mean(), score, rel_tol=1e-9, abs_tol=1e-12):
            found[name] = values
    return found


def _summaries(metric: QuestionMetric, resamples: Resamples) -> list[dict[str, float]]:
    kinds = [(question.split, question.category) for question in metric.questions]
    values, drawn = metric.values, []
    try:
        for stand_in in resamples.aligned(kinds):
            metric.values = values[torch.from_numpy(stand_in)]
            drawn.append(metric.summarise())
    finally:
        metric.values = values
    return drawn
