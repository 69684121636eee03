"""Logs of two trainings are the same whatever the counts of ranks, and their first difference is named."""

import json

import pytest

from data_prep.resume_check import counts_of
from data_prep.sample_logs import difference, last_step, num_compared, read_logs


def write(path, ranks, steps, accumulate=1, loss=1.0, first=1):
    """A log whose micro-batch g has sample g: dealt to ranks in turn."""
    for rank in range(ranks):
        lines = []
        for step in range(first, steps + 1):
            for k in range(accumulate):
                number = ((step - 1) * accumulate + k) * ranks + rank
                lines.append({"step": step, "rank": rank, "keys": [f"s{number}"], "loss": loss + number})
        name = path if rank == 0 else path.with_name(f"{path.name}.{rank}")
        name.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_logs(path)


def test_two_ranks_and_one_that_accumulates_log_the_same(tmp_path):
    two = write(tmp_path / "two.jsonl", 2, 6)
    one = write(tmp_path / "one.jsonl", 1, 6, accumulate=2, first=4)
    assert difference(two, one, 0.0, whole_steps=True) is None
    assert num_compared(two, one).startswith("steps 4 to 6, 6 micro-batches, 6 samples")


def test_other_samples_and_other_losses_are_named(tmp_path):
    whole = write(tmp_path / "whole.jsonl", 1, 3)
    assert "without a stop 1.0" in str(difference(whole, write(tmp_path / "loss.jsonl", 1, 3, loss=1.1), 1e-4))
    moved = {step + 1: micro for step, micro in whole.items() if step < 3}
    assert "step 2, micro-batch 0: samples s0; without a stop s1" in str(difference(whole, moved, 1e-4))


def test_steps_that_are_missing_are_named(tmp_path):
    whole = write(tmp_path / "whole.jsonl", 1, 3)
    short = write(tmp_path / "short.jsonl", 1, 2)
    assert difference(whole, short, 0.0) is None
    assert "last step is 2" in str(difference(whole, short, 0.0, whole_steps=True))


def test_a_step_that_a_kill_cut_short_is_left_out(tmp_path):
    path = tmp_path / "killed.jsonl"
    write(path, 2, 3)
    other = tmp_path / "killed.jsonl.1"
    other.write_text(other.read_text()[:-10])
    assert list(read_logs(path)) == [1, 2]
    assert last_step(path) == 3


def test_a_training_that_logged_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no sample was logged"):
        read_logs(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("ranks", "then_ranks", "expected"), [(2, 1, (1, 2)), (1, 2, (2, 1)), (2, 3, (3, 2)), (2, 2, (1, 1))]
)
def test_both_runs_have_as_many_micro_batches_a_step(ranks, then_ranks, expected):
    first, then = counts_of(ranks, 2, then_ranks, 4)
    assert (first.accumulate, then.accumulate) == expected
    assert first.ranks * first.accumulate == then.ranks * then.accumulate
