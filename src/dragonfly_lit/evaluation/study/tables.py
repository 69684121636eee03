"""The tables of a study, and what its intervals show."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from dragonfly_lit.evaluation.markdown import plain
from dragonfly_lit.evaluation.study.cells import Cell, Estimate, Study

NONE, MARK = "-", " ◆"
"""No number, and a cell on a Pareto front."""
ONE_SEED = ", where one seed tells nothing certain"


def columns(small_at_most: float) -> tuple[str, ...]:
    """Heads of the columns of `row`."""
    return (
        "cell",
        "jobs",
        "accuracy, %",
        f"details up to {100 * small_at_most:g}%, %",
        "selection recall, %",
        "random choice, %",
        "image tokens",
        "GFLOPs an image",
        "samples/s",
        "answers/s",
    )


def row(study: Study, cell: Cell, small_at_most: float, *, front: bool = False) -> tuple[str, ...]:
    """A cell's numbers: means over seeds with 95% intervals; `not run` where nothing finished.

    Args:
        study: that the cell is of.
        cell: whose numbers are wanted.
        small_at_most: up to which share of the side a detail counts as small.
        front: whether the cell is marked as one on a Pareto front.
    """
    if not cell.results:
        return (cell.title, cell.state, *[NONE] * (len(columns(small_at_most)) - 2))
    name = study.benchmark
    return (
        cell.title + MARK * front,
        cell.state,
        percent(cell.accuracy(name)),
        percent(cell.accuracy(name, study.small(small_at_most))),
        percent(cell.selection(name, "recall")),
        percent(cell.selection(name, "random"), interval=False),
        number(cell.over_seeds("image_tokens"), 0),
        number(cell.over_seeds("image_gflops"), 3),
        number(cell.over_seeds("samples_per_s"), 1),
        number(cell.answering(name), 1),
    )


def percent(value: Estimate | None, *, interval: bool = True) -> str:
    """`41.2 (39.0 to 43.4)`."""
    if value is None:
        return NONE
    text = f"{100 * value.mean:.1f}"
    if interval and value.low is not None and value.high is not None:
        text += f" ({100 * value.low:.1f} to {100 * value.high:.1f})"
    return text


def number(value: Estimate | None, digits: int) -> str:
    """The mean alone."""
    return NONE if value is None else f"{value.mean:,.{digits}f}"


def explanation(study: Study, chance: float | None = None) -> str:
    """How to read the numbers; `chance` is the accuracy of the best constant answers."""
    constant = "" if chance is None else f" The best constant answers would get {100 * chance:.1f}%."
    return (
        f"Accuracy on {study.benchmark}: mean over seeds, in brackets its 95% interval by Student's t.{constant} "
        "Random choice is what selection recall would be if as many high crops were kept at random. Samples/s "
        "(training) and answers/s are of the machine that ran the sweep, whatever else it did. ◆ marks the cells on a "
        "Pareto front: no other is as accurate, on all or on small details, for as few image tokens or GFLOPs."
    )


def breakdown(study: Study, cell: Cell) -> tuple[str, ...]:
    """A cell's accuracy by size of the detail and by kind of question."""
    by_size = [percent(cell.accuracy(study.benchmark, [size]), interval=False) for size in study.sizes]
    return (cell.title, *by_size, *(percent(cell.by_kind(study.benchmark, k), interval=False) for k in study.kinds))


def findings(study: Study, cells: Sequence[Cell], small_at_most: float) -> list[str]:
    """For each cell and the one before it: whether the intervals on small details tell them apart; likewise recall."""
    found = []
    small = [(c, c.accuracy(study.benchmark, study.small(small_at_most))) for c in cells if c.results]
    what = f"details up to {100 * small_at_most:g}% of the side"
    for (before, first), (after, second) in pairwise(small):
        if first is None or second is None:
            continue
        doubt = ""
        if first.num == 1 or second.num == 1:
            verdict, doubt = "against", ONE_SEED
        elif second.clear_of(first):
            verdict = f"is {'better' if second.mean > first.mean else 'worse'} than"
        else:
            verdict = "is not told apart from"
        values = f"{percent(second)} against {percent(first)}"
        found.append(f"{after.title} {verdict} {before.title} on {what}: {values}{doubt}.")
    for cell in cells:
        recall, chance = (cell.selection(study.benchmark, key) for key in ("recall", "random"))
        if recall is None or chance is None:
            continue
        doubt = ""
        if recall.low is None or recall.high is None:
            verdict, doubt = "against", ONE_SEED
        elif recall.low > chance.mean:
            verdict = "beats"
        else:
            verdict = "falls short of" if recall.high < chance.mean else "is not told apart from"
        values = f"{percent(recall)} against {percent(chance, interval=False)}"
        found.append(f"Selection recall of {cell.title} {verdict} a random choice: {values}{doubt}.")
    return found


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its numbers to the right."""
    align = ["---", *["---:"] * (len(heads) - 1)]
    words = [[*map(plain, heads)], align, *([*map(plain, cells)] for cells in rows)]
    return ["| " + " | ".join(cells) + " |" for cells in words]
