"""A resumed run begins at a whole optimizer step, however its ranks and accumulation changed."""

import pytest

from dragonfly_lit.training.checkpoint.callback import recount


def progress(ready, last=False):
    counts = {"ready": ready, "completed": ready - 1, "started": ready, "processed": ready}
    return {"total": dict(counts), "current": dict(counts), "is_last_batch": last}


@pytest.mark.parametrize(
    ("ready", "ranks_before", "ranks", "accumulate", "expected"),
    [(3, 2, 1, 2, 6), (6, 1, 2, 1, 3), (4, 2, 2, 2, 4), (3, 1, 1, 2, 4), (3, 2, 3, 2, 2)],
)
def test_batches_are_counted_as_the_new_ranks_would_have(ready, ranks_before, ranks, accumulate, expected):
    found = progress(ready)
    recount(found, ranks_before=ranks_before, ranks=ranks, accumulate=accumulate)
    assert found == progress(expected)


def test_an_epoch_that_ended_within_an_accumulation_stays_as_it_is():
    found = progress(11, last=True)
    recount(found, ranks_before=1, ranks=1, accumulate=2)
    assert found == progress(11, last=True)
