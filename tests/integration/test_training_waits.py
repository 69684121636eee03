"""A run whose device decides on its steps, the host hearing of each a step later, is the run that waits for each.

On a CPU the fused optimizer is told to decide, as one on a GPU does by itself.
"""

import json
import os
import signal
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch.optim import AdamW
from training_job import largest_difference, micro_batches, run, run_ranks

from dragonfly_lit.training.survival import BadSteps, Preemption
from dragonfly_lit.training.telemetry import Telemetry

FUSED = {"optimizer": partial(AdamW, fused=True)}


class Decides(pl.Callback):
    """Lets the device decide, and counts the steps whose report was not there at their end."""

    def __init__(self) -> None:
        self.late = 0

    def on_train_start(self, trainer, pl_module) -> None:
        pl_module.decides_by_itself = True

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.late += not pl_module.knows_last_step


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp"])
def test_ranks_take_the_same_steps(tmp_path, strategy):
    jobs = {
        name: {"strategy": strategy, "stage": FUSED, "callbacks": callbacks}
        for name, callbacks in (("waits", ()), ("decides", (Decides(),)))
    }
    if strategy == "single":
        found = {name: run(tmp_path / name, **job) for name, job in jobs.items()}
        assert jobs["decides"]["callbacks"][0].late == 7  # all but the last
    else:
        found = run_ranks(2, tmp_path, jobs)
    assert found["decides"]["losses"] == pytest.approx(found["waits"]["losses"], rel=1e-5)
    assert found["decides"]["norms"] == pytest.approx(found["waits"]["norms"], rel=1e-4)
    assert largest_difference(found["waits"], found["decides"]) < 1e-5


def test_a_resume_is_exact_and_nothing_of_what_callbacks_know_is_lost(tmp_path):
    whole_steps, steps = (BadSteps(tmp_path / name, window=64) for name in ("whole", "parts"))
    whole = run(tmp_path / "whole", stage=FUSED, callbacks=(Decides(), whole_steps))
    run(tmp_path / "parts", stage=FUSED, callbacks=(Decides(), BadSteps(tmp_path / "parts")), every=5)
    again = run(
        tmp_path / "again",
        stage=FUSED,
        callbacks=(Decides(), steps),
        resume=tmp_path / "parts" / "checkpoints" / "step-00000005",
    )
    assert largest_difference(whole, again) == 0
    assert steps.state_dict() == whole_steps.state_dict()


def test_bad_steps_are_left_out_by_the_device_and_named(tmp_path):
    batches = micro_batches(10)
    for index in (3, 4, 7):
        batches[index].label_weights.fill_(float("nan"))
    found = {}
    for name, callbacks in (("waits", ()), ("decides", (Decides(),))):
        bad, telemetry = BadSteps(tmp_path / name, stop_after=5), Telemetry(every=8)
        found[name] = (
            run(tmp_path / name, stage=FUSED, batches=batches, callbacks=(*callbacks, bad, telemetry)),
            telemetry.last,
        )
        lines = [json.loads(line) for line in (tmp_path / name / "bad_steps.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [3, 4, 7]
        assert lines[0]["keys"] == list(batches[3].keys[0] + batches[3].keys[1])
        assert (bad.total, bad.consecutive) == (3, 1)
    assert largest_difference(found["waits"][0], found["decides"][0]) < 1e-5
    assert [last["skipped_steps"] for _, last in found.values()] == [3.0, 3.0]
    assert found["decides"][1]["loss"] == pytest.approx(found["waits"][1]["loss"], rel=1e-5)


def test_bad_steps_in_a_row_end_the_run_a_step_later(tmp_path):
    batches = micro_batches(10)
    for batch in batches[2:]:
        batch.label_weights.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"stop_after=3: 3 steps in a row"):
        run(tmp_path, stage=FUSED, batches=batches, callbacks=(Decides(), BadSteps(tmp_path, stop_after=3)))


class SignalAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_saves_once_its_step_is_known_and_resumes_exactly(tmp_path):
    preemption = Preemption()
    whole = run(tmp_path / "whole", stage=FUSED, callbacks=(Decides(),))
    stopped = run(tmp_path / "parts", stage=FUSED, callbacks=(Decides(), SignalAt(2), preemption))
    assert preemption.received
    assert stopped["step"] == 4  # the wish of step 2 comes with step 3, whose report is then read at once
    saved = tmp_path / "parts" / "checkpoints" / "step-00000004"
    again = run(tmp_path / "again", stage=FUSED, callbacks=(Decides(),), resume=saved)
    assert largest_difference(whole, again) == 0


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *args) -> None:
        trainer.should_stop |= trainer.global_step == self.step


def test_a_callback_that_wants_to_stop_gets_a_saved_step_whose_report_is_known(tmp_path):
    bad = BadSteps(tmp_path / "parts")
    stopped = run(tmp_path / "parts", stage=FUSED, callbacks=(Decides(), bad, StopAt(3)))
    assert stopped["step"] == 4
    assert len(bad.state_dict()["losses"]) == 4
    assert (tmp_path / "parts" / "checkpoints" / "step-00000004").is_dir()


def test_types_of_gradients_do_not_matter(tmp_path):
    found = {}
    for gradients in ("float32", "bfloat16"):
        options = {"stage": FUSED, "precision": "bf16", "gradients": gradients, "callbacks": (Decides(),)}
        found[gradients] = run(tmp_path / gradients, **options)
    assert torch.tensor(found["bfloat16"]["losses"]).isfinite().all()
    assert found["bfloat16"]["losses"] == pytest.approx(found["float32"]["losses"], rel=2e-2)
