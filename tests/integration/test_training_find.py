"""The zoom rule that finds, in training: its noise is part of the state, and ranks agree."""

import pytest
from training_job import ALL, largest_difference, run, run_ranks

from dragonfly_lit.training.checkpoint.locate import step_folder
from dragonfly_lit.training.stages import Group

FIND = "dragonfly_lit.models.find.Find"
GROUPS = (*ALL, Group(match="zoom.*", lr=1e-3))


def test_resume_equals_never_stopping_noise_included(tmp_path):
    job = {"groups": GROUPS, "steps": 5, "model": {"zoom_selector": {"_target_": FIND}}}
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
