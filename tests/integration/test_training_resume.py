"""A run that is stopped and goes on is the run that never stopped, to the bit."""

import pytest
import torch
from training_job import ALL, PROJECTOR, largest_difference, run

from dragonfly_lit.app.newest import find_finished
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.checkpoint.format import read_info
from dragonfly_lit.training.checkpoint.locate import (
    find_resume,
    list_checkpoints,
    load_weights,
    step_folder,
    weights_behind,
)

SCHEDULE = {"groups": ALL, "steps": 8, "accumulate": 2, "num_batches": 11}
"""11 micro-batches an epoch, two a step: an epoch ends within a window; groups move at steps 3 and 5."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, run(folder, every=1, save={"keep_last": 99}, **SCHEDULE)


@pytest.mark.parametrize("step", [1, 3, 5, 6])
def test_resume_equals_never_stopping(straight, tmp_path, step):
    folder, whole = straight
    resumed = run(tmp_path, resume=step_folder(folder, step), **SCHEDULE)
    assert largest_difference(whole, resumed) == 0.0
    assert resumed["losses"] == whole["losses"][step:]
    assert resumed["norms"] == whole["norms"][step:]


def test_saving_in_the_background_saves_the_step_and_not_what_came_after(straight, tmp_path):
    _, whole = straight
    run(tmp_path, every=3, save={"background": True, "keep_last": 9}, **SCHEDULE)
    resumed = run(tmp_path / "on", resume=step_folder(tmp_path, 3), **SCHEDULE)
    assert largest_difference(whole, resumed) == 0.0


def test_a_checkpoint_of_trained_weights_only_resumes_exactly(tmp_path):
    job = {"groups": PROJECTOR, "steps": 6}
    whole = run(tmp_path / "whole", every=3, save={"trainable_only": True}, **job)
    folder = step_folder(tmp_path / "whole", 3)
    resumed = run(tmp_path / "on", resume=folder, **job)
    assert largest_difference(whole, resumed) == 0.0
    model = tiny_model()
    load_weights(model, step_folder(tmp_path / "whole", 6))
    assert all(torch.equal(whole["weights"][name], p) for name, p in model.named_parameters())


def test_frozen_weights_left_out_come_from_where_the_run_took_them(straight, tmp_path):
    folder, before = straight
    job = {"groups": PROJECTOR, "steps": 4, "stage_name": "1"}
    after = run(tmp_path / "after", init_from=folder, every=2, save={"trainable_only": True}, **job)
    assert weights_behind(tmp_path / "after") == folder.resolve()
    model = tiny_model(seed=5)
    load_weights(model, tmp_path / "after")
    assert torch.equal(model.language.lm_head.weight, before["weights"]["language.lm_head.weight"])
    assert torch.equal(model.projector.weight, after["weights"]["projector.weight"])
    halfway = step_folder(tmp_path / "after", 2)
    resumed = run(tmp_path / "on", resume=halfway, init_from=weights_behind(halfway), **job)
    assert largest_difference(after, resumed) == 0.0


def test_a_resumed_run_still_knows_where_its_weights_came_from(straight, tmp_path):
    job = {"groups": PROJECTOR, "steps": 2, "stage_name": "1"}
    run(tmp_path / "whole", init_from=straight[0], every=1, **job)
    run(tmp_path / "on", resume=step_folder(tmp_path / "whole", 1), save={"trainable_only": True}, **job)
    assert weights_behind(tmp_path / "on") == straight[0].resolve()


def test_the_last_ones_stay_and_every_nth(tmp_path):
    run(tmp_path, every=1, save={"keep_last": 2, "keep_every": 3}, groups=PROJECTOR, steps=8)
    assert [info.step for _, info in list_checkpoints(tmp_path)] == [3, 6, 7, 8]


def test_what_a_killed_run_left_half_written_is_not_found_and_cleared(tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("step-00000099.partial", "step-00000098"):
        (checkpoints / name).mkdir(parents=True)
    assert find_resume(tmp_path / "run") is None
    assert find_finished(tmp_path).checkpoint is None
    run(tmp_path / "run", groups=PROJECTOR, steps=1)
    assert not (checkpoints / "step-00000099.partial").exists()
    assert read_info(find_resume(tmp_path / "run")).step == 1
    with pytest.raises(ValueError, match="no complete checkpoint"):
        read_info(checkpoints / "step-00000098")


def test_the_newest_of_a_stage_and_model_is_found(tmp_path):
    for name, stage in (("a", "1"), ("b", "2"), ("c", "1")):
        run(tmp_path / name, groups=PROJECTOR, steps=1, stage_name=stage)
    dragonfly, another = ({"model": {"name": name}} for name in ("dragonfly", "another"))
    assert find_finished(tmp_path, stage="1").checkpoint == step_folder(tmp_path / "c", 1)
    assert find_finished(tmp_path, stage="2", like=dragonfly).checkpoint == step_folder(tmp_path / "b", 1)
    assert find_finished(tmp_path, like=another).checkpoint is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage_name": "1"}, r"is of stage 2, this run is of stage 1.*use init_from="),
        ({"model_name": "other"}, r"is of model dragonfly, this run is of model other.*use init_from="),
        ({"groups": PROJECTOR}, r"optimizer group 'vision.*use init_from= for the weights only"),
    ],
)
def test_resume_refuses_what_is_the_job_of_init_from(straight, tmp_path, fields, message):
    folder, _ = straight
    with pytest.raises(ValueError, match=message):
        run(tmp_path, resume=step_folder(folder, 4), **(SCHEDULE | fields))


def test_init_from_refuses_what_is_the_job_of_resume(straight, tmp_path):
    folder, _ = straight
    with pytest.raises(ValueError, match=r"this very stage 2 at step 4 of 8.*use resume="):
        run(tmp_path, init_from=step_folder(folder, 4), **SCHEDULE)


def test_init_from_takes_weights_and_nothing_else(straight, tmp_path):
    folder, whole = straight
    started = run(tmp_path, init_from=folder, stage_name="3", groups=(PROJECTOR[0],), steps=1)
    assert len(started["losses"]) == 1
    same = set(whole["weights"]) - {"projector.weight", "projector.bias"}
    assert all(torch.equal(whole["weights"][name], started["weights"][name]) for name in same)


def test_weights_of_another_model_are_refused_with_examples(straight):
    folder, _ = straight
    with pytest.raises(ValueError, match=r"language\.\S+ has shape .* there and .* here"):
        load_weights(tiny_model(text={"vocab_size": 300}), folder)
    with pytest.raises(ValueError, match=r"weights of this one are missing there"):
        load_weights(tiny_model(text={"num_hidden_layers": 3}), folder)


def test_a_checkpoint_that_names_foreign_code_is_not_read(straight, tmp_path):
    import pickle
    import shutil

    folder = shutil.copytree(step_folder(straight[0], 8), tmp_path / "checkpoints" / "step-00000008")

    class Evil:
        def __reduce__(self):
            return print, ("code ran",)

    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"builtins\.print, which is not part of a checkpoint"):
        load_weights(tiny_model(), folder)
