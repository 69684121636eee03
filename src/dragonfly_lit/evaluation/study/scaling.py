"""A law of accuracy on small details against the pixels that a model looks at, and predictions of held-out cells.

Above chance, accuracy is a logistic function of the pixels along the finest level's side, on a logarithmic scale.
Crops of more pixels and more crops both make that side longer.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from dragonfly_lit.evaluation.study.cells import Cell, Estimate, Study

FEWEST = 4
"""Cells that a law is fitted to at least; one more so that a prediction of one of them can be checked."""
RESAMPLES = 1000
SIZES = ("low", "medium", "high", "medium_crops", "high_crops", "pool")
"""Keys of `zoom` in which the cells of one law may differ."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A cell that keeps all of its crops.

    Attributes:
        title: of the cell.
        pixels: along the side of its finest level.
        accuracy: on small details, 0 to 1.
    """

    title: str
    pixels: float
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True)
class Law:
    """`chance + (1 - chance) / (1 + exp(-steepness * log2(pixels / half)))`.

    Attributes:
        chance: accuracy of the best constant answers; 0 where it is not known.
        half: pixels at which half of what chance leaves is read.
        steepness: of the curve, for each doubling of the pixels.
        covariance: of log2(half) and steepness, from the residuals.
        residual: standard deviation of the cells' means around the law.
        freedom: degrees of freedom of the residuals.
    """

    chance: float
    half: float
    steepness: float
    covariance: np.ndarray
    residual: float
    freedom: int

    def at(self, pixels: float) -> float:
        """The accuracy at a side of this many pixels, 0 to 1."""
        return float(_law(self.chance)(np.log2(pixels), math.log2(self.half), self.steepness))

    def predict(self, pixels: float) -> tuple[float, float, float]:
        """The accuracy that a further cell is expected to have, and its 95% prediction interval."""
        from scipy import stats

        share = (self.at(pixels) - self.chance) / (1 - self.chance)
        distance = math.log2(pixels / self.half)
        gradient = (1 - self.chance) * share * (1 - share) * np.array([-self.steepness, distance])
        variance = float(gradient @ self.covariance @ gradient) + self.residual**2
        half_width = float(stats.t.ppf(0.975, self.freedom)) * math.sqrt(variance)
        mean = self.at(pixels)
        return mean, mean - half_width, mean + half_width


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a law that was fitted to the other cells says of one, beside what was measured."""

    point: Point
    mean: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the cell's mean lies in the prediction interval."""
        return self.low <= self.point.accuracy.mean <= self.high


def points_of(study: Study, small_at_most: float) -> list[Point]:
    """The cells that keep all crops and differ in nothing but crops and their size, by pixels; the largest such group.

    Args:
        study: whose cells they are.
        small_at_most: up to which share of the side a detail counts as small.
    """
    groups: dict[str, list[Point]] = {}
    for cell in study.cells:
        config = next((result.get("config") for result in cell.results.values()), None) or {}
        accuracy, pixels = cell.accuracy(study.benchmark, study.small(small_at_most)), _pixels(cell, config)
        if accuracy is None or pixels is None or config["zoom"].get("top_k") is not None:
            continue
        point = Point(title=cell.title, pixels=pixels, accuracy=accuracy)
        groups.setdefault(_rest(config), []).append(point)
    return sorted(max(groups.values(), key=len, default=[]), key=lambda point: point.pixels)


def _pixels(cell: Cell, config: Mapping[str, Any]) -> float | None:
    """The pixels along the side of the finest level, of a square of all its crops."""
    zoom, vision = config.get("zoom"), config.get("vision")
    if not zoom or not vision:
        return None
    size = next((result["crop_pixels"] for result in cell.results.values() if "crop_pixels" in result), None)
    size = size or vision["image_size"] or _builtin(vision["path"])
    crops = zoom["high_crops"] if zoom["high"] else zoom["medium_crops"] if zoom["medium"] else 1
    return None if size is None else size * math.sqrt(crops)


def _builtin(path: str) -> int | None:
    """The crop of the built-in tower, which results of before `crop_pixels` do not say."""
    if path != "builtin":
        return None
    file = files("dragonfly_lit.models").joinpath("tiny_weights/vision/config.json")
    return int(json.loads(file.read_text(encoding="utf-8"))["image_size"])


def _rest(config: Mapping[str, Any]) -> str:
    """All that cells of one law have in common."""
    rest = {key: value for key, value in config.items() if key not in ("about", "seed", "zoom")}
    zoom = {key: value for key, value in config["zoom"].items() if key not in SIZES}
    rest |= {"zoom": zoom, "vision": {k: v for k, v in config["vision"].items() if k != "image_size"}}
    return json.dumps(_without_seeds(rest), sort_keys=True)


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_seeds(inner) for key, inner in value.items() if key != "seed"}
    return [_without_seeds(inner) for inner in value] if isinstance(value, list) else value


