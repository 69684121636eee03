"""Images to crops."""

from __future__ import annotations

import numpy as np
import PIL
import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dragonfly_lit.processing.crops import _pixels, cut
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.released import LAYOUTS

RELEASED_MEDIUM = [(2, 2), (1, 4), (4, 1)]
RELEASED_HIGH = [(6, 4), (4, 6), (3, 8), (8, 3), (2, 12), (12, 2)]


def released_choice(width: int, height: int, side: int, candidates: list[tuple[int, int]]) -> tuple[int, int]:
    """The rule as it is worded: the largest effective resolution, then the least waste, then the first."""
    best, best_effective, least_waste = None, -1, float("inf")
    for cols, rows in candidates:
        target_width, target_height = cols * side, rows * side
        scale = min(target_width / width, target_height / height)
        scaled_width, scaled_height = int(width * scale), int(height * scale)
        effective = min(scaled_width * scaled_height, width * height)
        waste = target_width * target_height - effective
        if effective > best_effective or (effective == best_effective and waste < least_waste):
            best, best_effective, least_waste = (cols, rows), effective, waste
    assert best
    return best


sides = st.one_of(st.integers(1, 40), st.integers(1, 400), st.integers(1, 12000))


@settings(max_examples=400, deadline=None)
@given(width=sides, height=sides)
def test_grids_are_the_released_choice_at_every_size(width, height):
    v1 = LAYOUTS["v1"].grids(width, height)
    assert v1.medium == released_choice(width, height, 224, RELEASED_MEDIUM)
    assert v1.high == released_choice(width, height, 224, RELEASED_HIGH)
    v2 = LAYOUTS["v2"].grids(width, height)
    assert v2.medium == released_choice(width, height, 336, RELEASED_MEDIUM)
    assert v2.high == (v2.medium.cols * 3, v2.medium.rows * 3)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), seed=st.integers(0, 9))
def test_fast_is_within_two_grey_levels_of_pillow(small, picture, width, height, seed):
    image = picture(width, height, seed)
    fast, pillow = cut(image, small, "fast"), cut(image, small, "pillow")
    assert (fast.pixels.int() - pillow.pixels.int()).abs().max() <= 2


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="older Pillow always stretches the width first")
@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_pillow_is_one_resize_a_grid_cut_row_by_row(small, picture, width, height):
    image = picture(width, height)
    crops = cut(image, small, "pillow")
    side, grids = small.image_size, crops.grids
    expected = []
    for cols, rows in ((1, 1), grids.medium, grids.high):
        stretched = image.resize((cols * side, rows * side))
        for row in range(rows):
            for col in range(cols):
                box = (col * side, row * side, (col + 1) * side, (row + 1) * side)
                data = bytearray(stretched.crop(box).tobytes())
                expected.append(torch.frombuffer(data, dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1))
    assert torch.equal(crops.pixels, torch.stack(expected))


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (1, 1), (16, 16)])
@pytest.mark.parametrize("resize", ["fast", "pillow"])
def test_every_shape_of_image_gives_the_same_number_of_crops(small, picture, width, height, resize):
    assert cut(picture(width, height), small, resize).pixels.shape == (21, 3, 16, 16)


@pytest.mark.parametrize("off", ["low", "medium", "high"])
def test_a_level_that_is_off_has_no_crops(picture, off):
    zoom = Zoom(high_crops=16, top_k=None, **{off: False})
    whole = Layout(image_size=16, patch_size=8, class_token=True, zoom=Zoom(high_crops=16, top_k=None))
    image, sizes = picture(60, 40), {"low": slice(0, 1), "medium": slice(1, 5), "high": slice(5, 21)}
    every = cut(image, whole).pixels
    kept = torch.cat([every[part] for name, part in sizes.items() if name != off])
    layout = Layout(image_size=16, patch_size=8, class_token=True, zoom=zoom)
    assert torch.equal(cut(image, layout).pixels, kept)


def test_an_image_without_pixels_is_named(small):
    with pytest.raises(ValueError, match="0x0"):
        cut(Image.new("RGB", (0, 0)), small)


def test_an_image_that_is_not_rgb_is_named(small):
    with pytest.raises(ValueError, match="mode L"):
        cut(Image.new("L", (4, 4)), small)


def test_an_image_in_several_blocks_of_memory_is_cut_like_one_in_a_single_block(small, picture):
    whole = picture(90, 70)
    usual = Image.core.get_block_size()
    Image.core.set_block_size(4096)  # Pillow's smallest, so that an image need not have over 16 MB
    try:
        blocks = whole.copy()
    finally:
        Image.core.set_block_size(usual)
    with pytest.raises((TypeError, ValueError)):
        pyarrow.array(blocks)
    assert torch.equal(cut(blocks, small).pixels, cut(whole, small).pixels)


def test_an_image_in_several_blocks_of_memory_is_copied_pixel_for_pixel():
    noise = np.random.default_rng(0).integers(0, 256, (1700, 3001, 3), np.uint8)
    assert (_pixels(Image.fromarray(noise))[..., :3].numpy() == noise).all()
