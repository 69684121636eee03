"""What one sees of a run: how long it goes on, at any width."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from types import SimpleNamespace

import pytest
from rich.console import Console

from dragonfly_lit.training.progress import Bar, TimeLeft, clock


def test_the_time_left_is_that_of_steps_validations_and_scoring():
    time = TimeLeft(100, val_every=50, num_val=40, num_scored=10)
    assert time.left(0) is None
    time.step_taken(9.0, 4)  # it warms everything up
    assert time.left(1) == pytest.approx(99 * 9.0 + (2 * 40 + 10) * 0.4 * 9.0 / 4)
    for _ in range(9):
        time.step_taken(1.0, 4)
    a_sample = 0.4 * 1.0 / 4
    assert time.left(10) == pytest.approx(90 + (2 * 40 + 10) * a_sample)
    time.validated(6.0)
    assert time.left(50) == pytest.approx(50 + 6 + 10 * 6 / 40)  # the one at step 50 is done
    assert time.left(100) == pytest.approx(6 + 10 * 6 / 40)


def test_the_time_left_counts_down_with_the_clock():
    time, left = TimeLeft(200, val_every=200, num_val=20), []
    for step in range(1, 201):
        time.step_taken(3.0 if step == 1 else 1.0 + 0.1 * (step % 2), 4)
        left.append(time.left(step) or 0.0)
    assert all(0 < before - after < 3 for before, after in pairwise(left[20:]))
    assert left[9] == pytest.approx(190 * 1.05 + 20 * 0.4 * 1.05 / 4, rel=0.02)


def test_a_run_without_validation_has_nothing_behind_its_steps():
    time = TimeLeft(10, val_every=10)
    time.step_taken(2.0, 4)
    assert time.left(4) == 12.0
    assert time.left(10) == 0.0


def test_a_long_time_is_in_days_and_a_short_one_whole():
    assert [clock(seconds) for seconds in (None, 0, 61, 3725, 86399, 2 * 86400)] == [
        *("?", "0:00:00", "0:01:01", "1:02:05", "23:59:59", "2.0 days")
    ]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_step_loss_and_time_left_are_whole_at_any_width(monkeypatch, width, terminal):
    group = SimpleNamespace(lr=3e-3, from_step=0, until_step=None, moves=lambda _step: True)
    report = SimpleNamespace(loss=0.5206, step=119_999, lr=1.0, stop=False)
    stage = SimpleNamespace(name="biomed", steps=507_798, accumulate=1)
    optimizer = SimpleNamespace(param_groups=[{"group": group, "lr": 3e-3}])
    module = SimpleNamespace(stage=stage, report=report, reports=[report], optimizer=optimizer)
    trainer = SimpleNamespace(
        callback_metrics={"loss_answers": 0.0144, "loss_captions": 2.9471},
        is_global_zero=True,
        world_size=1,
        global_step=119_999,
        val_check_interval=1000,
        num_val_batches=[50],
        datamodule=SimpleNamespace(val_samples=lambda batches: 16 * batches),
        fit_loop=SimpleNamespace(_should_accumulate=lambda: False),
    )
    batch = SimpleNamespace(num_samples=16, input_ids=SimpleNamespace(numel=lambda: 16 * 2048))
    out, bar = io.StringIO(), Bar()
    bar._console = Console(file=out, width=width, force_terminal=terminal, legacy_windows=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("dragonfly_lit.training.progress.moving_rate", lambda _optimizer, _step: 3e-3)
    monkeypatch.setattr("dragonfly_lit.training.progress.FIRST_LINE", -1.0)
    bar.on_train_start(trainer, module)
    trainer.global_step += 1
    bar.on_train_batch_end(trainer, module, None, batch, 0)
    bar.on_train_end(trainer, module)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n").split("\n")
    found = [line for line in lines if "loss" in line]
    step = r"120000/\s*507798" if not terminal else r"120000/507798"
    assert any(
        re.search(rf"{step} loss 0\.5206 left (\d+:\d\d:\d\d|\d+\.\d days)", line[: width if terminal else 60])
        for line in found
    ), lines
