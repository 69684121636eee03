"""What is said of all cells together: fronts, comparisons and their number, seeds that a difference needs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from dragonfly_lit.evaluation.study.cells import Estimate, Study
from dragonfly_lit.evaluation.study.differences import (
    LEVEL,
    POWER,
    Comparison,
    least_difference,
    seeds_needed,
    spread,
)
from dragonfly_lit.evaluation.study.frontier import on_fronts
from dragonfly_lit.evaluation.study.tables import number, percent
from dragonfly_lit.io.text import counted

DIFFERENCE = 0.03
"""Between two accuracies, whose seeds are asked for."""
COMPARED = ("comparison", "first, %", "second, %", "p by t test", "p by Holm", "intervals")
FRONTS = ("cell", "accuracy, %", "small details, %", "image tokens", "GFLOPs an image", "on the fronts of")


def front_rows(study: Study, small_at_most: float) -> list[tuple[str, ...]]:
    """A row for each cell on a Pareto front; heads are `FRONTS`."""
    marks = on_fronts(study, small_at_most)
    sizes = study.small(small_at_most)
    return [
        (
            cell.title,
            percent(cell.accuracy(study.benchmark)),
            percent(cell.accuracy(study.benchmark, sizes)),
            number(cell.over_seeds("image_tokens"), 0),
            number(cell.over_seeds("image_gflops"), 3),
            "; ".join(marks[cell.name]),
        )
        for cell in study.cells
        if cell.name in marks
    ]


def compared_rows(found: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """A row for each comparison; heads are `COMPARED`."""
    return [
        (
            f"{one.name} against {one.against}" if one.against else f"recall of {one.name} against a random choice",
            percent(one.first),
            percent(one.second, interval=bool(one.against)),
            f"{one.p:.2g}",
            f"{one.adjusted:.2g}",
            "apart" if apart(one) else "overlap",
        )
        for one in found
    ]


def apart(one: Comparison) -> bool:
    """Whether the rule of the study calls a difference: intervals do not overlap, or recall's is clear of chance."""
    if one.against:
        return one.first.clear_of(one.second)
    low, high = one.first.low, one.first.high
    return low is not None and high is not None and not low <= one.second.mean <= high


def compared_seen(found: Sequence[Comparison]) -> str:
    """How many comparisons there are, and how many differences hold by either rule."""
    if not found:
        return "No two cells have several seeds, so nothing is compared."
    called = [one for one in found if apart(one)]
    held = [one for one in called if one.adjusted < LEVEL]
    return (
        f"The study makes {counted(len(found), 'comparison')}: neighbours of a part on small details, and selection "
        f"recall with a random choice. It calls a difference where intervals do not overlap: {len(called)} of them. p "
        "is two-sided, by Welch's t test over seeds (against a random choice, the t test of one sample), and by Holm "
        f"adjusted for the number of comparisons: {len(held)} of the {len(called)} are below {LEVEL:g} after it as "
        "well."
    )


def power_seen(study: Study, small_at_most: float, num_compared: int) -> list[str]:
    """How many seeds a difference of three points needs, by the spread over seeds of this study.

    Args:
        study: whose cells have several seeds.
        small_at_most: up to which share of the side a detail counts as small.
        num_compared: comparisons that the study makes.
    """
    sizes, cells = study.small(small_at_most), study.cells
    kinds: dict[str, list[Estimate | None]] = {
        "accuracy on all details": [cell.accuracy(study.benchmark) for cell in cells],
        f"accuracy on details up to {100 * small_at_most:g}%": [
            cell.accuracy(study.benchmark, sizes) for cell in cells
        ],
    }
    told = []
    for what, estimates in kinds.items():
        measured = spread(estimates)
        if measured is None:
            continue
        deviation, freedom = measured
        usual = statistics.mode(one.num for one in estimates if one is not None and one.num > 1)
        alone, strict = (
            _seeds(seeds_needed(DIFFERENCE, deviation, level=level)) for level in (LEVEL, LEVEL / max(1, num_compared))
        )
        told.append(
            f"{what[0].upper()}{what[1:]} spreads over seeds by {100 * deviation:.2f} points (standard deviation, "
            f"pooled; {counted(freedom, 'degree')} of freedom). A two-sided t test at {LEVEL:g} sees a difference of "
            f"{100 * DIFFERENCE:g} points in {100 * POWER:.0f}% of studies with {alone} of each cell, and as the "
            f"smallest p of {num_compared} by Holm with {strict}. {usual} seeds see "
            f"{100 * least_difference(deviation, usual):.1f} points as often."
        )
    return told


def _seeds(num: int | None) -> str:
    return "more than 10,000 seeds" if num is None else f"{num} seeds"
