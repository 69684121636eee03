"""Which cells no other beats: as accurate or more, at no more cost, and better in one of the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dragonfly_lit.evaluation.study.cells import Cell, Estimate, Study

COSTS = {"image tokens": "image_tokens", "GFLOPs an image": "image_gflops"}
"""What a cell costs, and where its results have it."""


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each point is on the Pareto front.

    Args:
        points: cost and accuracy of each; of equal points all are on it, or none.
    """
    return [
        not any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for c, a in points)
        for cost, accuracy in points
    ]


def measures(study: Study, small_at_most: float) -> dict[str, Callable[[Cell], Estimate | None]]:
    """What is to be high: accuracy on all details and on small ones, each as it is called and read from a cell."""
    sizes = study.small(small_at_most)
    return {
        "accuracy": lambda cell: cell.accuracy(study.benchmark),
        f"details up to {100 * small_at_most:g}%": lambda cell: cell.accuracy(study.benchmark, sizes),
    }


def plotted(
    study: Study, cost: str, measure: Callable[[Cell], Estimate | None]
) -> list[tuple[Cell, float, Estimate, bool]]:
    """Each finished cell with its mean cost, its accuracy, and whether it is on the front of means.

    Args:
        study: whose cells they are.
        cost: a key of `COSTS`.
        measure: of `measures`.
    """
    known = []
    for cell in study.cells:
        price, accuracy = cell.over_seeds(COSTS[cost]), measure(cell)
        if price is not None and accuracy is not None:
            known.append((cell, price.mean, accuracy))
    marks = front([(price, accuracy.mean) for _, price, accuracy in known])
    return [(*one, mark) for one, mark in zip(known, marks, strict=True)]


def on_fronts(study: Study, small_at_most: float) -> dict[str, list[str]]:
    """For each cell's name the fronts that it is on, such as `accuracy by image tokens`; in the order of the cells."""
    found: dict[str, list[str]] = {}
    for what, measure in measures(study, small_at_most).items():
        costs: dict[str, list[str]] = {}
        for cost in COSTS:
            for cell, _, _, mark in plotted(study, cost, measure):
                if mark:
                    costs.setdefault(cell.name, []).append(cost)
        for name, on in costs.items():
            found.setdefault(name, []).append(f"{what} by {', '.join(on)}")
    return {cell.name: found[cell.name] for cell in study.cells if cell.name in found}
