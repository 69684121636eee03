"""The curves of a study: accuracy against image tokens and against the size of the detail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dragonfly_lit.evaluation.curves import BESIDE, save
from dragonfly_lit.evaluation.study.cells import Cell, Estimate, Study
from dragonfly_lit.spec import levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (*levels.COLOURS.values(), "#cc79a7", "#d55e00", "#56b4e9", "#7a6c00", "#444444", "#9467bd", "#8c564b")
"""Told apart by colour-blind readers as well; those of the levels first, as the cells of that part are ordered."""
MARKERS = "osD^vPX*<>"
TOKENS, SIZES = "accuracy_tokens", "accuracy_size"


def draw_curves(study: Study, out: Path, *, chance: float | None = None) -> dict[str, list[Path]]:
    """Writes both curves of every part as SVG and PNG; the files by part.

    Args:
        study: with at least one finished cell.
        out: folder of the files.
        chance: accuracy of the best constant answers, drawn as a line.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(
            "study draws with matplotlib, which is not installed: pip install 'dragonfly_lit[study]'."
        ) from error
    matplotlib.use("Agg")
    files: dict[str, list[Path]] = {}
    for part, cells in study.parts.items():
        done = [cell for cell in cells if cell.results]
        if done:
            name = "".join(letter if letter.isalnum() else "_" for letter in part)
            files[part] = [
                *save(against_tokens(study, done, part, chance), out / f"{TOKENS}_{name}", tokens_seen(study, part)),
                *save(against_sizes(study, done, part, chance), out / f"{SIZES}_{name}", sizes_seen(study, part)),
            ]
    return files


def _figure(title: str, x: str) -> tuple[Any, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y", color=BESIDE)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def against_tokens(study: Study, cells: Sequence[Cell], part: str, chance: float | None) -> Any:
    """The figure of accuracy against image tokens, a point with its interval for each cell."""
    figure, axes = _figure(f"Accuracy against image tokens: {part}", "image tokens")
    points = []
    for number, cell in enumerate(cells):
        accuracy, tokens = cell.accuracy(study.benchmark), cell.over_seeds("image_tokens")
        if accuracy is None or tokens is None:
            continue
        points.append((tokens.mean, 100 * accuracy.mean))
        _point(axes, tokens.mean, accuracy, number, cell.title)
    points.sort()
    axes.plot(*zip(*points, strict=True), color="#8b939c", linewidth=1, zorder=1)
    _finish(axes, chance)
    return figure


def against_sizes(study: Study, cells: Sequence[Cell], part: str, chance: float | None) -> Any:
    """The figure of accuracy against the size of the detail, a curve with its band for each cell."""
    figure, axes = _figure(f"Accuracy against the size of the detail: {part}", "detail's share of the side, %")
    shares = [int(size.rstrip("%")) for size in study.sizes]
    for number, cell in enumerate(cells):
        found = [cell.accuracy(study.benchmark, [size]) for size in study.sizes]
        known = [(share, one) for share, one in zip(shares, found, strict=True) if one is not None]
        xs, ys = [share for share, _ in known], [100 * one.mean for _, one in known]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        axes.plot(xs, ys, label=cell.title, linewidth=1.8, markersize=5, **style)
        lows = [100 * (one.mean if one.low is None else one.low) for _, one in known]
        highs = [100 * (one.mean if one.high is None else one.high) for _, one in known]
        axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(shares, [str(share) for share in shares])
    axes.minorticks_off()
    _finish(axes, chance)
    return figure


def _point(axes: Axes, x: float, accuracy: Estimate, number: int, label: str) -> None:
    bounds = None
    if accuracy.low is not None and accuracy.high is not None:
        bounds = [[100 * (accuracy.mean - accuracy.low)], [100 * (accuracy.high - accuracy.mean)]]
    style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "fmt": MARKERS[number % len(MARKERS)]}
    axes.errorbar([x], [100 * accuracy.mean], yerr=bounds, capsize=4, markersize=7, label=label, zorder=2, **style)


def _finish(axes: Axes, chance: float | None) -> None:
    if chance is not None:
        axes.axhline(100 * chance, color="#8b939c", linestyle=":", linewidth=1.2, label="chance")
    axes.set_ylim(0, 102)
    axes.legend(frameon=False, fontsize=9)


def tokens_seen(study: Study, part: str) -> str:
    """The figure of accuracy against image tokens in words."""
    told = [
        f"{cell.title} {100 * accuracy.mean:.1f}% at {tokens.mean:,.0f}"
        for cell in study.parts[part]
        if (accuracy := cell.accuracy(study.benchmark)) and (tokens := cell.over_seeds("image_tokens"))
    ]
    return f"Accuracy against image tokens, {part}: {'; '.join(told)}."


def sizes_seen(study: Study, part: str) -> str:
    """The figure of accuracy against the size of the detail in words: the ends of each curve."""
    told = []
    for cell in study.parts[part]:
        found = [(size, cell.accuracy(study.benchmark, [size])) for size in study.sizes]
        known = [f"{100 * one.mean:.1f}% at {size.lstrip('0')}" for size, one in found if one is not None]
        if known:
            told.append(f"{cell.title} " + " to ".join(dict.fromkeys((known[0], known[-1]))))
    return f"Accuracy against the detail's share of the side, {part}: {'; '.join(told)}."
