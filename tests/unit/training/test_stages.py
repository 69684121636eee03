"""A stage freezes everything and thaws what it names; a mistake in a pattern is an error."""

import math

import pytest

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.optimizer import build_optimizer, check_same_groups, group_names, no_decay_names
from dragonfly_lit.training.sharding import checkpoint_activations
from dragonfly_lit.training.stages import Group, Stage, freeze, param_groups


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def stage(*groups, **fields):
    return Stage(name="1", steps=10, groups=groups, **fields)


def test_only_what_is_named_trains(model):
    freeze(model, stage(Group(match="projector.*", lr=1.0)))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"projector.weight", "projector.bias"}


def test_a_group_that_waits_is_not_frozen(model):
    freeze(model, stage(Group(match="projector.*", lr=1.0), Group(match="vision.*", lr=1.0, from_step=5)))
    assert all(p.requires_grad for p in model.vision.parameters())


def test_a_pattern_that_matches_nothing_names_the_parts(model):
    with pytest.raises(ValueError, match=r"match=projektor\.\* matches no weight.*projector\.\*.*language\.\*"):
        param_groups(model, [Group(match="projektor.*", lr=1.0)])


def test_an_optional_pattern_may_match_nothing(model):
    found = param_groups(model, [Group(match="projector.*", lr=1.0), Group(match="zoom.*", lr=1.0, optional=True)])
    assert [param_group.group.name for param_group in found] == ["projector.*"]


def test_optional_patterns_alone_train_nothing(model):
    with pytest.raises(ValueError, match="nothing would train"):
        param_groups(model, [Group(match="zoom.*", lr=1.0, optional=True)])


def test_a_weight_claimed_twice_names_both_patterns(model):
    with pytest.raises(ValueError, match=r"projector.weight is claimed by match=\* and by match=projector.\*"):
        param_groups(model, [Group(match="*", lr=1.0), Group(match="projector.*", lr=1.0)])


def test_a_group_may_have_several_patterns(model):
    (param_group,) = param_groups(model, [Group(match=["projector.*", "language.lm_head.*"], lr=1.0)])
    assert set(param_group.parameters) == {"projector.weight", "projector.bias", "language.lm_head.weight"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.0}, "lr=0.0 must be positive"),
        ({"lr": 1.0, "from_step": 5, "until_step": 5}, "until_step=5 does not come after from_step=5"),
    ],
)
def test_a_group_that_cannot_train_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Group(match="projector.*", **fields)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match=r"stage\.schedule=square is unknown. Use one of cosine, linear, constant"):
        stage(Group(match="*", lr=1.0), schedule="square")


def test_a_schedule_of_ones_own_gives_the_whole_factor():
    plan = stage(Group(match="*", lr=1.0), schedule=lambda step, steps: step / steps, warmup=5)
    assert [plan.lr_factor(step) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"stage\.schedule gives -1\.0 for step 3 of 10"):
        stage(Group(match="*", lr=1.0), schedule=lambda step, steps: -1.0).lr_factor(3)


@pytest.mark.parametrize("given", [None, "0.5", [1.0], math.nan])
@pytest.mark.usefixtures("unchecked")
def test_a_schedule_that_gives_no_number_is_refused_by_its_key(given):
    with pytest.raises(ValueError, match=r"stage\.schedule gives .* for step 0 of 10\. It must give a factor"):
        stage(Group(match="*", lr=1.0), schedule=lambda step, steps: given).lr_factor(0)


def test_wsd_without_a_decay_is_refused():
    with pytest.raises(ValueError, match=r"stage\.decay=0: .* Use stage\.schedule=constant"):
        stage(Group(match="*", lr=1.0), schedule="wsd", decay=0)


def test_a_freeze_schedule_is_a_pure_function_of_the_step():
    group = Group(match="*", lr=1.0, from_step=2, until_step=4)
    assert [group.moves(step) for step in range(6)] == [False, False, True, True, False, False]


def test_norms_biases_and_embeddings_are_not_decayed(model):
    no_decay = no_decay_names(model)
    assert "language.model.embed_tokens.weight" in no_decay
    assert "language.model.layers.0.input_layernorm.weight" in no_decay
    assert {"projector.bias", "vision.tower.embeddings.position_embedding.weight"} <= no_decay
    assert "projector.weight" not in no_decay
    assert "language.lm_head.weight" not in no_decay


def optimizer_of(model, *groups):
    plan = stage(*groups)
    return build_optimizer(freeze(model, plan), no_decay_names(model), plan)


def test_every_trained_weight_is_in_exactly_one_group(model):
    optimizer = optimizer_of(model, Group(match="*", lr=1.0))
    names = [name for group in group_names(optimizer).values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}


def test_optimizer_groups_are_compared_by_name_not_by_position(model):
    vision, projector = Group(match="vision.*", lr=1.0), Group(match="projector.*", lr=1.0)
    saved = group_names(optimizer_of(model, vision, projector))
    check_same_groups(saved, optimizer_of(model, projector, vision), "a checkpoint")


def test_an_optimizer_state_of_other_weights_is_refused(model):
    saved = group_names(optimizer_of(model, Group(match="projector.*", lr=1.0)))
    with pytest.raises(ValueError, match=r"projector.*has 1 weights there and 0 here.*use init_from="):
        check_same_groups(saved, optimizer_of(model, Group(match="vision.*", lr=1.0)), "a checkpoint")


def test_activation_checkpointing_changes_no_name_and_no_decay():
    wrapped = tiny_model()
    plain = group_names(optimizer_of(wrapped, Group(match="*", lr=1.0)))
    checkpoint_activations(wrapped, "full")
    assert group_names(optimizer_of(wrapped, Group(match="*", lr=1.0))) == plain