def _law(chance: float) -> Callable[[Any, float, float], Any]:
    from scipy.special import expit

    return lambda log_pixels, log_half, steepness: chance + (1 - chance) * expit(steepness * (log_pixels - log_half))


def fit(pixels: Sequence[float], accuracies: Sequence[float], *, chance: float = 0.0) -> Law:
    """The law nearest to means by least squares.

    Args:
        pixels: along the side of the finest level of each cell.
        accuracies: 0 to 1, a mean of each.
        chance: the accuracy that no pixels give.

    Raises:
        ValueError: there are fewer than three cells or sides, or no law is near them.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    if len(set(pixels)) < 3:
        raise ValueError(f"a law has two parameters: give three cells of different pixels or more, not {len(pixels)}.")
    logs, ys = np.log2(np.asarray(pixels, dtype=float)), np.asarray(accuracies, dtype=float)
    law = _law(chance)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)  # no covariance: accuracies that do not depend on pixels
            found, covariance = curve_fit(law, logs, ys, p0=(float(logs.mean()), 1.0), maxfev=10_000)
    except (RuntimeError, OptimizeWarning) as error:
        raise ValueError(f"no law of pixels is near these accuracies ({error}).") from error
    freedom = len(ys) - 2
    residual = math.sqrt(float(((ys - law(logs, *found)) ** 2).sum()) / freedom)
    return Law(
        chance=chance,
        half=float(2 ** found[0]),
        steepness=float(found[1]),
        covariance=covariance,
        residual=residual,
        freedom=freedom,
    )


def fit_points(points: Sequence[Point], *, chance: float) -> Law:
    """`fit` of the means of cells."""
    return fit([p.pixels for p in points], [p.accuracy.mean for p in points], chance=chance)


def held_out(points: Sequence[Point], *, chance: float) -> list[Checked]:
    """Each cell, predicted by the law of all others."""
    checked = []
    for point in points:
        law = fit_points([other for other in points if other is not point], chance=chance)
        mean, low, high = law.predict(point.pixels)
        checked.append(Checked(point=point, mean=mean, low=low, high=high))
    return checked


def bootstrap(points: Sequence[Point], *, chance: float, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95% intervals of `half` and `steepness` over resamples of the seeds within each cell; those of one seed stay.

    Args:
        points: the cells.
        chance: as in `fit`.
        seed: of the resampling.
    """
    draw = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"half": [], "steepness": []}
    for _ in range(RESAMPLES):
        means = [float(draw.choice(p.accuracy.values, len(p.accuracy.values)).mean()) for p in points]
        law = fit([p.pixels for p in points], means, chance=chance)
        found["half"].append(law.half)
        found["steepness"].append(law.steepness)
    return {name: tuple(map(float, np.quantile(values, [0.025, 0.975]))) for name, values in found.items()}  # type: ignore[misc]


def scaling_seen(points: Sequence[Point], *, chance: float) -> list[str]:
    """The law and its check in sentences.

    Args:
        points: at least `FEWEST`.
        chance: as in `fit`.
    """
    law, bounds = fit_points(points, chance=chance), bootstrap(points, chance=chance)
    half, steep = bounds["half"], bounds["steepness"]
    told = [
        f"Accuracy on small details = {chance:.3f} + {1 - chance:.3f} / (1 + (pixels / {law.half:.0f})^"
        f"-{law.steepness / math.log(2):.2f}), fitted to {len(points)} cells, which lie {100 * law.residual:.1f} "
        "points around it (standard deviation). By bootstrap over seeds, half of what chance leaves is read at "
        f"{law.half:.0f} pixels a side ({half[0]:.0f} to {half[1]:.0f}), and the exponent is "
        f"{law.steepness / math.log(2):.2f} ({steep[0] / math.log(2):.2f} to {steep[1] / math.log(2):.2f})."
    ]
    if len(points) > FEWEST:
        checked = held_out(points, chance=chance)
        last, num = checked[-1], sum(one.holds for one in checked)
        told.append(
            f"Held out: the law of the other cells expects {100 * last.mean:.1f}% ({100 * last.low:.1f} to "
            f"{100 * last.high:.1f}) of {last.point.title}, the finest; it has {100 * last.point.accuracy.mean:.1f}%, "
            f"{'within' if last.holds else 'outside'} the interval. Held out one by one, {num} of {len(checked)} cells "
            "are within theirs."
        )
    return told
