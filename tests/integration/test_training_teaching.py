"""A zoom rule that a teacher teaches, in training: a resumed run is one that never stopped, and ranks agree."""

import pytest
from training_job import ALL, batched, largest_difference, run, run_ranks, samples

from dragonfly_lit.training.checkpoint.locate import step_folder
from dragonfly_lit.training.stages import Group
from dragonfly_lit.training.teachers import Attention, Gradient, LeftOut
from dragonfly_lit.training.teaching import Taught

PUPIL = {"_target_": "dragonfly_lit.models.find.Pupil"}
GROUPS = (*ALL, Group(match="zoom.*", lr=1e-3))


def test_resume_equals_never_stopping_what_is_left_out_included(tmp_path):
    job = {
        "groups": GROUPS,
        "steps": 5,
        "model": {"zoom_selector": PUPIL},
        "objective": Taught(teacher=LeftOut(crops=2)),
    }
    whole = run(tmp_path / "whole", every=1, save={"keep_last": 99}, **job)
    resumed = run(tmp_path / "resumed", resume=step_folder(tmp_path / "whole", 3), **job)
    assert largest_difference(whole, resumed) == 0.0
    assert resumed["losses"] == whole["losses"][3:]


@pytest.mark.parametrize("teacher", [Attention(), Gradient()], ids=lambda t: type(t).__name__)
def test_two_ranks_equal_one_where_one_of_them_has_no_image(tmp_path, teacher):
    still = {"zoom_selector": PUPIL | {"explore": 0.0}}
    objective = Taught(teacher=teacher)
    job = {"groups": GROUPS, "steps": 4, "rows": 1, "num_batches": 18, "model": still, "objective": objective}
    one = run(tmp_path / "one", accumulate=2, **job)
    two = run_ranks(2, tmp_path, {name: {"strategy": name, **job} for name in ("ddp", "fsdp")})
    for name, ranks in two.items():
        assert ranks["losses"] == pytest.approx(one["losses"], rel=1e-6), name
        assert largest_difference(one, ranks) < 2e-6, name


def test_packed_rows_teach_as_padded_ones_do(tmp_path):
    still = {"zoom_selector": PUPIL | {"explore": 0.0}}
    job = {"groups": GROUPS, "steps": 4, "model": still, "objective": Taught(teacher=Gradient())}
    padded, packed = (
        run(tmp_path / str(flag), batches=batched(samples(8), 2, packed=flag), **job) for flag in (False, True)
    )
    assert packed["losses"] == pytest.approx(padded["losses"], rel=1e-5)
    assert largest_difference(padded, packed) < 1e-4
