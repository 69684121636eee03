"""The zoom rule that finds, in training: its noise is part of the state, and ranks agree."""

import pytest
from training_job import ALL, PROJECTOR, largest_difference, run, run_ranks

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.checkpoint.locate import load_weights, step_folder
from dragonfly_lit.training.stages import Group

FIND = "dragonfly_lit.models.find.Find"
RULE = {"_target_": FIND}
GROUPS = (*ALL, Group(match="zoom.*", lr=1e-3))


def test_resume_equals_never_stopping_noise_included(tmp_path):
    job = {"groups": GROUPS, "steps": 5, "model": {"zoom_selector": RULE}}
    whole = run(tmp_path / "whole", every=1, save={"keep_last": 99}, **job)
    resumed = run(tmp_path / "resumed", resume=step_folder(tmp_path / "whole", 3), **job)
    assert largest_difference(whole, resumed) == 0.0
    assert resumed["losses"] == whole["losses"][3:]


def test_two_ranks_equal_one_where_one_of_them_has_no_image(tmp_path):
    still = {"zoom_selector": {"_target_": FIND, "explore": 0.0}}
    job = {"groups": GROUPS, "steps": 4, "rows": 1, "num_batches": 18, "model": still}
    one = run(tmp_path / "one", accumulate=2, **job)
    two = run_ranks(2, tmp_path, {name: {"strategy": name, **job} for name in ("ddp", "fsdp")})
    for name, ranks in two.items():
        assert ranks["losses"] == pytest.approx(one["losses"], rel=1e-6), name
        assert largest_difference(one, ranks) < 2e-6, name


def test_a_rule_that_begins_afresh_must_train(tmp_path):
    run(tmp_path / "one", groups=PROJECTOR, steps=1, num_batches=1, stage_name="1")
    with pytest.raises(ValueError, match=r"^init_from=.*one has no zoom rule .*leave zoom\.\S+ as it was drawn.*Match"):
        run(tmp_path / "two", groups=PROJECTOR, steps=1, init_from=tmp_path / "one", model={"zoom_selector": RULE})


def test_a_checkpoint_of_what_trained_has_a_rule_that_began_afresh_and_misses_one_that_nobody_holds(tmp_path):
    run(tmp_path / "one", groups=PROJECTOR, steps=1, num_batches=1, stage_name="1")
    job = {"model": {"zoom_selector": RULE}, "steps": 2, "num_batches": 2}
    only = {"trainable_only": True}
    run(tmp_path / "two", groups=(*PROJECTOR, GROUPS[-1]), init_from=tmp_path / "one", every=1, save=only, **job)
    model = tiny_model(zoom_selector=RULE, seed=3)
    assert load_weights(model, tmp_path / "two") == set()
    # A run that left the rule as it found it, and whose start has been replaced by one without it.
    found = run(
        tmp_path / "three", groups=PROJECTOR, init_from=tmp_path / "two", every=1, save=only, stage_name="3", **job
    )
    (tmp_path / "two").rename(tmp_path / "moved")
    (tmp_path / "one").rename(tmp_path / "two")
    with pytest.raises(
        ValueError, match=r"^\S+three\S* does not hold zoom\.\S+, and neither does .*Match zoom\.\*"
    ) as said:
        load_weights(model, tmp_path / "three")
    assert "\n" not in str(said.value)
    assert found["step"] == 2
