"""95% intervals by bootstrap over images: questions about one image err together, so they are drawn together.

Where the resamples cannot differ (all right, all wrong, one image) the interval is Wilson's, over questions.
"""

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
Z = 1.959963984540054
"""Quantile of the normal distribution that leaves `LEVEL` in the middle."""
SAME = 1e-9
"""Resamples that differ by less than this share do not differ."""
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


def wilson(share: float, num: int) -> list[float]:
    """Wilson's interval of a share of `num` questions; of 60 of 60 it is 0.94 to 1."""
    spread = Z * math.sqrt(share * (1 - share) / num + Z * Z / (4 * num * num))
    centre, scale = share + Z * Z / (2 * num), 1 + Z * Z / num
    return [round(bound, DIGITS) for bound in (max(0.0, centre - spread) / scale, min(scale, centre + spread) / scale)]


def bounded(estimates: np.ndarray, score: float, num: int, top: float | None) -> tuple[list[float] | None, bool]:
    """The interval of a score, and whether it is Wilson's: where all resamples agree they tell nothing.

    They do where all answers are right, or all wrong, or where all questions are about one image.

    Args:
        estimates: of the resamples.
        score: that they are of.
        num: of questions that it is of.
        top: the most that it can be; None where that is unknown, and the resamples are all there is.
    """
    found = interval(estimates)
    known = estimates[np.isfinite(estimates)]
    varies = len(known) > 0 and float(known.max() - known.min()) > SAME * max(1.0, abs(float(known[0])))
    if varies or not top or not num or not 0 <= score <= top * (1 + SAME):
        return found, False
    return [round(bound * top, DIGITS) for bound in wilson(min(1.0, score / top), num)], True


def intervals(
    metrics: Sequence[QuestionMetric],
    scores: Mapping[str, float],
    resamples: Resamples,
    extra: Mapping[str, Sequence[float]] | None = None,
) -> tuple[dict[str, list[float] | None], list[str]]:
    """An interval for each score that is not a count, and which of them are Wilson's.

    A score that is the mean of a column is resampled as such; the others through the metric's own summary.

    Args:
        metrics: one a draw of the answers, over the same questions.
        scores: means over the draws.
        resamples: of the images.
        extra: further scores that are means, with the value of each question.
    """
    first, found, by_wilson = metrics[0], {}, []

    def put(name: str, estimates: np.ndarray, score: float, num: int, top: float | None) -> None:
        found[name], is_wilson = bounded(estimates, score, num, top)
        if is_wilson:
            by_wilson.append(name)

    wanted = [name for name in scores if not name.startswith("num_")]
    columns = _columns(metrics, scores)
    rest = [name for name in wanted if name not in columns]
    drawn = _summaries(metrics, resamples) if rest else []
    for name in wanted:
        if name in columns:
            put(
                name,
                resamples.means(columns[name]),
                scores[name],
                int(np.isfinite(columns[name]).sum()),
                first.top(name),
            )
        else:
            estimates = np.array([summary.get(name, math.nan) for summary in drawn])
            put(name, estimates, scores[name], len(_members(first, name)), first.top(name))
    for name, values in (extra or {}).items():
        column = np.array(values)
        put(name, resamples.means(column), float(column.mean()), len(column), 1.0)
    return found, by_wilson


def _members(metric: QuestionMetric, name: str) -> list[int]:
    """Rows of the questions that a score is of: those of its group."""
    group = name.partition("/")[2]
    rows = range(len(metric.questions))
    inside = [row for row in rows if group in (metric.questions[row].split, metric.questions[row].category)]
    return inside if group and inside else [*rows]


def _columns(metrics: Sequence[QuestionMetric], scores: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The scores that are plain means, each with what it is the mean of: a column, averaged over the draws."""
    found: dict[str, np.ndarray] = {}
    metric = metrics[0]
    for name, score in scores.items():
        column, _, group = name.partition("/")
        if column not in metric.columns or column.startswith("num_"):
            continue
        values = np.mean([one.column(column) for one in metrics], axis=0)
        if group:
            inside = [group in (question.split, question.category) for question in metric.questions]
            values = np.where(inside, values, math.nan)
        known = values[np.isfinite(values)]
        if len(known) and math.isclose(known.mean(), score, rel_tol=1e-9, abs_tol=1e-12):
            found[name] = values
    return found


def _summaries(metrics: Sequence[QuestionMetric], resamples: Resamples) -> list[dict[str, float]]:
    """The summary of each resample; of several draws their mean."""
    kinds = [(question.split, question.category) for question in metrics[0].questions]
    kept, drawn = [metric.values for metric in metrics], []
    try:
        for stand_in in resamples.aligned(kinds):
            of_draws = []
            for metric, values in zip(metrics, kept, strict=True):
                metric.values = values[torch.from_numpy(stand_in)]
                of_draws.append(metric.summarise())
            names = {name for one in of_draws for name in one}
            drawn.append({name: float(np.mean([one.get(name, math.nan) for one in of_draws])) for name in names})
    finally:
        for metric, values in zip(metrics, kept, strict=True):
            metric.values = values
    return drawn
