"""The rule whose kept places hold mixtures of crops at first."""

from __future__ import annotations

import pytest
import torch

from dragonfly_lit.models.find import Find
from dragonfly_lit.models.harden import Harden
from dragonfly_lit.models.tiny import tiny_config, tiny_model
from dragonfly_lit.models.zoom import crop_regions, select_crops, swap_shares
from dragonfly_lit.spec.layout import Zoom

HARDEN = {"_target_": "dragonfly_lit.models.harden.Harden", "explore": 0.0, "passes": 4}
FIND = {"_target_": "dragonfly_lit.models.find.Find", "explore": 0.0}
ZOOM = Zoom(high_crops=8, top_k=1, regions="raster")


@pytest.fixture
def places():
    """Kept crops, all crops, and what each weighs, with a graph to the scores."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 8, generator=generator, requires_grad=True)
    regions = crop_regions(ZOOM, 3, None)
    selected = select_crops(scores.detach(), regions, ZOOM)
    high = torch.randn(3, 8, 5, 48, generator=generator)
    kept = high[torch.arange(3)[:, None], selected].requires_grad_()
    return kept, high, swap_shares(scores, regions, selected), scores


def rule(cls, **keys):
    return cls(tiny_config(zoom={"high_crops": 8, "top_k": 1, "regions": "raster"}).layout, 48, **keys)


def test_places_go_from_the_mixture_to_the_crop_in_a_straight_line(places):
    kept, high, shares, _ = places
    harden = rule(Harden, passes=4)
    mixed = torch.einsum("nkh,nhtw->nktw", shares, high)
    for softness in (1.0, 0.75, 0.5, 0.25):
        torch.testing.assert_close(harden.held(kept, high, shares), (1 - softness) * kept + softness * mixed)
    for _ in range(2):
        assert torch.equal(harden.held(kept, high, shares), kept)


def test_gradients_are_those_of_find_however_soft_it_is(places):
    kept, high, shares, scores = places
    read = torch.randn(kept.shape, generator=torch.Generator().manual_seed(1))
    find, harden = (
        torch.autograd.grad((one.held(kept, high, shares) * read).sum(), (kept, scores), retain_graph=True)
        for one in (rule(Find), rule(Harden, passes=4))
    )
    for wanted, found in zip(find, harden, strict=True):
        torch.testing.assert_close(found, wanted)
        assert wanted.abs().sum() > 0


def test_training_moves_what_is_read_and_validation_does_not():
    generator = torch.Generator().manual_seed(0)
    soft, hard = (tiny_model(seed=1, zoom_selector=keys) for keys in (HARDEN, FIND))
    soft.load_state_dict(hard.state_dict(), strict=False)
    size = (2, soft.layout.zoom.num_crops, 3, 32, 32)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    grids = torch.tensor([[[2, 2], [4, 2]], [[4, 1], [2, 4]]])

    def tokens(model):
        return model.encode_images(pixels, grids, None)[0]

    with torch.no_grad():
        assert torch.equal(tokens(soft), tokens(hard))
        assert soft.zoom.passes_seen == 0
    soft.train()
    hard.train()
    assert not torch.allclose(tokens(soft), tokens(hard))
    for _ in range(3):
        tokens(soft)
    assert soft.zoom.passes_seen == 4
    assert torch.equal(tokens(soft), tokens(hard))


def test_the_number_of_passes_is_kept_with_the_weights(places, tmp_path):
    harden = rule(Harden, passes=4)
    harden.held(*places[:3])
    again = rule(Harden, passes=4)
    again.load_state_dict(harden.state_dict())
    assert again.softness == 0.75


def test_a_schedule_without_a_pass_is_refused():
    with pytest.raises(ValueError, match=r"zoom\.selector\.passes=0: give 1 or more"):
        rule(Harden, passes=0)
