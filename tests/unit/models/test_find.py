"""The zoom rule that is taught by what dropped crops would have changed."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForImageTextToText

from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.find import Find, place_waves
from dragonfly_lit.models.tiny import tiny_config, tiny_model
from dragonfly_lit.models.zoom import crop_regions, select_crops, swap_gradient, swap_shares
from dragonfly_lit.spec.layout import Zoom

FIND = {"_target_": "dragonfly_lit.models.find.Find", "explore": 0.0}
ZOOMS = (
    {},
    {"score": "question"},
    {"top_k": 1, "pool": 4},
    {"regions": "image", "top_k": 3},
    {"regions": "image", "top_k": 2, "pool": 2},
)
GRIDS = torch.tensor([[[2, 2], [4, 2]], [[4, 1], [2, 4]]])


def ranked(model):
    ranking = model.encode_images(*images(model))[1]
    assert ranking is not None
    return ranking


def images(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (2, model.layout.zoom.num_crops, 3, 32, 32)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    asked = (torch.randn(2, 48, generator=generator), torch.tensor([3, 0]))
    return pixels, GRIDS, asked if model.layout.zoom.score == "question" else None


@pytest.mark.parametrize("fields", ZOOMS, ids=str)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("projector", [None, {"_target_": "dragonfly_lit.models.projector.MlpProjector", "hidden": 40}])
def test_training_reads_to_the_bit_what_inference_reads_and_every_weight_of_the_rule_learns(fields, frozen, projector):
    model = tiny_model(zoom=fields, zoom_selector=FIND, projector=projector)
    model.vision.requires_grad_(not frozen)
    with torch.no_grad():
        without, chosen = model.encode_images(*images(model))
    tokens, ranking = model.train().encode_images(*images(model))
    assert ranking is not None
    assert chosen is not None
    assert tokens.shape[1] == model.layout.num_slots
    assert torch.equal(ranking.selected, chosen.selected)
    torch.testing.assert_close(tokens, without)
    (tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, weight in model.zoom.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_the_gradient_of_a_dropped_crop_is_what_a_swap_would_change_to_first_order():
    generator = torch.Generator().manual_seed(0)
    zoom = Zoom(high_crops=8, top_k=1, regions="raster")
    scores = torch.randn(3, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    regions = crop_regions(zoom, 3, None)
    selected = select_crops(scores.detach(), regions, zoom)
    high = torch.randn(3, 8, 5, 6, generator=generator, dtype=torch.float64)
    kept = high[torch.arange(3)[:, None], selected]
    shares = swap_shares(scores, regions, selected)
    read = torch.randn(kept.shape, generator=generator, dtype=torch.float64)
    out = swap_gradient(kept, high, shares)
    assert torch.equal(out, kept)
    # Linear in what is read, so that the first order is all of it.
    heard_of, to_scores = torch.autograd.grad((out * read).sum(), (shares, scores))
    for image in range(3):
        for place, crop in enumerate(selected[image].tolist()):
            for other in range(8):
                change = ((high[image, other] - high[image, crop]) * read[image, place]).sum()
                heard = heard_of[image, place, other] - heard_of[image, place, crop]
                torch.testing.assert_close(heard, change)
    assert (to_scores != 0).all()


@pytest.mark.parametrize("regions", ["raster", "image"])
def test_scores_that_part_from_each_other_leave_the_selection_itself(regions):
    zoom = Zoom(high_crops=12, top_k=3, regions=regions)
    scores = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    under = crop_regions(zoom, 20, None)
    selected = select_crops(scores, under, zoom)
    shares = swap_shares(scores, under, selected)
    torch.testing.assert_close(shares.sum(-1), torch.ones(20, selected.shape[1]))
    weighed = shares > 0
    dropped = torch.ones(20, 12, dtype=torch.bool).scatter(1, selected, False)
    same = under.gather(1, selected)[:, :, None] == under[:, None, :]
    own = torch.nn.functional.one_hot(selected, 12).bool()
    assert torch.equal(weighed, own | (same & dropped[:, None, :]))
    hard = swap_shares(scores * 1e6, under, selected)
    assert torch.equal(hard, own.float())


def test_it_explores_in_training_alone():
    model = tiny_model(zoom={"regions": "image", "top_k": 2}, zoom_selector=FIND | {"explore": 1.0})
    with torch.no_grad():
        looks = [ranked(model).scores for _ in range(2)]
        torch.manual_seed(0)
        model.train()
        noisy = [ranked(model) for _ in range(20)]
    assert torch.equal(*looks)
    assert len({tuple(ranking.selected[0].tolist()) for ranking in noisy}) > 5


def test_a_rule_that_is_frozen_or_told_so_explores_no_more_and_its_copies_neither():
    model = tiny_model(zoom={"regions": "image", "top_k": 2}, zoom_selector=FIND | {"explore": 1.0})
    with torch.no_grad():
        wanted = ranked(model.eval()).scores
        model.zoom.requires_grad_(False)
        assert torch.equal(ranked(model.train()).scores, wanted)
        model.zoom.requires_grad_(True)
        assert not torch.equal(ranked(model.train()).scores, wanted)
        model.zoom.explores = False
        assert torch.equal(ranked(copy.deepcopy(model).train()).scores, wanted)


def test_it_learns_to_keep_the_crop_that_lowers_the_loss():
    layout = tiny_config(zoom={"high_crops": 8, "top_k": 1, "regions": "image"}).layout
    torch.manual_seed(0)
    rule = Find(layout, 48, places=False)
    needle, medium = torch.randn(48), torch.zeros(32, 4, 17, 48)
    optimizer = torch.optim.Adam(rule.parameters(), lr=3e-3)

    def draw():
        high, where = torch.randn(32, 8, 17, 48), torch.randint(8, (32,))
        high[torch.arange(32), where, 5] += 2 * needle
        return high, where

    for _ in range(60):
        high, _ = draw()
        ranking = rule(medium, high, torch.nn.Identity())
        kept = high[torch.arange(32)[:, None], ranking.selected]
        assert ranking.shares is not None
        read = swap_gradient(kept, high, ranking.shares)
        loss = -(read @ needle).amax(-1).mean()  # who keeps the needle reads it
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    high, where = draw()
    found = rule.eval()(medium, high, torch.nn.Identity()).selected[:, 0] == where
    assert found.float().mean() > 0.9


def test_a_model_that_finds_comes_back_from_its_folder_to_the_bit(tmp_path):
    model = tiny_model(zoom={"regions": "image", "top_k": 3, "score": "question"}, zoom_selector=FIND)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, DragonflyForConditionalGeneration)
    with torch.no_grad():
        ours, theirs = (m.encode_images(*images(model))[0] for m in (model, again))
        assert torch.equal(ranked(model).scores, ranked(again).scores)
    assert isinstance(again.zoom, Find)
    assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="does not know zoom_selector"):
        model.save_released(tmp_path / "released")


def test_what_is_not_given_is_asked_for():
    model = tiny_model(zoom={"regions": "image", "top_k": 3}, zoom_selector=FIND)
    with pytest.raises(ValueError, match=r"image_grids.*places: false"):
        model.encode_images(images(model)[0])
    asks = tiny_model(zoom={"score": "question"}, zoom_selector=FIND)
    with pytest.raises(ValueError, match="question_mask"):
        asks.encode_images(*images(asks)[:2])


def test_places_are_those_of_the_grid():
    waves = place_waves(torch.tensor([[3, 2], [2, 3]]), 6)
    assert waves.shape == (2, 6, 12)
    assert torch.equal(waves[0, 1, :6], waves[0, 4, :6])  # the same column
    assert not torch.equal(waves[0, 1], waves[0, 4])
    assert len({tuple(wave.tolist()) for wave in waves[1]}) == 6
