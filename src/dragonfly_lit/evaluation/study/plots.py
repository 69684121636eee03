"""The curves of a study: accuracy against image tokens and against the size of the detail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure on the disk.

    Attributes:
        svg: its file; a PNG of the same name lies beside it.
        seen: what there is to be seen, in words.
        cells: what it is drawn from.
        wide: whether it has panels beside each other.
    """

    svg: Path
    seen: str
    cells: Sequence[Cell]
    wide: bool = False


def drawn(figure: Any, stem: Path, seen: str, cells: Sequence[Cell]) -> Drawn:
    """The figure, written as SVG and PNG.

    Args:
        figure: of matplotlib.
        stem: the paths without their ends.
        seen: what there is to be seen, in words.
        cells: what it is drawn from.
    """
    return Drawn(svg=save(figure, stem, seen)[0], seen=seen, cells=cells, wide=len(figure.axes) > 1)


def file_name(part: str) -> str:
    """What the files of a part are called by."""
    return "".join(letter if letter.isalnum() else "_" for letter in part)


def draw_curves(study: Study, out: Path, *, chance: float | None = None) -> dict[str, list[Drawn]]:
    """Writes both curves of every part as SVG and PNG; the figures by part.

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
    figures: dict[str, list[Drawn]] = {}
    for part, cells in study.parts.items():
        done = [cell for cell in cells if cell.results]
        if done:
            name = file_name(part)
            tokens, sizes = against_tokens(study, done, part, chance), against_sizes(study, done, part, chance)
            figures[part] = [
                drawn(tokens, out / f"{TOKENS}_{name}", tokens_seen(study, part), done),
                drawn(sizes, out / f"{SIZES}_{name}", sizes_seen(study, part), done),
            ]
    return figures


def _figure(title: str, x: str) -> tuple[Any, Axes]:
    figure, (axes,) = panels([title], x, "accuracy, %", size=(6.4, 4.2))
    return figure, axes


def panels(titles: Sequence[str], x: str, y: str, *, size: tuple[float, float]) -> tuple[Any, list[Axes]]:
    """A figure of panels beside each other, with their axes.

    Args:
        titles: one a panel.
        x: label of the horizontal axis.
        y: label of the vertical one.
        size: width and height of the figure, in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # knows how wide letters are
    found = [figure.add_subplot(1, len(titles), place + 1) for place in range(len(titles))]
    for axes, title in zip(found, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="y", color=BESIDE)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, found


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
        style = style_of(number)
        axes.plot(xs, ys, label=cell.title, linewidth=1.8, markersize=5, **style)
        lows = [100 * (one.mean if one.low is None else one.low) for _, one in known]
        highs = [100 * (one.mean if one.high is None else one.high) for _, one in known]
        axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(shares, [str(share) for share in shares])
    axes.minorticks_off()
    _finish(axes, chance)
    return figure


def bars(value: Estimate) -> list[list[float]] | None:
    """The lengths of an interval's bars in percent, below and above; None without an interval."""
    if value.low is None or value.high is None:
        return None
    return [[100 * (value.mean - value.low)], [100 * (value.high - value.mean)]]


def style_of(number: int) -> dict[str, Any]:
    """Colour and marker of a cell by its place."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def plain_numbers(axis: Any) -> None:
    """Marks a logarithmic axis at 1, 2, 3 and 5 times the powers of ten, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _point(axes: Axes, x: float, accuracy: Estimate, number: int, label: str) -> None:
    style, y = style_of(number), [100 * accuracy.mean]
    axes.errorbar([x], y, yerr=bars(accuracy), linestyle="", capsize=4, markersize=7, label=label, zorder=2, **style)


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
