"""The numbers of the released versions, and the checks of every zoom knob."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_lit.spec.layout import Grid, Layout, Zoom, candidate_grids
from dragonfly_lit.spec.tokens import IGNORE

V1 = Layout(image_size=224, patch_size=32, class_token=True, zoom=Zoom(regions="raster"))
V2 = Layout(
    image_size=336,
    patch_size=14,
    class_token=True,
    zoom=Zoom(high_crops=36, high_grid="medium", top_k=None, pool=4),
)


def test_released_versions_take_867_and_2098_tokens():
    assert (V1.zoom.num_crops, V1.num_tokens) == (29, 867)
    assert (V2.zoom.num_crops, V2.num_tokens) == (41, 577 + 1 + 40 * 38)


def test_each_kept_crop_ends_in_a_newline():
    ids = V1.image_ids(7, 8)
    assert len(ids) == V1.num_tokens
    assert ids[:51] == [7] * 50 + [8]
    assert ids.count(8) == 17
    assert ids.count(7) == V1.num_slots


def test_candidate_grids_are_the_released_ones():
    assert set(candidate_grids(4)) == {(2, 2), (1, 4), (4, 1)}
    assert set(candidate_grids(24)) == {(6, 4), (4, 6), (3, 8), (8, 3), (2, 12), (12, 2)}
    assert candidate_grids(4)[0] == (2, 2)
    assert candidate_grids(24)[0] == (6, 4)


@pytest.mark.parametrize(
    ("size", "medium", "high"),
    [((640, 480), (2, 2), (6, 6)), ((1200, 300), (4, 1), (12, 3)), ((300, 1200), (1, 4), (3, 12))],
)
def test_v2_refines_the_medium_grid(size, medium, high):
    assert V2.grids(*size) == (Grid(*medium), Grid(*high))


def test_levels_switch_off_one_by_one():
    low = Layout(image_size=32, patch_size=8, class_token=True, zoom=Zoom(medium=False, high=False))
    assert (low.zoom.num_crops, low.num_tokens) == (1, 18)
    two = Layout(image_size=32, patch_size=8, class_token=True, zoom=Zoom(high=False))
    assert (two.zoom.num_crops, two.num_tokens) == (5, 5 * 18)


@given(
    levels=st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any),
    class_token=st.booleans(),
    pool=st.sampled_from([1, 2, 4]),
    top_k=st.none() | st.integers(1, 6),
)
def test_the_levels_have_the_tokens_of_an_image_together(levels, class_token, pool, top_k):
    low, medium, high = levels
    zoom = Zoom(low=low, medium=medium, high=high, pool=pool, top_k=top_k if medium and high else None)
    layout = Layout(image_size=32, patch_size=8, class_token=class_token, zoom=zoom)
    assert sum(layout.tokens_by_level.values()) == layout.num_tokens
    assert {level for level, tokens in layout.tokens_by_level.items() if tokens} == {
        level for level, seen in zip(("low", "medium", "high"), levels, strict=True) if seen
    }


def test_without_a_class_token_only_patches_count():
    siglip = Layout(image_size=32, patch_size=8, class_token=False, zoom=Zoom(top_k=None, pool=2))
    assert siglip.slots_per_crop == (16,) + (4,) * 28


@pytest.mark.parametrize(
    ("knobs", "key", "way_out"),
    [
        ({"top_k": 7}, "zoom.top_k=7", "1 to 6"),
        ({"top_k": 25, "regions": "image"}, "zoom.top_k=25 for the image", "1 to 24"),
        ({"top_k": 0}, "zoom.top_k=0", "1 to 6"),
        ({"high_crops": 23}, "zoom.high_crops=23", "24"),
        ({"medium_crops": 7}, "zoom.medium_crops=7", "4"),
        ({"high_grid": "medium"}, "zoom.high_crops=24", "4, 16, 36"),
        ({"regions": "rows"}, "zoom.regions=rows", "raster, spatial, image"),
        ({"score": "best"}, "zoom.score=best", "pooled, max, question"),
        ({"medium": False}, "zoom.medium=false", "zoom.top_k=null"),
        ({"low": False, "medium": False, "high": False}, "zoom.low", "true"),
        ({"learned": True, "top_k": None}, "zoom.learned=true", "zoom.top_k"),
        ({"regions": "raster", "high_crops": 30}, "zoom.regions=raster", "spatial"),
    ],
)
def test_a_zoom_that_does_not_fit_names_key_value_and_way_out(knobs, key, way_out):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked below, both halves of it
        Zoom(**knobs)
    assert key in str(error.value)
    assert way_out in str(error.value)


def test_a_pool_that_drops_patches_is_refused_with_the_ones_that_fit():
    with pytest.raises(ValueError, match=r"zoom.pool=5 does not divide 24 .* Use one of 1, 2, 3, 4, 6, 8, 12, 24"):
        Layout(image_size=336, patch_size=14, class_token=True, zoom=Zoom(pool=5))


def test_the_ignored_label_is_the_one_torch_ignores():
    assert IGNORE == -100
