"""Image to crops: choose the grids, stretch to each, cut row by row; uint8 in, uint8 out.

The image is stretched to each grid without padding, by a bicubic filter with antialiasing that runs along one side
after the other and rounds to uint8 between. `pillow` is the released resize, bit for bit; `fast` is the same filter in
torch's uint8 kernel, at most 2 grey levels away.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pyarrow
import torch
from jaxtyping import UInt8
from PIL.Image import Image, Resampling
from torch import Tensor
from torch.nn import functional

from dragonfly_lit.spec.layout import Grid, Layout
from dragonfly_lit.spec.records import Crops

Resize = Literal["fast", "pillow"]
BAND_BYTES = 8 * 2**20
"""So much of a large image is copied at a time."""


def cut(image: Image, layout: Layout, resize: Resize = "fast") -> Crops:
    """Low, medium and high crops of an RGB image, in this order, each level row by row.

    Raises:
        ValueError: the image has no pixels or is not RGB, or `resize` is unknown.
    """
    if image.mode != "RGB" or not image.width or not image.height:
        raise ValueError(
            f"image of mode {image.mode} and {image.width}x{image.height} pixels: crops need RGB and at least a pixel."
        )
    if resize not in get_args(Resize):
        raise ValueError(f"resize={resize!r} is unknown. Use one of {', '.join(get_args(Resize))}.")
    grids = layout.grids(image.width, image.height)
    zoom, side = layout.zoom, layout.image_size
    levels = [Grid(1, 1)] * zoom.low + [grids.medium] * zoom.medium + [grids.high] * zoom.high
    source = _pixels(image) if resize == "fast" else image
    pixels = torch.empty(zoom.num_crops, 3, side, side, dtype=torch.uint8)
    start = 0
    for grid in levels:
        stretched = _stretch(source, (image.width, image.height), (grid.cols * side, grid.rows * side))
        _deal(stretched, pixels[start : start + grid.num_crops].view(grid.rows, grid.cols, 3, side, side))
        start += grid.num_crops
    return Crops(pixels=pixels, grids=grids)


def _pixels(image: Image) -> UInt8[Tensor, "height width 4"]:
    # Pillow holds RGB in four bytes a pixel. Left so, nothing is repacked, and torch's kernel is at its fastest.
    try:
        values = pyarrow.array(image).values  # the image's own memory, which is only read here
    except (TypeError, ValueError):  # Pillow before 11.2, or an image over 16 MB, which lies in several blocks
        return _copied(image)
    return torch.from_dlpack(values).view(image.height, image.width, 4)


def _copied(image: Image) -> UInt8[Tensor, "height width 4"]:
    """The same in memory of its own, band by band: at once it would be there three times."""
    pixels = np.empty((image.height, image.width, 4), np.uint8)
    rows = max(1, BAND_BYTES // (4 * image.width))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.frombuffer(band.tobytes("raw", "RGBX"), np.uint8).reshape(-1, image.width, 4)
    return torch.from_numpy(pixels)


def _stretch(source: Image | Tensor, size: tuple[int, int], target: tuple[int, int]) -> UInt8[Tensor, "height width 4"]:
    """`source` of `size` stretched to `target`, both (width, height)."""
    # The order of the two passes shows in the last bits, and Pillow changed it in version 13: from then on, and in
    # the released fixtures, the height goes first where it shrinks by over twice as many pixels as the width.
    height_first = size[1] - target[1] > 2 * max(0, size[0] - target[0])
    between = (size[0], target[1]) if height_first else (target[0], size[1])
    if isinstance(source, Image):
        return _pixels(source.resize(between, Resampling.BICUBIC).resize(target, Resampling.BICUBIC))
    # Unsqueezed before it is permuted: the other way round torch does not see that channels are last, which costs 5x.
    stretched = source[None].permute(0, 3, 1, 2)
    for width, height in (between, target) if height_first else (target,):
        stretched = functional.interpolate(stretched, size=(height, width), mode="bicubic", antialias=True)
    return stretched[0].permute(1, 2, 0)


def _deal(stretched: UInt8[Tensor, "height width 4"], crops: UInt8[Tensor, "rows cols 3 side side"]) -> None:
    """The pixels of a stretched image into its crops, a plane a colour."""
    # A pixel is read as one little-endian word: shifts and casts are vectorised, a copy of every fourth byte is not.
    # Crop by crop, so that the words are still in the cache when the second and the third colour are taken.
    side = crops.shape[-1]
    shifted = torch.empty(side, side, dtype=torch.int32)
    for row, strip in zip(crops, stretched.view(torch.int32).squeeze(-1).split(side), strict=True):
        for crop, words in zip(row, strip.split(side, dim=1), strict=True):
            crop[0] = words
            for colour, bits in ((1, 8), (2, 16)):
                crop[colour] = torch.bitwise_right_shift(words, bits, out=shifted)
