"""Figures of training and of scaling: losses against steps and FLOPs, accuracy against pixels with the fitted law."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dragonfly_lit.evaluation.study.cells import Cell, Study
from dragonfly_lit.evaluation.study.learning import TRAINING, VALIDATION, Curve, curves_of
from dragonfly_lit.evaluation.study.plots import Drawn, bars, drawn, file_name, panels, plain_numbers, style_of
from dragonfly_lit.evaluation.study.scaling import FEWEST, Point, fit_points, scaling_seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEARNING, SCALING = "learning", "scaling"


def draw_learning(study: Study, out: Path) -> dict[str, Drawn]:
    """Writes a figure for each part whose jobs left logs; by part.

    Args:
        study: with at least one finished cell.
        out: folder of the files.
    """
    figures = {}
    for part, cells in study.parts.items():
        curves = {cell.title: found for cell in cells if (found := curves_of(cell))}
        if curves:
            done = [cell for cell in cells if cell.title in curves]
            stem = out / f"{LEARNING}_{file_name(part)}"
            figures[part] = drawn(learning_curves(part, curves), stem, curves_seen(part, curves), done)
    return figures


def learning_curves(part: str, curves: Mapping[str, Sequence[Curve]]) -> Any:
    """The figure of losses against optimizer steps and against training TFLOPs, means over seeds.

    Args:
        part: name of the comparison.
        curves: of each cell by its title, one a seed.
    """
    titles = [f"Loss against steps: {part}", "The same against training FLOPs"]
    figure, (by_steps, by_flops) = panels(titles, "optimizer steps", "loss (logarithmic)", size=(13.0, 4.8))
    by_flops.set_xlabel("training TFLOPs, counted")
    for number, (title, of_cell) in enumerate(curves.items()):
        colour = style_of(number)["color"]
        for name in (TRAINING, VALIDATION):
            steps, losses = common(of_cell, name)
            if not steps:
                continue
            label = title if name == TRAINING else None
            _curve(by_steps, steps, losses, name, colour, label)
            flops = [known for curve in of_cell if (known := _at(curve, name, steps)) is not None]
            if len(flops) == len(of_cell):
                _curve(
                    by_flops,
                    [statistics.fmean(column) for column in zip(*flops, strict=True)],
                    losses,
                    name,
                    colour,
                    label,
                )
    for axes in (by_steps, by_flops):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
        axes.set_xlim(left=0)
        if axes.lines:
            axes.plot([], [], color="#8b939c", linewidth=1.4, label="training")
            axes.plot([], [], color="#8b939c", linestyle="--", marker="o", markersize=5, label="validation")
            axes.legend(frameon=False, fontsize=8, ncols=2)
        else:
            axes.text(0.5, 0.5, "the logs do not give FLOPs", transform=axes.transAxes, ha="center")
    return figure


def common(curves: Sequence[Curve], name: str) -> tuple[list[int], list[float]]:
    """The steps at which all seeds of a cell logged a loss, and its means there."""
    known = [dict(zip(curve.steps[name], curve.losses[name], strict=True)) for curve in curves]
    steps = sorted(set.intersection(*map(set, known)))
    return steps, [statistics.fmean(of_seed[step] for of_seed in known) for step in steps]


def _at(curve: Curve, name: str, steps: Sequence[int]) -> list[float] | None:
    tflops = curve.tflops[name]
    if tflops is None:
        return None
    known = dict(zip(curve.steps[name], tflops, strict=True))
    return [known[step] for step in steps]


def _curve(axes: Axes, xs: Sequence[float], ys: Sequence[float], name: str, colour: str, label: str | None) -> None:
    style: dict[str, Any] = (
        {"linewidth": 1.4} if name == TRAINING else {"linestyle": "--", "marker": "o", "markersize": 5}
    )
    axes.plot(xs, ys, color=colour, label=label, **style)


def curves_seen(part: str, curves: Mapping[str, Sequence[Curve]]) -> str:
    """The figure of learning in words: the first and the last loss of each cell."""
    told = []
    for title, of_cell in curves.items():
        _, losses = common(of_cell, TRAINING)
        if losses:
            told.append(f"{title} from {losses[0]:.3f} to {losses[-1]:.3f}")
    return f"Training loss, {part}: {'; '.join(told)}."


def draw_scaling(points: Sequence[Point], cells: Sequence[Cell], out: Path, *, chance: float) -> Drawn | None:
    """Writes the figure of the law; None with fewer cells than it takes.

    Args:
        points: of `points_of`.
        cells: that the points are of.
        out: folder of the file.
        chance: accuracy of the best constant answers, 0 where it is not known.
    """
    if len(points) < FEWEST:
        return None
    return drawn(scaling_law(points, chance=chance), out / SCALING, scaling_seen(points, chance=chance)[0], cells)


def scaling_law(points: Sequence[Point], *, chance: float) -> Any:
    """The figure of accuracy on small details against pixels, with the law and its 95% prediction band.

    Args:
        points: at least `FEWEST`.
        chance: drawn as a line where it is known.
    """
    title = "Accuracy on small details against the pixels looked at"
    figure, (axes,) = panels(
        [title], "pixels a side, of the finest level (logarithmic)", "accuracy, %", size=(8.4, 5.0)
    )
    law = fit_points(points, chance=chance)
    pixels = np.geomspace(points[0].pixels / 1.15, points[-1].pixels * 1.15, 100)
    means, lows, highs = (np.array(column) for column in zip(*map(law.predict, pixels.tolist()), strict=True))
    axes.plot(pixels, 100 * means, color="#8b939c", linewidth=1.4, label="law, with its 95% prediction interval")
    axes.fill_between(pixels, 100 * lows, 100 * highs, color="#8b939c", alpha=0.2, linewidth=0)
    for number, point in enumerate(points):
        bar = {"yerr": bars(point.accuracy), "linestyle": "", "capsize": 4, "markersize": 7}
        axes.errorbar(
            [point.pixels], [100 * point.accuracy.mean], label=point.title, zorder=2, **bar, **style_of(number)
        )
    if chance:
        axes.axhline(100 * chance, color="#8b939c", linestyle=":", linewidth=1.2, label="chance")
    axes.set_xscale("log")
    sides = sorted({round(point.pixels) for point in points})
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure
