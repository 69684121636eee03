"""Zoom: regions, selection, scores, pooling."""

from __future__ import annotations

import itertools

import pytest
import torch

from dragonfly_lit.models.tiny import tiny_config, tiny_model
from dragonfly_lit.models.zoom import ZoomIn, crop_regions, pool_patches, select_crops
from dragonfly_lit.spec.layout import Zoom, candidate_grids


def overlap_by_area(medium, high):
    """The region of every high crop, by areas of rectangles in the unit square."""
    regions = []
    for row, col in itertools.product(range(high.rows), range(high.cols)):
        areas = []
        for m_row, m_col in itertools.product(range(medium.rows), range(medium.cols)):
            width = min((col + 1) / high.cols, (m_col + 1) / medium.cols) - max(col / high.cols, m_col / medium.cols)
            height = min((row + 1) / high.rows, (m_row + 1) / medium.rows) - max(row / high.rows, m_row / medium.rows)
            areas.append(round(max(width, 0) * max(height, 0), 9))
        regions.append(areas.index(max(areas)))
    return regions


@pytest.mark.parametrize("num_high", [8, 12, 18, 24, 30])
def test_spatial_regions_are_those_of_largest_overlap(num_high):
    zoom = Zoom(high_crops=num_high, top_k=1, regions="spatial")
    pairs = list(itertools.product(candidate_grids(4), candidate_grids(num_high)))
    grids = torch.tensor([[list(medium), list(high)] for medium, high in pairs])
    expected = [overlap_by_area(medium, high) for medium, high in pairs]
    assert crop_regions(zoom, len(pairs), grids).tolist() == expected


