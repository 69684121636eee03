"""Learning curves of the jobs: losses against steps and training FLOPs, and whether a cell still learns at its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.study.cells import Cell
from dragonfly_lit.io.metrics import METRICS_FILE, read_metrics

TRAINING, VALIDATION = "loss", "val_loss"
LAST = 0.25
"""Share of the training whose slope is asked for."""
FEWEST = 3
"""Points of a seed that a slope needs."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one job logged.

    Attributes:
        steps: optimizer steps of each kind of loss, ascending.
        losses: at these steps.
        tflops: counted training TFLOPs up to these steps; None where the log does not give them.
        end: the last step.
    """

    steps: Mapping[str, list[int]]
    losses: Mapping[str, list[float]]
    tflops: Mapping[str, list[float] | None]
    end: int


def curves_of(cell: Cell) -> list[Curve]:
    """A curve for each finished seed whose metrics.csv is there."""
    found = [
        read_curve(cell.folders[seed] / METRICS_FILE, result.get("config") or {})
        for seed, result in cell.results.items()
        if seed in cell.folders
    ]
    return [curve for curve in found if curve is not None]


def read_curve(path: Path, config: Mapping[str, Any]) -> Curve | None:
    """The losses in a log; None where there are none. Steps that a resumed run did again count as it did them last.

    Args:
        path: metrics.csv of a run; what it logged before it was resumed lies beside it as metrics.1.csv, metrics.2.csv.
        config: of the run; its samples a step turn speeds into FLOPs.
    """
    if not path.is_file():
        return None
    steps: dict[str, dict[int, float]] = {TRAINING: {}, VALIDATION: {}}
    each: dict[int, float] = {}
    for line in _lines(path):
        step = int(line["step"])
        for name, known in steps.items():
            if math.isfinite(value := line.get(name, math.nan)):
                known[step] = value
        if line.get("tflops_per_device") and line.get("samples_per_s"):
            each[step] = line["tflops_per_device"] / line["samples_per_s"]
    if not steps[TRAINING]:
        return None
    num, ordered = _samples_a_step(config), {name: sorted(known) for name, known in steps.items()}
    return Curve(
        steps=ordered,
        losses={name: [steps[name][step] for step in ordered[name]] for name in steps},
        tflops={name: _tflops(ordered[name], each, num) for name in steps},
        end=max(steps[TRAINING]),
    )


def _lines(path: Path) -> Iterator[dict[str, float]]:
    """The rows of a log and of what was logged before, the oldest first."""
    earlier = sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"), key=lambda one: int(one.stem.rpartition(".")[2]))
    for file in (*earlier, path):
        yield from read_metrics(file)


def _samples_a_step(config: Mapping[str, Any]) -> int | None:
    """What turns TFLOPs of one process by samples of all into those of all a step; None where packing makes it vary."""
    try:
        batch, stage = config["data"]["batch"], config["stage"]
        size = batch["size"] or config["model"]["recipe"][str(stage["name"])]["batch_size"]
        world = int(config["trainer"]["devices"]) * int(config["trainer"]["num_nodes"])
        if batch["mode"] != "padded" or not size:
            return None
        return world * (int(size) * int(stage["accumulate"]) * world)
    except (KeyError, TypeError, ValueError):
        return None


def _tflops(steps: Sequence[int], each: Mapping[int, float], num: int | None) -> list[float] | None:
    """TFLOPs up to each step, from those of a sample between two lines of the log; later steps cost as the last did."""
    if num is None or not each:
        return None
    lines = sorted(each)
    totals, before, sum_so_far = {0: 0.0}, 0, 0.0
    for line in lines:
        sum_so_far += each[line] * num * (line - before)
        totals[line], before = sum_so_far, line

    def up_to(step: int) -> float:
        last = max(line for line in totals if line <= step)
        after = min((line for line in lines if line > step), default=lines[-1])
        return totals[last] + each[after] * num * (step - last)

    return [up_to(step) for step in steps]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a cell was still learning when it stopped.

    Attributes:
        loss: `val_loss` where it was asked for often enough, else `loss`.
        slope: change of the loss a step over the last quarter, negative where it falls.
        low: lower bound of the slope's 95% interval.
        high: upper bound.
        steps: of the training.
    """

    loss: str
    slope: float
    low: float
    high: float
    steps: int

    @property
    def learning(self) -> bool:
        """Whether the loss falls, by more than its noise."""
        return self.high < 0


def verdict(curves: Sequence[Curve]) -> Verdict | None:
    """The slope of the last quarter, common to all seeds, each with a level of its own; None with too few points.

    The interval is that of least squares: it takes the points' noise as independent.

    Args:
        curves: of one cell, one a seed.
    """
    for name in (VALIDATION, TRAINING):
        points = [
            [
                (step, loss)
                for step, loss in zip(c.steps[name], c.losses[name], strict=True)
                if step >= (1 - LAST) * c.end
            ]
            for c in curves
        ]
        if points and all(len(of_seed) >= FEWEST for of_seed in points):
            slope, low, high = _slope(points)
            return Verdict(loss=name, slope=slope, low=low, high=high, steps=max(c.end for c in curves))
    return None


def _slope(points: Sequence[Sequence[tuple[int, float]]]) -> tuple[float, float, float]:
    from scipy import stats

    xs, ys = [], []
    for of_seed in points:
        middle, level = (sum(column) / len(of_seed) for column in zip(*of_seed, strict=True))
        xs += [step - middle for step, _ in of_seed]
        ys += [loss - level for _, loss in of_seed]
    squares = sum(x * x for x in xs)
    slope = sum(x * y for x, y in zip(xs, ys, strict=True)) / squares
    freedom = len(xs) - len(points) - 1
    left = sum((y - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(left / freedom / squares)
    return slope, slope - half, slope + half


def learning_seen(cell: Cell) -> str | None:
    """The verdict in words; None where no job of the cell left a log."""
    curves = curves_of(cell)
    if not curves:
        return None
    found = verdict(curves)
    if found is None:
        return f"{cell.title}: too few points in the last quarter of the training to say whether it still learns."
    what = "validation" if found.loss == VALIDATION else "training"
    told = " to ".join(f"{100 * value:+.3f}" for value in (found.low, found.high))
    state = "still learning" if found.learning else "flat"
    return (
        f"{cell.title}: {state}. Over the last quarter of {found.steps:,} steps the {what} loss changed by "
        f"{100 * found.slope:+.3f} every 100 steps (95% interval {told})."
    )
