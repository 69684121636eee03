"""Which cells differ: Welch's t over seeds, p values that know how many comparisons there are, and seeds to be run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dragonfly_lit.evaluation.study.cells import Cell, Estimate, Study

LEVEL, POWER = 0.05, 0.8
MOST_SEEDS = 10_000
"""Where the search for a number of seeds ends."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two means, or a recall and that of a random choice.

    Attributes:
        name: of the later cell, or of the cell that selects.
        against: of the earlier cell; empty where it is a random choice.
        first: of the later one.
        second: of the earlier one, or of the random choice.
        p: two-sided, by Welch's t test over seeds, or by the t test of one sample against the random choice.
        adjusted: by Holm, over all comparisons of the study.
    """

    name: str
    against: str
    first: Estimate
    second: Estimate
    p: float
    adjusted: float


def comparisons(study: Study, small_at_most: float) -> list[Comparison]:
    """Every comparison that the study speaks of, once, with p values; those without several seeds are left out.

    Args:
        study: whose cells are compared, each with the one before it in each part, on small details.
        small_at_most: up to which share of the side a detail counts as small.
    """
    sizes = study.small(small_at_most)
    pairs: dict[tuple[str, str], tuple[Cell, str, Estimate, Estimate, float]] = {}
    for cells in study.parts.values():
        for before, after in neighbours(cells):
            one, other = (cell.accuracy(study.benchmark, sizes) for cell in (after, before))
            if one is not None and other is not None and min(one.num, other.num) > 1:
                pair = (after, before.title, one, other, welch(one.values, other.values))
                pairs.setdefault((min(before.name, after.name), max(before.name, after.name)), pair)
        for cell in cells:
            recall, chance = (cell.selection(study.benchmark, key) for key in ("recall", "random"))
            if recall is not None and chance is not None and recall.num > 1:
                pairs.setdefault((cell.name, ""), (cell, "", recall, chance, against(recall.values, chance.mean)))
    found = list(pairs.values())
    return [
        Comparison(name=cell.title, against=other, first=first, second=second, p=p, adjusted=adjusted)
        for (cell, other, first, second, p), adjusted in zip(found, holm([pair[-1] for pair in found]), strict=True)
    ]


def neighbours(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Cell]]:
    """Each finished cell of a part with the finished one before it."""
    return pairwise(cell for cell in cells if cell.results)


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p value of Welch's t test, whose samples may differ in spread; 1 or 0 where neither has any."""
    from scipy import stats

    if statistics.pvariance(first) + statistics.pvariance(second) == 0:
        return float(statistics.fmean(first) == statistics.fmean(second))
    found: Any = stats.ttest_ind(first, second, equal_var=False)
    return float(found.pvalue)


def against(values: Sequence[float], chance: float) -> float:
    """The two-sided p value of the t test of one sample against a known mean."""
    from scipy import stats

    if statistics.pvariance(values) == 0:
        return float(values[0] == chance)
    found: Any = stats.ttest_1samp(values, chance)
    return float(found.pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted for their number by Holm (1979), in the order given: none below 5% is false in 95% of studies.

    Args:
        values: p values, of tests that may depend on one another.
    """
    adjusted, largest = [1.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def spread(estimates: Sequence[Estimate | None]) -> tuple[float, int] | None:
    """The standard deviation over seeds, pooled over cells, and its degrees of freedom; None without several seeds."""
    several = [one.values for one in estimates if one is not None and len(one.values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    squares = sum((len(values) - 1) * statistics.variance(values) for values in several)
    return math.sqrt(squares / freedom), freedom


def power(difference: float, deviation: float, seeds: int, *, level: float = LEVEL) -> float:
    """How often a two-sided t test of two cells sees a difference, exactly: by the noncentral t distribution.

    Args:
        difference: of the true means, in the unit of `deviation`.
        deviation: standard deviation over seeds of either cell.
        seeds: of each cell, two at least.
        level: of the test.
    """
    from scipy import stats

    freedom, shift = 2 * seeds - 2, abs(difference) / deviation * math.sqrt(seeds / 2)
    bound = stats.t.ppf(1 - level / 2, freedom)
    beyond = float(stats.nct.cdf(-bound, freedom, shift))
    # Far in that tail scipy gives nan for what is 0.
    return float(stats.nct.sf(bound, freedom, shift)) + (0.0 if math.isnan(beyond) else beyond)


def seeds_needed(difference: float, deviation: float, *, level: float = LEVEL, wanted: float = POWER) -> int | None:
    """The fewest seeds of each of two cells that reach a power; None where 10,000 are too few."""
    if deviation == 0:
        return 2
    high = 2
    while power(difference, deviation, high, level=level) < wanted:
        high *= 2
        if high > MOST_SEEDS:
            return None
    low = high // 2 + 1 if high > 2 else 2  # half of it was too few
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, deviation, middle, level=level) >= wanted else (middle + 1, high)
    return low


def least_difference(deviation: float, seeds: int, *, level: float = LEVEL, wanted: float = POWER) -> float:
    """The smallest true difference that this many seeds of each cell see with a power, in the unit of `deviation`."""
    from scipy.optimize import brentq

    if deviation == 0:
        return 0.0
    most = deviation
    while power(most, deviation, seeds, level=level) < wanted:
        most *= 2
    found: Any = brentq(lambda one: power(one, deviation, seeds, level=level) - wanted, 0.0, most)
    return float(found)
