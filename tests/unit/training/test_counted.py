"""What a tower of the user's own costs and keeps is counted from the tower, not taken from the built-in one."""

import pytest
import torch
from torch import nn

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.plan import show
from dragonfly_lit.app.planning import Machine, plan
from dragonfly_lit.models.flops import knows_tower, vision_flops_per_crop
from dragonfly_lit.models.tiny import tiny_config, tiny_model
from dragonfly_lit.models.vision import Tower, VisionTower
from dragonfly_lit.training.costs import tower_bytes
from dragonfly_lit.training.counted import kept_of_tower

WIDE = 640


class Plain(VisionTower):
    """The built-in one under another name."""


class Deep(Tower):
    """Blocks of matrices alone, whose products and activations can be counted by hand."""

    def __init__(self, config, count=3):
        super().__init__(config)
        self.features, self.width = config.layout.features_per_crop, WIDE
        self.first = nn.Linear(3, WIDE)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDE, WIDE), nn.Sigmoid()) for _ in range(count))

    def forward(self, pixels):
        features = self.first(self.normalise(pixels).flatten(2).mean(-1))[:, None].expand(-1, self.features, -1)
        for layer in self.layers:
            features = layer(features)
        return features


class Looks(Deep):
    """Asks for the value of a weight."""

    def forward(self, pixels):
        return super().forward(pixels) * self.first.weight.flatten()[0].item()


def tower(part, **keys):
    return {"_target_": f"{__name__}.{part.__name__}", **keys}


def test_a_tower_that_is_the_built_in_one_costs_what_that_costs():
    builtin, own = tiny_config(), tiny_config(vision_tower=tower(Plain))
    assert vision_flops_per_crop(own) == vision_flops_per_crop(builtin)
    layers = builtin.layout.features_per_crop * builtin.num_vision_layers_used
    for kind, half in (("float32", False), ("bfloat16", True)):
        kept = kept_of_tower(own, half=half)
        assert kept is not None
        assert kept.in_blocks == pytest.approx(layers * tower_bytes(builtin, kind), rel=0.2)
        assert kept.under("none") > kept.under("full") > kept.under("offload") >= kept.largest


def test_products_and_activations_are_those_of_the_tower():
    config = tiny_config(vision_tower=tower(Deep, count=5))
    features = config.layout.features_per_crop
    assert vision_flops_per_crop(config) == 2 * (3 * WIDE + 5 * features * WIDE**2)
    kept = kept_of_tower(config, half=False)
    assert kept is not None
    place = 4 * features * WIDE
    # Of every block what its sigmoid gives, which is what the next block's matrix takes and is there once.
    assert kept.inputs == 4 * WIDE + 4 * place
    assert kept.in_blocks == pytest.approx(5 * place, rel=0.05)
    assert kept.largest == pytest.approx(place, rel=0.15)
    assert kept.under("none") == kept.under("full") > kept.under("offload") > kept.largest  # inputs are all there is


def test_a_model_with_numbers_is_what_it_was_before_they_were_counted():
    model = tiny_model(vision_tower=tower(Plain))
    crops = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    before = model.vision(crops)
    assert kept_of_tower(model.config, half=True) is not None
    assert vision_flops_per_crop(model.config)
    assert torch.equal(model.vision(crops), before)


H100 = Machine(gpu="H100", memory=80e9, peak=989e12, mfu=0.5, node=450e9, network=50e9)


def planned(**keys):
    config = compose(["stage=2", "trainer.precision=bf16"])
    config["vision"]["tower"] = keys or None
    return plan(config, H100)


def test_a_plan_holds_what_the_tower_keeps():
    builtin, few, many = planned(), planned(**tower(Deep, count=1)), planned(**tower(Deep, count=9))
    assert many.memory.tower > 4 * few.memory.tower > 0
    assert many.memory.tower != builtin.memory.tower
    assert many.flops > few.flops
    assert [found.unknown for found in (builtin, few, many)] == [None] * 3


def test_a_tower_that_cannot_be_counted_is_named():
    builtin, found = planned(), planned(**tower(Looks))
    assert found.memory.tower == builtin.memory.tower
    assert found.unknown == f"{__name__}.Looks"
    assert not knows_tower(tiny_config(vision_tower=tower(Looks)))
    text = show(found, H100, [])
    assert f"{__name__}.Looks cannot be run without numbers" in text
    assert "cannot be run" not in show(builtin, H100, [])
