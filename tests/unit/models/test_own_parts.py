"""A projector, a zoom rule and a tower that are not the built-in ones, and what each of them may rely on."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from dragonfly_lit.models.backbones import initialise
from dragonfly_lit.models.projector import MlpProjector, Projector
from dragonfly_lit.models.tiny import tiny_config, tiny_model
from dragonfly_lit.models.vision import Tower
from dragonfly_lit.models.zoom import ZoomRule, pool_patches

MLP = {"_target_": "dragonfly_lit.models.projector.MlpProjector", "hidden": 40}
HERE = __name__
"""This module is imported, so a config may name classes of it."""


class Corner(ZoomRule):
    """Keeps the crops that come last, by weights of its own."""

    def __init__(self, layout, width, start: float = 1.0) -> None:
        super().__init__(layout, width)
        self.weight = nn.Parameter(torch.full((1,), start))

    def scores(self, medium, high, regions, project, question=None):
        return torch.arange(high.shape[1], device=high.device).float().expand(len(high), -1) * self.weight


class Blocks(Tower):
    """Means over the pixels of every patch, and a scale; reads no pretrained weights."""

    def __init__(self, config, width: int = 6) -> None:
        super().__init__(config)
        self.width, self.side = width, config.layout.patches_per_side
        self.scale = nn.Linear(3, width)

    def forward(self, pixels):
        means = nn.functional.adaptive_avg_pool2d(self.normalise(pixels), self.side).flatten(2).transpose(1, 2)
        features = self.scale(means.to(self.dtype))
        return torch.cat([features.mean(1, keepdim=True), features], dim=1)


class Short(Blocks):
    """Forgets the class token."""

    def forward(self, pixels):
        return super().forward(pixels)[:, 1:]


class Doubled(Projector):
    """Affine, and says so."""

    affine = True

    def __init__(self, in_features, out_features) -> None:
        super().__init__(in_features, out_features)
        self.inner = nn.Linear(in_features, out_features)

    def forward(self, features, /):
        return 2 * self.inner(features.to(self.dtype))


ALL = {
    "projector": {"_target_": f"{HERE}.Doubled"},
    "zoom_selector": {"_target_": f"{HERE}.Corner", "start": 2.0},
    "vision_tower": {"_target_": f"{HERE}.Blocks", "width": 5},
}


def batch_for(make, model, seed=1):
    maker = type(make)(model)
    return maker.batch(maker.sequence(seed))


@pytest.mark.parametrize("parts", [{"projector": MLP}, ALL, *({key: node} for key, node in ALL.items())], ids=str)
def test_a_model_with_other_parts_comes_back_from_its_folder_to_the_bit(make, tmp_path, parts):
    model = tiny_model(seed=3, **parts)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    batch = batch_for(make, model)
    with torch.no_grad():
        ours, theirs = (m(**batch.model_inputs()) for m in (model, again))
    assert torch.equal(ours.logits, theirs.logits)
    assert type(again.projector) is type(model.projector)
    assert type(again.vision) is type(model.vision)


def test_a_folder_that_names_a_class_of_a_stranger_is_not_believed(tmp_path):
    tiny_model(projector=MLP).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    for target, said in (
        ("somebodys_module.Projector", "not imported because a file says so"),
        ("torch.nn.Linear", "not a subclass of dragonfly_lit.models.projector.Projector"),
        ("os.system", "not imported because a file says so"),
    ):
        file.write_text(json.dumps(fields | {"projector": {"_target_": target, "command": "touch x"}}))
        with pytest.raises(ValueError, match=said) as error:
            AutoModelForImageTextToText.from_pretrained(tmp_path)
        assert f"config.json: projector: {target}" in str(error.value)


def test_the_built_in_parts_leave_no_trace_in_the_config():
    named = {
        "projector": {"_target_": "dragonfly_lit.models.projector.LinearProjector"},
        "zoom_selector": {"_target_": "dragonfly_lit.models.zoom.ZoomIn"},
        "vision_tower": {"_target_": "dragonfly_lit.models.vision.VisionTower"},
    }
    assert tiny_config(**named).to_json_string() == tiny_config().to_json_string()
    assert not set(named) & set(json.loads(tiny_config().to_json_string()))


@pytest.mark.parametrize("zoom", [{}, {"score": "max"}, {"pool": 2}, {"top_k": None, "pool": 2}], ids=str)
def test_before_a_projector_that_is_not_affine_no_mean_is_taken(make, zoom):
    """By hand: every feature is projected, then pooled, then compared."""
    model = tiny_model(seed=1, zoom=zoom, projector=MLP)
    batch = batch_for(make, model)
    layout, rule = model.layout, model.zoom
    with torch.no_grad():
        tokens, ranking = model.encode_images(batch.pixel_values, batch.image_grids)
        projected = model.projector(model.vision(batch.pixel_values[0]))[None]
        low, medium, high = projected.tensor_split((1, 5), dim=1)
        medium, high = pool_patches(medium, layout), pool_patches(high, layout)
        if ranking is not None:
            compared = rule.scores(medium, high, ranking.regions, nn.Identity())
            torch.testing.assert_close(ranking.scores, compared)
            high = high[:, ranking.selected[0]]
    torch.testing.assert_close(tokens, torch.cat([part.flatten(1, 2) for part in (low, medium, high)], dim=1))


def test_an_affine_projector_of_ones_own_takes_means_first_and_gives_the_same_tokens(make):
    model = tiny_model(seed=1, zoom={"pool": 2}, projector=ALL["projector"])
    batch = batch_for(make, model)
    seen = []
    model.projector.register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape[-2]))
    with torch.no_grad():
        tokens, ranking = model.encode_images(batch.pixel_values, batch.image_grids)
        model.projector.affine = False
        slowly, also = model.encode_images(batch.pixel_values, batch.image_grids)
    assert max(seen[:3]) == model.layout.num_slots
    assert torch.equal(ranking.selected, also.selected)
    torch.testing.assert_close(tokens, slowly)


def test_a_rule_of_ones_own_chooses_and_its_weights_train(make):
    model = tiny_model(zoom_selector=ALL["zoom_selector"]).train()
    batch = batch_for(make, model)
    output = model(**batch.model_inputs(), labels=batch.labels)
    by_region = model.zoom(torch.zeros(1, 4, 17, 32), torch.zeros(1, 8, 17, 32), model.projector, batch.image_grids)
    assert torch.equal(output.selected_crops, by_region.selected)
    assert model.layout.zoom.num_high - 1 in output.selected_crops[0]
    output.loss.backward()
    assert model.zoom.weight.grad.abs() > 0


def test_a_rule_where_every_crop_is_kept_is_refused():
    with pytest.raises(ValueError, match=r"zoom\.selector=.*Corner ranks high crops, but this zoom keeps all"):
        tiny_model(zoom={"top_k": None}, zoom_selector=ALL["zoom_selector"])


def test_a_tower_that_gives_another_number_of_features_is_told_both_numbers(make):
    model = tiny_model(vision_tower={"_target_": f"{HERE}.Short"})
    batch = batch_for(make, model)
    with pytest.raises(ValueError, match=r"^vision\.tower: Short gives a tensor of \(13, 16, 6\), .* of \(13, 17, 6\)"):
        model(**batch.model_inputs())


class Wide(Projector):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.layer = nn.Linear(in_features, out_features + 3)

    def forward(self, features):
        return self.layer(features)


class Forgetful(Wide):
    def forward(self, features):
        self.layer(features)


class Bare(Projector):
    pass


class Unprepared(Projector):
    def __init__(self, in_features, out_features):
        self.layer = nn.Linear(in_features, out_features)


class OneScore(ZoomRule):
    def score_views(self, views):  # of `scores` the type checks of the tests would tell first
        return views.high.mean()


class TwoArguments(ZoomRule):
    def scores(self, medium, high):
        return high.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("projector", "Wide", r"projector: Wide gives a tensor of \(.*, 51\), but must give one of \(.*, 48\): "),
        ("projector", "Forgetful", "projector: Forgetful gives a NoneType, but must give one of "),
        ("projector", "Bare", r"projector: .*\.Bare has no forward\(features\)\. Give it one"),
        ("projector", "Unprepared", r"projector: .*\.Unprepared cannot be built from no keys: .*__init__\(\) call"),
        (
            "zoom_selector",
            "OneScore",
            r"zoom\.selector: OneScore gives a tensor of \(\), but must .* \(1, 8\): ",
        ),
        (
            "zoom_selector",
            "TwoArguments",
            r"zoom\.selector: .*TwoArguments\.scores is called as scores\(medium, ",
        ),
    ],
)
def test_a_part_that_gives_or_takes_something_else_is_one_line_with_its_key(make, key, name, said):
    def use():
        model = tiny_model(**{key: {"_target_": f"{HERE}.{name}"}})
        model(**batch_for(make, model).model_inputs())

    with pytest.raises(ValueError, match=f"^{said}") as error:
        use()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"_target_": f"{HERE}.Doubled", "hiden": 3}, r"^projector: .*Doubled cannot be built from hiden=3: "),
        ({"hidden": 3}, r"^projector=\{'hidden': 3\} does not name a class"),
        ({"_target_": f"{HERE}.Tripled"}, "has no class Tripled"),
    ],
)
def test_a_node_that_cannot_be_built_is_one_line_with_its_key(node, said):
    with pytest.raises(ValueError, match=said) as error:
        tiny_model(projector=node)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ALL)
def test_fresh_parts_depend_on_the_seed_alone(key):
    part = {"projector": "projector", "zoom_selector": "zoom", "vision_tower": "vision"}[key]
    models = [tiny_model(seed=seed, **{key: ALL[key]}) for seed in (0, 1, 2)]
    for model, seed in zip(models, (4, 4, 5), strict=True):
        initialise(model, seed)
    one, same, other = (getattr(model, part).state_dict() for model in models)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert key == "zoom_selector" or not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("key", ALL)
def test_the_released_layout_refuses_other_parts_by_name(tmp_path, key):
    model = tiny_model(zoom={"high_crops": 24, "top_k": 3, "regions": "raster"}, **{key: ALL[key]})
    with pytest.raises(ValueError, match=rf"does not know {key}={ALL[key]['_target_']}.*--layout transformers"):
        model.save_released(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_width_between_the_layers_is_that_of_the_language_model_unless_given():
    assert MlpProjector(8, 12).first.out_features == 12
    assert MlpProjector(8, 12, hidden=5).second.in_features == 5
