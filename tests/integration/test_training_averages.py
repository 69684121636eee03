"""Averaged weights go through every checkpoint and strategy, and are used wherever a model is judged."""

import pytest
import torch
from training_job import PROJECTOR, largest_difference, run, run_ranks

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.averaging import EMAWeightAveraging
from dragonfly_lit.training.checkpoint.format import saved_tensors
from dragonfly_lit.training.checkpoint.locate import load_weights, step_folder
from dragonfly_lit.training.checkpoint.storage import read_tensors

NAME = "projector.weight"
DECAY = 0.5
JOB = {"groups": PROJECTOR, "steps": 6, "accumulate": 2, "num_batches": 11}


def averaged(folder, **fields):
    return run(folder, callbacks=(EMAWeightAveraging(decay=DECAY),), **(JOB | fields))


def stored(folder, kind):
    tensor = torch.empty(saved_tensors(folder)[f"{kind}/{NAME}"])
    read_tensors(folder, {f"{kind}/{NAME}": tensor})
    return tensor


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, averaged(folder, every=1, save={"keep_last": 99})


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return folder, run(folder, every=1, save={"keep_last": 99}, **JOB)


def test_the_average_is_the_formula_over_the_weights_of_each_step(whole, plain):
    expected = tiny_model().projector.weight.detach().clone()
    for step in range(1, 7):
        expected = DECAY * expected + (1 - DECAY) * stored(step_folder(plain[0], step), "weights")
        torch.testing.assert_close(stored(step_folder(whole[0], step), "averages"), expected)


def test_averaging_does_not_change_what_trains(whole, plain):
    assert torch.equal(stored(step_folder(whole[0], 6), "weights"), plain[1]["weights"][NAME])
    assert whole[1]["losses"] == plain[1]["losses"]


@pytest.mark.parametrize("step", [1, 4])
def test_averages_resume_to_the_bit(whole, tmp_path, step):
    resumed = averaged(tmp_path, resume=step_folder(whole[0], step))
    assert largest_difference(whole[1], resumed) == 0.0
    for kind in ("averages", "weights"):
        mine, theirs = (stored(step_folder(folder, 6), kind) for folder in (tmp_path, whole[0]))
        assert torch.equal(mine, theirs)


def test_after_training_and_after_loading_the_weights_are_the_averages(whole):
    folder, found = whole
    expected = stored(step_folder(folder, 6), "averages")
    assert torch.equal(found["weights"][NAME], expected)
    assert not torch.equal(stored(step_folder(folder, 6), "weights"), expected)
    model = tiny_model()
    load_weights(model, folder)
    assert torch.equal(model.projector.weight, expected)


def test_validation_within_a_run_looks_at_the_averages_and_leaves_the_weights(plain, tmp_path):
    seen = []

    class Looks(EMAWeightAveraging):
        def on_validation_batch_start(self, trainer, pl_module, *args):
            seen.append(torch.equal(pl_module.model.projector.weight, pl_module.averages[NAME]))
            seen.append(pl_module.model.projector.weight.clone())

        def on_validation_epoch_end(self, trainer, pl_module):
            super().on_validation_epoch_end(trainer, pl_module)
            seen.append(pl_module.averages[NAME].clone())

    job = JOB | {"accumulate": 1}
    run(tmp_path / "looks", callbacks=(Looks(decay=DECAY),), validates=True, **job)
    run(tmp_path / "plain", **job)
    assert torch.equal(seen[1], seen[-1]) is False
    first = [entry for entry in seen if isinstance(entry, torch.Tensor)]
    assert torch.equal(first[0], first[6])  # six batches were looked at with what the average is again afterwards
    kept = (stored(step_folder(tmp_path / name, 6), "weights") for name in ("looks", "plain"))
    assert torch.equal(*kept)


def test_a_checkpoint_without_averages_starts_them_from_its_weights(plain, tmp_path):
    with pytest.warns(UserWarning, match="holds no averaged weights"):
        averaged(tmp_path, resume=step_folder(plain[0], 5))
    expected = DECAY * stored(step_folder(plain[0], 5), "weights") + (1 - DECAY) * plain[1]["weights"][NAME]
    torch.testing.assert_close(stored(step_folder(tmp_path, 6), "averages"), expected)


def test_averages_that_nobody_goes_on_with_are_named(whole, tmp_path):
    with pytest.warns(UserWarning, match="holds averaged weights, and no callback"):
        run(tmp_path, resume=step_folder(whole[0], 5), **JOB)


def test_two_sharded_ranks_average_as_one_process(whole, tmp_path):
    job = JOB | {"accumulate": 1, "rows": 2, "num_batches": 12, "callbacks": (EMAWeightAveraging(decay=DECAY),)}
    one = averaged(tmp_path / "one", num_batches=12)
    ranks = run_ranks(
        2,
        tmp_path,
        {name: {"strategy": name, "every": 3, "save": {"keep_last": 9}, **job} for name in ("ddp", "fsdp")}
        | {"again": {"strategy": "fsdp", "resume": "fsdp/checkpoints/step-00000003", **job}},
    )
    for name in ("ddp", "fsdp"):
        assert largest_difference(one, ranks[name]) < 2e-6
    assert largest_difference(ranks["fsdp"], ranks["again"]) == 0.0
