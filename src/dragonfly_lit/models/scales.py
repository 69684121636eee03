"""A vision tower that reads a crop at several scales and lays their features behind one another, channel by channel."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.flops import vision_flops_per_crop
from dragonfly_lit.models.vision import VisionTower


class ScalesTower(VisionTower):
    """The built-in tower on a crop at several scales, as S2 does (arXiv 2403.13043): more pixels, and no more tokens.

    At scale s the crop is s times the side that the weights were trained at and is cut into s x s pieces, which the
    tower sees one by one; their patches are averaged to the grid of scale 1, and their class tokens to one. A feature
    holds what all scales have at its place, so it is as many times as wide. Crops have the pixels of the largest scale
    (`vision.image_size`), others are averaged down to theirs.

    Args:
        config: of the model; `vision_config.image_size` is the side at the largest scale.
        scales: from 1; each divides the largest.
        feature_size: side in pixels of what a feature stands for, a patch times the largest scale; the layout counts by
            it.
    """

    def __init__(self, config: DragonflyConfig, *, feature_size: int, scales: Sequence[int] = (1, 2, 4)) -> None:
        given, vision = list(scales), config.vision_config
        largest = max((s for s in given if type(s) is int), default=0)
        if not given or given[0] != 1 or any(type(s) is not int or s < 1 or largest % s for s in given):
            raise ValueError(f"vision.tower.scales={given}: give 1 first, then whole numbers that divide the largest.")
        if vision.image_size % (largest * vision.patch_size):
            raise ValueError(
                f"vision.image_size={vision.image_size} is not a whole number of patches of {vision.patch_size} pixels "
                f"at scale {largest} (vision.tower.scales). Use a multiple of {largest * vision.patch_size}."
            )
        if feature_size != largest * vision.patch_size:
            raise ValueError(
                f"vision.tower.feature_size={feature_size}: at scale {largest} a feature stands for "
                f"{largest * vision.patch_size} pixels. Set it to {largest * vision.patch_size}."
            )
        piece = copy.deepcopy(config)
        piece.vision_tower = None
        piece.vision_config.image_size = vision.image_size // largest
        super().__init__(piece)
        self.scales, self.width = tuple(given), len(given) * vision.hidden_size
        self._first = int(piece.layout.class_token)
        self._side = piece.layout.patches_per_side
        self._flops = sum(s * s for s in given) * vision_flops_per_crop(piece)
        self._crops_at_once = max(1, self._crops_at_once // (largest * largest))

    def num_flops(self) -> int:
        """Of all pieces at all scales."""
        return self._flops

    def _features(self, pixels: UInt8[Tensor, "crops 3 side side"]) -> Float[Tensor, "crops features width"]:
        whole = self.normalise(pixels)
        return torch.cat([self._at(whole, scale) for scale in self.scales], dim=-1)

    def _at(self, whole: Float[Tensor, "crops 3 side side"], scale: int) -> Float[Tensor, "crops features width"]:
        """Features of one scale on the grid of scale 1."""
        smaller = avg_pool2d(whole, max(self.scales) // scale)
        pieces = rearrange(smaller, "n c (r y) (q x) -> (n r q) c y x", r=scale, q=scale)
        seen = self.tower(pixel_values=pieces).last_hidden_state
        first = reduce(seen[:, : self._first], "(n p) k d -> n k d", "mean", p=scale * scale)
        grid = rearrange(
            seen[:, self._first :], "(n r q) (y x) d -> n d (r y) (q x)", r=scale, q=scale, y=self._side, x=self._side
        )
        return torch.cat([first, rearrange(avg_pool2d(grid, scale), "n d y x -> n (y x) d")], dim=1)
