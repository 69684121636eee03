"""The zoom picture: crops tile the image, kept ones stay bright."""

from __future__ import annotations

import pytest
from PIL import Image

from dragonfly_lit.evaluation.zoom_picture import DIMMED, crop_boxes, draw_zoom
from dragonfly_lit.spec.layout import Grid, Grids

GRIDS = Grids(Grid(2, 2), Grid(4, 2))


@pytest.mark.parametrize("size", [(97, 41), (8, 8), (1000, 3)])
def test_crops_tile_the_image_without_gap_or_overlap(size):
    boxes = crop_boxes(GRIDS.high, size)
    assert sum((right - left) * (bottom - top) for left, top, right, bottom in boxes) == size[0] * size[1]
    assert boxes[0][:2] == (0, 0)
    assert boxes[-1][2:] == size


def test_kept_crops_are_bright_and_the_others_dimmed():
    picture = draw_zoom(Image.new("RGB", (400, 200), (200, 200, 200)), GRIDS, [0.5] * 8, [1, 6], side=400)
    centres = [
        ((left + right) // 2, (top + bottom) // 2) for left, top, right, bottom in crop_boxes(GRIDS.high, (400, 200))
    ]
    levels = [picture.getpixel(centre)[0] for centre in centres]
    assert levels == [200 if i in (1, 6) else round(200 * DIMMED) for i in range(8)]


def test_without_a_selection_nothing_is_dimmed():
    picture = draw_zoom(Image.new("L", (30, 90), 200), GRIDS, side=400)
    assert picture.getpixel((20, 20)) == (200, 200, 200)
