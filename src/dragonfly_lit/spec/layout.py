"""How many tokens an image takes, and in which order: the only place that knows.

An image is looked at up to three times: whole (low), cut into `medium_crops`, cut into
`high_crops`. Crops always travel in the order low, medium, high, row by row. The language model
sees each kept crop as its features followed by one newline token, so the number of tokens is the
same for every image. Source: arXiv 2406.00977 and the released code of both versions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import NamedTuple

REGIONS = ("raster", "spatial", "image")
SCORES = ("pooled", "max", "question")
HIGH_GRIDS = ("best", "medium")

LONGEST_ASPECT = 6
"""Grids narrower than 1:6 are not candidates: the released 24 crops stop at 2x12."""


class Grid(NamedTuple):
    """Crops a row and crops a column."""

    cols: int
    rows: int

    @property
    def num_crops(self) -> int:
        return self.cols * self.rows


class Grids(NamedTuple):
    """The grids chosen for one image."""

    medium: Grid
    high: Grid


def candidate_grids(num_crops: int) -> tuple[Grid, ...]:
    """All grids of `num_crops` within 1:6, the squarest first and the wider one first on a tie."""
    pairs = [(cols, num_crops // cols) for cols in range(1, num_crops + 1) if num_crops % cols == 0]
    fitting = [Grid(c, r) for c, r in pairs if max(c, r) <= LONGEST_ASPECT * min(c, r)]
    return tuple(sorted(fitting, key=lambda g: (max(g) / min(g), -g.cols)))


def best_grid(width: int, height: int, crop_size: int, candidates: tuple[Grid, ...]) -> Grid:
    """The candidate that keeps most of an image's pixels, then the one that wastes least.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        crop_size: side of a crop, in pixels.
        candidates: grids to choose from; the first one wins a full tie.
    """

    def merit(grid: Grid) -> tuple[int, int]:
        target_width, target_height = grid.cols * crop_size, grid.rows * crop_size
        scale = min(target_width / width, target_height / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, -(target_width * target_height - effective)

    return max(candidates, key=merit)


def _fitting(values: range, test: Callable[[int], object]) -> str:
    return ", ".join(str(v) for v in values if test(v))


@dataclass(frozen=True, kw_only=True)
class Zoom:
    """What is looked at, and what of it the language model sees.

    Attributes:
        low: whether the whole image is one crop.
        medium: whether the image is cut into `medium_crops`.
        high: whether the image is cut into `high_crops`.
        medium_crops: number of medium crops.
        high_crops: number of high crops.
        high_grid: `best` chooses among all grids of `high_crops`; `medium` refines the medium grid.
        top_k: high crops kept for each region; None keeps all of them.
        regions: which high crops compete: `raster`, under each medium crop equal runs in reading order (the released
            rule); `spatial`, under each medium crop those that overlap it most; `image`, all with all.
        score: how a high crop is ranked: see `models/zoom.py`.
        learned: whether the score has weights of its own, trained through a straight-through gate.
        pool: side of the average-pooling window over the patches of medium and high crops.
    """

    low: bool = True
    medium: bool = True
    high: bool = True
    medium_crops: int = 4
    high_crops: int = 24
    high_grid: str = "best"
    top_k: int | None = 3
    regions: str = "spatial"
    score: str = "pooled"
    learned: bool = False
    pool: int = 1

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("high_grid", self.high_grid, HIGH_GRIDS),
            ("regions", self.regions, REGIONS),
            ("score", self.score, SCORES),
        ):
            if value not in allowed:
                raise ValueError(f"zoom.{name}={value} is unknown. Use one of {', '.join(allowed)}.")
        if not (self.low or self.medium or self.high):
            raise ValueError("zoom.low, zoom.medium and zoom.high are all false: nothing would be seen. Set one true.")
        if self.medium and not candidate_grids(self.medium_crops):
            good = _fitting(range(1, 41), candidate_grids)
            raise ValueError(
                f"zoom.medium_crops={self.medium_crops} has no grid within 1:{LONGEST_ASPECT}. Use {good}."
            )
        if self.high:
            self._check_high()
        elif self.learned:
            raise ValueError(
                "zoom.learned=true scores high crops, but zoom.high=false. Set zoom.high=true or learned=false."
            )

    def _check_high(self) -> None:
        n, m = self.high_crops, self.medium_crops
        if self.high_grid == "medium":
            if n % m or isqrt(n // m) ** 2 * m != n:
                good = ", ".join(str(m * f * f) for f in range(1, 6))
                raise ValueError(
                    f"zoom.high_crops={n} does not refine zoom.medium_crops={m} by a whole factor a side "
                    f"(zoom.high_grid=medium). Use one of {good}."
                )
        elif not candidate_grids(n):
            raise ValueError(
                f"zoom.high_crops={n} has no grid within 1:{LONGEST_ASPECT}. "
                f"Use one of {_fitting(range(1, 61), candidate_grids)}."
            )
        if self.top_k is None:
            if self.learned:
                raise ValueError("zoom.learned=true needs a selection, but zoom.top_k is null. Set zoom.top_k.")
            return
        if not self.medium:
            raise ValueError(
                f"zoom.top_k={self.top_k} ranks high crops under medium crops, but zoom.medium=false. "
                "Set zoom.medium=true or zoom.top_k=null."
            )
        if not 1 <= self.top_k * self.num_regions <= n:
            place = "the image" if self.regions == "image" else f"each of {m} medium crops"
            raise ValueError(
                f"zoom.top_k={self.top_k} for {place} needs {self.top_k * self.num_regions} of {n} high crops. "
                f"Use 1 to {n // self.num_regions}, or null to keep all."
            )
        if self.regions == "raster" and n % m:
            raise ValueError(
                f"zoom.regions=raster deals {n} high crops into {m} equal runs, which leaves {n % m} over. "
                "Use zoom.regions=spatial or a multiple."
            )

    @property
    def num_medium(self) -> int:
        return self.medium_crops if self.medium else 0

    @property
    def num_high(self) -> int:
        return self.high_crops if self.high else 0

    @property
    def num_crops(self) -> int:
        """Crops that go through the vision tower."""
        return int(self.low) + self.num_medium + self.num_high

    @property
    def num_high_kept(self) -> int:
        """High crops that the language model sees."""
        return self.num_high if self.top_k is None else min(self.num_high, self.top_k * self.num_regions)

    @property
    def num_regions(self) -> int:
        """Regions of which each keeps `top_k` high crops."""
        return 1 if self.regions == "image" else self.medium_crops

    @property
    def selects(self) -> bool:
        return self.num_high_kept < self.num_high

    def grids(self, width: int, height: int, crop_size: int) -> Grids:
        """The medium and the high grid for an image of `width` x `height` pixels."""
        medium = best_grid(width, height, crop_size, candidate_grids(self.medium_crops))
        if not self.high:
            return Grids(medium, medium)
        if self.high_grid == "medium":
            factor = isqrt(self.high_crops // self.medium_crops)
            return Grids(medium, Grid(medium.cols * factor, medium.rows * factor))
        return Grids(medium, best_grid(width, height, crop_size, candidate_grids(self.high_crops)))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Geometry of an image's tokens.

    Attributes:
        image_size: side of a crop, in pixels.
        patch_size: side of what one feature stands for, in pixels: a patch of the vision tower, or several.
        class_token: whether the tower puts a class token before its patches.
        zoom: which crops there are and which of them are kept.
    """

    image_size: int
    patch_size: int
    class_token: bool
    zoom: Zoom

    @classmethod
    def of_tower(cls, tower: Any, zoom: Zoom, feature_size: int | None = None) -> Layout:
        """The layout of what a tower of this config gives: CLIP's puts a class token first, SigLIP's has none.

        Args:
            tower: has `image_size`, `patch_size` and `model_type`, as transformers' vision configs do.
            zoom: what is looked at.
            feature_size: side in pixels of what one feature stands for; None for a patch of the tower.

        Raises:
            ValueError: `feature_size` is not a whole number, or is larger than a crop.
        """
        if feature_size is not None and (type(feature_size) is not int or not 0 < feature_size <= tower.image_size):
            raise ValueError(
                f"vision.tower.feature_size={feature_size!r}: give the side in whole pixels, at most "
                f"{tower.image_size}, of what a feature stands for, or leave it out for a patch."
            )
        return cls(
            image_size=tower.image_size,
            patch_size=feature_size or tower.patch_size,
            class_token="clip" in tower.model_type,
            zoom=zoom,
        )

    def __post_init__(self) -> None:
        if self.patches_per_side % self.zoom.pool:
            n = self.patches_per_side
            raise ValueError(
                f"zoom.pool={self.zoom.pool} does not divide {n} patches a side; some would be dropped. "
                f"Use one of {_fitting(range(1, n + 1), lambda p: n % p == 0)}."
            )

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def features_per_crop(self) -> int:
        """Features that the tower gives for one crop, the class token included."""
        return int(self.class_token) + self.patches_per_side**2

    @property
    def pooled_per_crop(self) -> int:
        """Features left of a medium or high crop after pooling, the class token included."""
        return int(self.class_token) + (self.patches_per_side // self.zoom.pool) ** 2

    @cached_property
    def slots_per_crop(self) -> tuple[int, ...]:
        """Features of each kept crop, in the order in which the language model sees them."""
        zoom = self.zoom
        return (self.features_per_crop,) * zoom.low + (self.pooled_per_crop,) * (zoom.num_medium + zoom.num_high_kept)

    @property
    def num_slots(self) -> int:
        """Image features that an image puts into the sequence."""
        return sum(self.slots_per_crop)

    @property
    def num_tokens(self) -> int:
        """Tokens that an image takes in the sequence: its slots and one newline a crop."""
        return self.num_slots + len(self.slots_per_crop)

    @property
    def tokens_by_level(self) -> dict[str, int]:
        """Those of them that each level takes."""
        zoom, pooled = self.zoom, self.pooled_per_crop + 1
        return {
            "low": (self.features_per_crop + 1) * zoom.low,
            "medium": pooled * zoom.num_medium,
            "high": pooled * zoom.num_high_kept,
        }

    def image_ids(self, image_id: int, newline_id: int) -> list[int]:
        """Token ids of one image: for each kept crop its slots, then a newline."""
        return [token for slots in self.slots_per_crop for token in [image_id] * slots + [newline_id]]

    def grids(self, width: int, height: int) -> Grids:
        """The medium and the high grid for an image of `width` x `height` pixels."""
        return self.zoom.grids(width, height, self.image_size)