def test_raster_regions_are_equal_runs():
    assert crop_regions(Zoom(regions="raster"), 2, None).tolist() == [[i // 6 for i in range(24)]] * 2


def test_spatial_regions_without_grids_say_who_gives_them():
    with pytest.raises(ValueError, match="image_grids"):
        crop_regions(Zoom(regions="spatial"), 1, None)


def select_slowly(scores, regions, zoom):
    best_first = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept = [i for r in range(zoom.medium_crops) for i in [j for j in best_first if regions[j] == r][: zoom.top_k]]
    rest = [i for i in best_first if i not in kept]
    return sorted(kept + rest[: zoom.num_high_kept - len(kept)])


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_selection_gives_free_places_to_the_best_of_the_others(top_k):
    zoom = Zoom(high_crops=12, top_k=top_k)
    generator = torch.Generator().manual_seed(top_k)
    scores = torch.randint(0, 6, (200, 12), generator=generator).float()  # many ties
    regions = torch.randint(0, 4, (200, 12), generator=generator)  # many regions with too few crops
    expected = [select_slowly(s, r, zoom) for s, r in zip(scores.tolist(), regions.tolist(), strict=True)]
    assert select_crops(scores, regions, zoom).tolist() == expected


def parts(score="pooled", learned=False, pool=1, **fields):
    layout = tiny_config(zoom={"high_crops": 8, "top_k": 1, "score": score, "learned": learned, "pool": pool}).layout
    torch.manual_seed(0)
    zoom, project = ZoomIn(layout, 48).double(), torch.nn.Linear(32, 48).double()
    if zoom.query is not None:
        torch.nn.init.eye_(zoom.query.weight)
    medium, high = torch.randn(3, 4, 17, 32).double(), torch.randn(3, 8, 17, 32).double()
    return zoom, project, medium, high, crop_regions(Zoom(high_crops=8, top_k=1, regions="raster"), 3, None)


def test_pooled_score_is_the_product_of_the_means_of_projected_tokens():
    zoom, project, medium, high, regions = parts()
    released = torch.einsum("nhd,nmd->nhm", project(high).mean(2), project(medium).mean(2))
    expected = released.gather(2, regions[:, :, None])[:, :, 0]
    torch.testing.assert_close(zoom.scores(medium, high, regions, project), expected.float())


def test_where_all_crops_compete_they_are_held_against_the_whole_image():
    _, project, medium, high, _ = parts()
    everywhere = ZoomIn(tiny_config(zoom={"high_crops": 8, "top_k": 3, "regions": "image"}).layout, 48).double()
    regions = crop_regions(everywhere.layout.zoom, 3, None)
    scores = everywhere.scores(medium, high, regions, project)
    expected = torch.einsum("nhd,nd->nh", project(high).mean(2), project(medium).mean((1, 2)))
    torch.testing.assert_close(scores, expected.float())
    best = select_crops(scores, regions, everywhere.layout.zoom)
    assert torch.equal(best, scores.topk(3).indices.sort().values)


def test_max_score_is_that_of_the_best_token():
    zoom, project, medium, high, regions = parts("max")
    mean = project(medium).mean(2)
    expected = torch.stack(
        [torch.stack([(project(high[n, h]) @ mean[n, regions[n, h]]).max() for h in range(8)]) for n in range(3)]
    )
    torch.testing.assert_close(zoom.scores(medium, high, regions, project), expected.float())


def test_question_score_reads_the_question_and_falls_back_where_there_is_none():
    zoom, project, medium, high, regions = parts("question")
    asked = torch.randn(3, 48).double()
    scores = zoom.scores(medium, high, regions, project, (asked, torch.tensor([2, 0, 5])))
    by_question = torch.einsum("nhd,nd->nh", project(high).mean(2), asked).float()
    by_medium = parts()[0].scores(medium, high, regions, project)
    torch.testing.assert_close(scores[0], by_question[0])
    torch.testing.assert_close(scores[1], by_medium[1])


def test_question_score_without_a_question_mask_says_what_to_do():
    zoom, project, medium, high, regions = parts("question")
    with pytest.raises(ValueError, match="question_mask"):
        zoom.scores(medium, high, regions, project)


def test_pooling_before_projecting_is_exact():
    layout = parts(pool=2)[0].layout
    _, project, medium, _, _ = parts()
    before, after = project(pool_patches(medium, layout)), pool_patches(project(medium), layout)
    assert before.shape == (3, 4, 5, 48)
    assert (before - after).abs().max() < 1e-14


def test_a_learned_score_starts_as_the_free_one_and_trains_through_gates_of_one():
    zoom, project, medium, high, regions = parts(learned=True)
    free = parts()[0].scores(medium, high, regions, project)
    torch.testing.assert_close(zoom.scores(medium, high, regions, project), free)
    ranking = zoom(medium, high, project, torch.tensor([[[2, 2], [4, 2]]]).expand(3, 2, 2))
    assert torch.equal(ranking.gates, torch.ones_like(ranking.gates))
    (ranking.gates * torch.randn_like(ranking.gates)).sum().backward()
    assert zoom.query.weight.grad.abs().sum() > 0
    assert project.weight.grad is None


@pytest.mark.parametrize(
    ("fields", "num_crops", "num_kept"),
    [
        ({"high": False, "top_k": None}, 5, None),
        ({"low": False}, 12, 4),
        ({"medium": False, "top_k": None}, 9, None),
        ({"low": False, "medium": False, "top_k": None}, 8, None),
        ({"pool": 4, "top_k": None}, 13, None),
        ({"top_k": 2}, 13, None),
        ({"score": "max", "pool": 2}, 13, 4),
    ],
)
def test_every_choice_of_levels_gives_the_tokens_that_the_layout_says(fields, num_crops, num_kept):
    model = tiny_model(zoom=fields)
    pixels = torch.randint(0, 256, (2, num_crops, 3, 32, 32), dtype=torch.uint8)
    tokens, ranking = model.encode_images(pixels, torch.tensor([[[2, 2], [4, 2]], [[4, 1], [2, 4]]]))
    assert tokens.shape == (2, model.layout.num_slots, 48)
    assert (None if ranking is None else ranking.selected.shape[1]) == num_kept


def test_crops_of_another_zoom_are_refused(model):
    with pytest.raises(ValueError, match=r"4 crops an image, but the zoom looks at 13"):
        model.encode_images(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8))
