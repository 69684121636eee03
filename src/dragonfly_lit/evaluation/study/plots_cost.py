"""Figures of all cells together: accuracy against cost with the Pareto front, and recall against the crops kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonfly_lit.evaluation.study.cells import Cell, Estimate, Study
from dragonfly_lit.evaluation.study.frontier import COSTS, measures, plotted
from dragonfly_lit.evaluation.study.plots import COLOURS, Drawn, bars, drawn, panels, plain_numbers, style_of
from dragonfly_lit.evaluation.study.tables import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRONT, BEHIND = COLOURS[0], "#8b939c"
PARETO, RECALL = "pareto", "recall_kept"
WIDE = (13.0, 6.2)


def draw_costs(study: Study, out: Path, *, small_at_most: float) -> list[Drawn]:
    """Writes a figure for each kind of cost, and one of recall where cells select.

    Args:
        study: with at least one finished cell.
        out: folder of the files.
        small_at_most: up to which share of the side a detail counts as small.
    """
    done, figures = [cell for cell in study.cells if cell.results], []
    for cost in COSTS:
        if any(cell.over_seeds(COSTS[cost]) for cell in done):
            name = f"{PARETO}_{cost.split()[-1 if cost.endswith('tokens') else 0].lower()}"
            figure = against_cost(study, cost, small_at_most)
            figures.append(drawn(figure, out / name, cost_seen(study, cost, small_at_most), done))
    selecting = [cell for cell in done if kept_of(study, cell) is not None]
    if selecting:
        figure = recall_against_kept(study, selecting, small_at_most)
        figures.append(drawn(figure, out / RECALL, recall_seen(study, selecting), selecting))
    return figures


def against_cost(study: Study, cost: str, small_at_most: float) -> Any:
    """The figure of both accuracies against a cost: each cell named, with its interval, and the Pareto front of means.

    Args:
        study: whose cells they are.
        cost: a key of `COSTS`.
        small_at_most: up to which share of the side a detail counts as small.
    """
    wanted = measures(study, small_at_most)
    titles = [f"{what.capitalize()} against {cost}" for what in wanted]
    figure, found = panels(titles, f"{cost} (logarithmic)", "accuracy, %", size=WIDE)
    for axes, measure in zip(found, wanted.values(), strict=True):
        axes.set_xscale("log")
        _cost_panel(axes, plotted(study, cost, measure))
    figure.draw_without_rendering()  # places of labels are known from here on
    for axes, measure in zip(found, wanted.values(), strict=True):
        points = plotted(study, cost, measure)
        name_points(axes, [(x, 100 * y.mean, cell.title, mark) for cell, x, y, mark in points])
    return figure


def _cost_panel(axes: Axes, points: Sequence[tuple[Cell, float, Estimate, bool]]) -> None:
    for _, x, accuracy, mark in points:
        colour, marker = (FRONT, "D") if mark else (BEHIND, "o")
        bar = {"yerr": bars(accuracy), "linestyle": "", "capsize": 3, "markersize": 6 + mark}
        axes.errorbar([x], [100 * accuracy.mean], color=colour, marker=marker, zorder=2 + mark, **bar)
    steps = sorted((x, 100 * accuracy.mean) for _, x, accuracy, mark in points if mark)
    if steps:
        xs, ys = zip(*steps, strict=True)
        axes.step(xs, ys, where="post", color=FRONT, linewidth=1.4, zorder=1, label="Pareto front of the means")
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.margins(x=0.12, y=0.12)
    plain_numbers(axes.xaxis)


def name_points(axes: Axes, points: Sequence[tuple[float, float, str, bool]]) -> None:
    """Writes each name where it covers no other name and no point, with a line to its point where it is not beside it.

    Args:
        axes: whose figure was laid out.
        points: x, y, the name, and whether it is written bold.
    """
    from matplotlib.transforms import Bbox

    canvas: Any = axes.figure.canvas
    renderer = canvas.get_renderer()
    places = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [Bbox.from_bounds(px - 5, py - 5, 10, 10) for px, py in places]
    bars = [axes.transData.transform(ends) for one in axes.collections for ends in one.get_segments()]  # type: ignore[attr-defined]
    taken += [Bbox([ends.min(0) - 1, ends.max(0) + 1]) for ends in bars]
    frame = axes.get_window_extent(renderer)
    # The most accurate first: there the names matter most.
    for index in sorted(range(len(points)), key=lambda place: -points[place][1]):
        x, y, name, bold = points[index]
        reach = [place for far in (9, 20, 34, 50, 68, 88) for place in _around(far, bold)]
        for dx, dy in reach:
            label = axes.annotate(
                name,
                (x, y),
                (dx, dy),
                textcoords="offset points",
                fontsize=8,
                va="center",
                fontweight="bold" if bold else "normal",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                arrowprops={"arrowstyle": "-", "color": BEHIND, "linewidth": 0.6} if abs(dx) + abs(dy) > 14 else None,
            )
            label.draw(renderer)
            box = Bbox.from_extents(*_text_box(label, renderer))
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if (inside and not any(box.overlaps(other) for other in taken)) or (dx, dy) == reach[-1]:
                taken.append(box)
                break
            label.remove()


def _around(far: float, bold: bool) -> list[tuple[float, float]]:
    """Places around a point, the best ones first; the front runs to the right of its points and below them."""
    level = [(far, 0), (-far, 0)]
    slanted = [(-far, 0.7 * far), (far, 0.7 * far), (far, -0.7 * far), (-far, -0.7 * far)]
    return [*slanted, *level] if bold else [*level, *slanted, (0, far), (0, -far)]


def _text_box(label: Any, renderer: Any) -> tuple[float, float, float, float]:
    """The extent of the words alone, without their line."""
    from matplotlib.text import Text

    box = Text.get_window_extent(label, renderer)
    return box.x0 - 1, box.y0 - 1, box.x1 + 1, box.y1 + 1


def cost_seen(study: Study, cost: str, small_at_most: float) -> str:
    """The figure of a cost in words: which cells are on the fronts."""
    told = []
    for what, measure in measures(study, small_at_most).items():
        steps = sorted((x, cell.title, y) for cell, x, y, mark in plotted(study, cost, measure) if mark)
        cells = "; ".join(f"{title} {100 * y.mean:.1f}% at {x:,.3g}" for x, title, y in steps)
        told.append(f"On the Pareto front of {what} against {cost}: {cells}.")
    return " ".join(told)


def kept_of(study: Study, cell: Cell) -> tuple[float, int] | None:
    """The high crops that a cell keeps and those that it chooses from; None where it selects none."""
    chance = cell.selection(study.benchmark, "random")
    zoom = next((result.get("config", {}).get("zoom") for result in cell.results.values()), None)
    if chance is None or not zoom or not zoom.get("high_crops"):
        return None
    return chance.mean * zoom["high_crops"], zoom["high_crops"]


def recall_against_kept(study: Study, cells: Sequence[Cell], small_at_most: float) -> Any:
    """The figure of recall against the number of kept crops, on all and on small details, beside chance.

    Args:
        study: whose cells they are.
        cells: that select.
        small_at_most: up to which share of the side a detail counts as small.
    """
    from matplotlib.ticker import MaxNLocator

    sizes = study.small(small_at_most)
    wanted: dict[str, Callable[[Cell], Estimate | None]] = {
        "Recall of all details": lambda cell: cell.selection(study.benchmark, "recall"),
        f"Recall of details up to {100 * small_at_most:g}%": lambda cell: cell.recall(study.benchmark, sizes),
    }
    figure, found = panels([*wanted], "high crops kept", "selection recall, %", size=WIDE)
    for axes, measure in zip(found, wanted.values(), strict=True):
        names = []
        for number, cell in enumerate(cells):
            recall, known = measure(cell), kept_of(study, cell)
            if recall is not None and known is not None:
                bar = {"yerr": bars(recall), "linestyle": "", "capsize": 4, "markersize": 7}
                axes.errorbar([known[0]], [100 * recall.mean], zorder=2, **bar, **style_of(number))
                names.append((known[0], 100 * recall.mean, cell.title, False))
        pools = sorted({known for cell in cells if (known := kept_of(study, cell)) is not None})
        for line, crops in enumerate(sorted({crops for _, crops in pools})):
            most = max(kept for kept, of in pools if of == crops)
            dashes = (":", "--", "-.")[line % 3]
            label = f"chance, of {crops} crops"
            axes.plot([0, most], [0, 100 * most / crops], color=BEHIND, linestyle=dashes, label=label, zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 102)
        axes.set_xlim(0, 1.35 * max(kept for kept, _ in pools))
        # Above the points, whose names may stand anywhere.
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
        figure.draw_without_rendering()
        name_points(axes, names)
    return figure


def recall_seen(study: Study, cells: Sequence[Cell]) -> str:
    """The figure of recall in words."""
    told = []
    for cell in cells:
        recall, chance, known = (
            cell.selection(study.benchmark, "recall"),
            cell.selection(study.benchmark, "random"),
            kept_of(study, cell),
        )
        if recall is not None and chance is not None and known is not None:
            told.append(
                f"{cell.title} finds {percent(recall)}% with {known[0]:g} of {known[1]} crops, a random choice "
                f"{percent(chance, interval=False)}%"
            )
    return f"Selection recall against the number of kept crops: {'; '.join(told)}."
