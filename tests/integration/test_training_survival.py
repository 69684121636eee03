"""What a long run meets: pre-emption, steps that are not finite, kills, batches without an image, other precisions."""

import json
import multiprocessing
import os
import random
import signal
import time

import lightning.pytorch as pl
import pytest
from training_job import ALL, PROJECTOR, largest_difference, micro_batches, run

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.checkpoint.locate import find_resume, list_checkpoints, load_weights
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.survival import REQUEUE_STATUS, BadSteps, Preemption


class Signals(pl.Callback):
    """Sends a signal to its own process within micro-batch `index`."""

    def __init__(self, number, index):
        self.number, self.index, self.seen = number, index, 0

    def on_train_batch_start(self, *args):
        if self.seen == self.index:
            os.kill(os.getpid(), self.number)
        self.seen += 1


CUT = {"groups": ALL, "steps": 5, "accumulate": 2, "num_batches": 10}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), **CUT)


@pytest.fixture
def as_in_a_terminal():
    """Tests that run in the background are told to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_in_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_within_an_accumulation_saves_at_its_end_and_resumes_exactly(whole, tmp_path, number):
    preemption = Preemption()
    run(tmp_path / "cut", callbacks=(preemption, Signals(number, 4)), **CUT)
    assert preemption.received
    assert preemption.status == (130 if number == signal.SIGINT else REQUEUE_STATUS)
    assert [info.step for _, info in list_checkpoints(tmp_path / "cut")] == [3]
    resumed = run(tmp_path / "on", resume=find_resume(tmp_path / "cut"), **CUT)
    assert largest_difference(whole, resumed) == 0.0


class Poison(pl.Callback):
    """Makes the projector's weights nan before the first step, so that every loss is."""

    def on_train_start(self, trainer, pl_module):
        pl_module.model.projector.weight.data.fill_(float("nan"))


def test_steps_that_are_not_finite_end_the_run_and_name_their_samples(tmp_path):
    with pytest.raises(ValueError, match=r"2 steps in a row were skipped because the loss is not finite"):
        run(tmp_path, groups=PROJECTOR, callbacks=(BadSteps(tmp_path, stop_after=2), Poison()))
    lines = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert lines[0]["keys"] == ["sample-0", "sample-1"]


def test_a_run_of_which_no_step_was_taken_does_not_end_as_if_it_had_trained(tmp_path):
    with pytest.raises(ValueError, match=r"None of the 3 steps of this run was taken, because the loss is not finite"):
        run(tmp_path, groups=PROJECTOR, steps=3, callbacks=(BadSteps(tmp_path), Poison()))
    assert list_checkpoints(tmp_path) == []


class PoisonOnce(pl.Callback):
    """Makes the weights of one step's labels nan."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 1:
            batch.label_weights.fill_(float("nan"))


def test_how_many_steps_were_skipped_is_said_at_the_end(tmp_path, capsys):
    run(tmp_path / "some", groups=PROJECTOR, steps=3, callbacks=(BadSteps(tmp_path / "some"), PoisonOnce()))
    assert "Skipped 1 of 3 steps" in capsys.readouterr().out
    run(tmp_path / "none", groups=PROJECTOR, steps=3, callbacks=(BadSteps(tmp_path / "none"),))
    assert "Skipped" not in capsys.readouterr().out


def test_a_loss_that_jumps_is_refused_once_enough_steps_are_known(tmp_path):
    guard = BadSteps(tmp_path, spike=2.0, window=2)
    assert guard.skip_rule(100.0, 1.0) is None
    guard._losses.extend([1.0, 1.2])
    assert guard.skip_rule(2.0, 1.0) is None
    assert "times its median" in guard.skip_rule(2.5, 1.0)


def test_every_trained_weight_gets_a_gradient_with_and_without_an_image():
    model = tiny_model().train()
    batches = micro_batches(5, rows=1)
    assert batches[4].pixel_values is None
    for batch in (batches[0], batches[4]):
        model.zero_grad()
        TrainingNetwork(model)(batch).loss.backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing


def test_a_packed_step_equals_an_unpacked_one(tmp_path):
    job = {"groups": ALL, "steps": 3}
    apart = run(tmp_path / "apart", batches=micro_batches(4, rows=3), **job)
    packed = run(tmp_path / "packed", batches=micro_batches(4, rows=3, packed=True), **job)
    assert packed["losses"] == pytest.approx(apart["losses"], rel=1e-4)
    assert packed["norms"][0] == pytest.approx(apart["norms"][0], rel=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "float16"])
def test_fp16_is_refused_with_the_reason(tmp_path, precision):
    with pytest.raises(ValueError, match=r"exceed float16's 65,504.*Use bf16"):
        run(tmp_path, precision=precision)


def test_fp8_is_refused_without_a_gpu(tmp_path):
    with pytest.raises(ValueError, match="needs a GPU with FP8 matmuls"):
        run(tmp_path, precision="fp8")


@pytest.mark.slow
def test_twenty_kills_lose_no_more_than_the_steps_since_the_last_checkpoint(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_job"])
    job = {
        "groups": PROJECTOR,
        "steps": 10_000,
        "num_batches": 10,
        "every": 2,
        "save": {"keep_last": 2, "background": True},
    }
    draw, before = random.Random(0), 0
    for _ in range(20):
        process = context.Process(target=run, args=(tmp_path,), kwargs={**job, "resume": find_resume(tmp_path)})
        process.start()
        while newest_step(tmp_path) <= before and process.is_alive():
            time.sleep(0.05)
        time.sleep(draw.random())
        before = newest_step(tmp_path)
        process.kill()
        process.join()
        assert newest_step(tmp_path) >= before > 0
        load_weights(tiny_model(), find_resume(tmp_path))


def newest_step(folder):
    return max((info.step for _, info in list_checkpoints(folder)), default=0)
