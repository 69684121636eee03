"""Snapshots of a GPU's memory: which steps are recorded, and where the files lie; torch's recorder is a stand-in."""

from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch

from dragonfly_lit.training.memory import MemorySnapshot


def recorder(monkeypatch, tmp_path, step=0):
    """Whether memory is being recorded, and a trainer."""
    on = [False]

    def record(enabled="all", max_entries=None):
        on[0] = enabled is not None

    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", record)
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: open(path, "w").close())
    return on, Mock(spec=pl.Trainer, global_step=step, default_root_dir=str(tmp_path), global_rank=1)


@pytest.mark.parametrize(
    ("begin", "first", "steps", "last", "recorded"),
    [
        (0, 1, 2, 6, [1, 2]),
        (10, 2, 1, 16, [12]),  # a run that goes on counts from where it does
        (0, 3, 9, 5, [3, 4]),  # shorter than what was asked
        (0, 9, 2, 5, []),
    ],
)
def test_the_steps_that_are_asked_are_recorded_once(monkeypatch, caplog, tmp_path, begin, first, steps, last, recorded):
    found, (on, trainer) = [], recorder(monkeypatch, tmp_path, begin)
    callback = MemorySnapshot(first, steps)
    callback.on_train_start(trainer, None)
    for step in range(begin, last):
        for _ in range(2):  # micro-batches
            callback.on_train_batch_start(trainer, None, None, 0)
            found += [step] * on[0]
            trainer.global_step = step + (_ == 1)
            callback.on_train_batch_end(trainer, None, None, None, 0)
    callback.on_train_end(trainer, None)
    assert found == [step for step in recorded for _ in range(2)]
    assert not on[0]
    said = "" if recorded else "callbacks.memory_snapshot.first=9: the run ended before; nothing was recorded."
    assert said in caplog.text
    assert bool(caplog.text) == (not recorded)
    assert (tmp_path / "memory" / "rank-1.pickle").is_file() == bool(recorded)


def test_memory_that_runs_out_while_it_is_recorded_leaves_the_file(monkeypatch, tmp_path):
    on, trainer = recorder(monkeypatch, tmp_path)
    callback = MemorySnapshot(first=0, steps=2)
    callback.on_train_start(trainer, None)
    callback.on_train_batch_start(trainer, None, None, 0)
    callback.on_exception(trainer, None, torch.OutOfMemoryError("no memory"))
    assert (tmp_path / "memory" / "rank-1.pickle").is_file()
    assert not on[0]
