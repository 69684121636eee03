"""Streams fit any number of ranks and workers, and a checkpoint's stay what they were."""

from types import SimpleNamespace

import pytest

from dragonfly_lit.data.dealing import (
    FEW,
    MANY,
    SAMPLES_PER_STREAM,
    check_saved,
    check_streams,
    choose_streams,
    fit_workers,
)

LARGE = MANY * SAMPLES_PER_STREAM


def on_ranks(data, rank, ranks):
    """The module as Lightning attaches it to the trainer of one rank."""
    data.trainer = SimpleNamespace(world_size=ranks, global_rank=rank, overfit_batches=0, callbacks=[])
    return data


def steps_of(data, ranks, steps):
    """Keys of each step, over all ranks."""
    loaders = [iter(on_ranks(data(), rank, ranks).train_dataloader()) for rank in range(ranks)]
    return [[key for loader in loaders for row in next(loader).keys for key in row] for _ in range(steps)]


@pytest.mark.parametrize("num_samples", [1, LARGE - 1, LARGE])
def test_every_number_of_ranks_and_workers_has_streams(num_samples):
    for ranks in range(1, 129):
        num_streams = choose_streams(num_samples, ranks)
        for num_workers in range(13):
            fitting = fit_workers(num_streams, ranks, num_workers)
            check_streams(num_streams, ranks, fitting)
            assert fitting >= min(num_workers, 1)


def test_usual_numbers_of_ranks_have_one_order():
    assert {choose_streams(4000, ranks) for ranks in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)} == {FEW}
    assert {choose_streams(LARGE, ranks) for ranks in (1, 2, 8, 16, 24, 32, 64, 128, 256, 1024)} == {MANY}


def test_small_data_keep_the_order_of_earlier_versions(make_data):
    """The demo, and every run that was made with the default of 96."""
    assert make_data(num_streams=None).fingerprint == make_data(num_streams=96).fingerprint


def test_the_usual_workers_of_a_node_all_read():
    assert [fit_workers(MANY, 32, n) for n in (1, 2, 3, 4, 6, 8, 12)] == [1, 2, 3, 4, 6, 8, 12]


def test_fewer_workers_read_where_they_would_share_a_stream(make_data, caplog):
    loader = make_data(num_streams=None, num_workers=5).train_dataloader()
    assert loader.num_workers == 4
    assert "data.num_workers=5: 4 of them read, as many as share out 96 streams on 1 ranks" in caplog.text


def test_ranks_that_do_not_divide_the_streams_are_an_order_of_their_own(make_data, caplog):
    data = on_ranks(make_data(num_streams=None), 0, 5)
    data.train_dataloader()
    assert data.fingerprint["order"]["num_streams"] == 480
    assert "5 ranks do not divide 96 or 3072 streams, so the data have 480" in caplog.text


def test_a_checkpoint_goes_on_with_its_own_streams(make_data):
    """Written by an earlier default or by another number of ranks: the order does not change."""
    first = make_data(num_streams=480, epoch={"steps": 12})
    for batch in first.train_dataloader():
        first.position.mark(batch)
    state = first.state_dict()
    rest = [batch.keys for batch in first.train_dataloader()]

    then = make_data(num_streams=None, epoch={"steps": 12})
    then.load_state_dict(state)
    assert [batch.keys for batch in then.train_dataloader()] == rest
    assert then.state_dict()["fingerprint"] == state["fingerprint"]


def test_a_checkpoint_of_one_rank_goes_on_on_two(make_data):
    def fresh():
        return make_data(num_streams=None, epoch={"steps": 6})

    def resumed():
        data = fresh()
        data.load_state_dict(state)
        return data

    assert steps_of(fresh, 2, 6) == [a + b for a, b in pairs(steps_of(lambda: make_data(num_streams=None), 1, 12))]
    first = fresh()
    for batch in first.train_dataloader():
        first.position.mark(batch)
    state = first.state_dict()
    alone = steps_of(resumed, 1, 6)
    assert steps_of(resumed, 2, 3) == [a + b for a, b in pairs(alone)]


def pairs(items):
    return zip(items[::2], items[1::2], strict=True)


def test_ranks_that_cannot_share_a_checkpoints_streams_are_told_which_can(make_data):
    state = make_data(num_streams=96).state_dict()
    with pytest.raises(ValueError, match=r"dealt to 96 streams, which 5 ranks cannot share.*1, 2, 3, 4, 6, 8 ranks"):
        on_ranks(make_data(num_streams=None), 0, 5).load_state_dict(state)
    again = on_ranks(make_data(num_streams=None, on_mismatch="restart"), 0, 5)
    again.load_state_dict(state)
    assert again.fingerprint["order"]["num_streams"] == 480
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z"):
        check_saved(3072, 128 * 7)
