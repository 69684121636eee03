"""Resume: every later micro-batch is the one that an uninterrupted run gives, whatever ranks and workers."""

from __future__ import annotations

import pytest
import torch
from small_shards import LAYOUT

from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.data.loader import make_loader
from dragonfly_lit.data.position import Position

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
PACKED = {"mode": "packed", "max_tokens": 256, "buffer": 6}
GROUPED = {"mode": "grouped", "size": 3, "buffer": 9}
PADDED = {"mode": "padded", "size": 4}
BOUND = {"mode": "padded", "size": 4, "max_crops": 3 * LAYOUT.zoom.num_crops}
BOUND_GROUPS = {**GROUPED, "max_crops": 2 * LAYOUT.zoom.num_crops}


def run(data: DragonflyDataModule, state: dict | None, ranks: int, workers: int, steps: int) -> tuple[list, dict]:
    """Keys of `steps` micro-batches of each rank, in global order, and the merged state behind them."""
    given, merged = {}, Position(data.fingerprint, ranks=ranks)
    if state is not None:
        merged.load_state_dict(state)
    start = merged.num_consumed
    for rank in range(ranks):
        data.position = Position(data.fingerprint, ranks=ranks)
        if state is not None:
            data.position.load_state_dict(state)
        loader = data.train_dataloader()
        streams = loader.streams
        streams.rank, streams.ranks, streams.length = rank, ranks, steps + 3
        streams.start, streams.states = start, {**data.position.streams}
        marked = set()
        batches = iter(make_loader(streams, workers, pin_memory=False))
        for k in range(steps):
            batch = next(batches)  # three more are fetched ahead and never marked
            given[start + k * ranks + rank] = batch.keys
            data.position.mark(batch)
            marked.add(batch.state["stream"])
        merged.streams.update({stream: data.position.streams[stream] for stream in marked})
    merged.num_consumed = start + steps * ranks
    return [given[g] for g in sorted(given)], merged.state_dict()


@pytest.fixture(
    scope="module",
    params=[PADDED, PACKED, GROUPED, BOUND, BOUND_GROUPS],
    ids=lambda batch: batch["mode"] + "_bound" * ("max_crops" in batch),
)
def stopped(make_data, request):
    """A data module, all keys of an uninterrupted run, those before a stop of 2 ranks, and the state at the stop."""
    data = make_data(batch=request.param)
    whole, _ = run(data, None, ranks=1, workers=0, steps=24)
    return data, whole, *run(data, None, ranks=2, workers=0, steps=4)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 4), (2, 0), (4, 0), (8, 0)])
def test_resume_under_other_ranks_and_workers_equals_never_stopping(stopped, ranks, workers):
    data, whole, first, state = stopped
    rest, _ = run(data, state, ranks=ranks, workers=workers, steps=16 // ranks)
    assert first + rest == whole


def test_resume_of_a_resume_equals_never_stopping(make_data):
    data = make_data(batch=PACKED)
    whole, _ = run(data, None, ranks=1, workers=0, steps=32)
    keys, state = run(data, None, ranks=2, workers=2, steps=4)
    for ranks, workers, steps in ((4, 2, 2), (1, 2, 8), (8, 0, 1)):
        more, state = run(data, state, ranks=ranks, workers=workers, steps=steps)
        keys += more
    assert keys == whole


def test_a_restored_sample_has_the_same_pixels_and_the_same_prompt(make_data, two_sources):
    sources = {"pic": {"path": two_sources["pic"], "prompts": ["What?", "Which?", "Why?", "Who?"]}}
    data = make_data(train={"sources": sources}, epoch={"steps": 60})
    whole = list(data.train_dataloader())
    again = make_data(train={"sources": sources}, epoch={"steps": 60})
    for batch in whole[:40]:
        again.position.mark(batch)
    for before, after in zip(whole[40:], again.train_dataloader(), strict=False):
        assert torch.equal(before.input_ids, after.input_ids)
        assert torch.equal(before.pixel_values, after.pixel_values)
    assert len({row for batch in whole for row in map(bytes, batch.input_ids.to(torch.uint8).numpy())}) > 140


def test_the_state_is_plain_and_small(make_data, tmp_path):
    data = make_data(batch=PACKED)
    for batch in data.train_dataloader():
        data.position.mark(batch)
    state = data.state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state
    assert len(str(state["streams"])) < 8 * 600


def test_a_plain_loop_over_epochs_needs_no_marks(make_data):
    data = make_data(epoch={"steps": 10})
    loader = data.train_dataloader()
    keys = [batch.keys for _ in range(3) for batch in loader]
    assert keys == [batch.keys for batch in make_data(epoch={"steps": 30}).train_dataloader()]


def test_shards_changed_since_the_checkpoint_are_named(make_data, two_sources):
    state = make_data().state_dict()
    fewer = make_data(train={"sources": {"pic": {"path": two_sources["pic"]}}})
    with pytest.raises(ValueError, match=r"sources\.text was a source of 60 samples and is absent"):
        fewer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"order\.seed was 0 and is 5.*on_mismatch=restart"):
        make_data(seed=5).load_state_dict(state)


def test_restart_is_a_choice(make_data):
    data = make_data()
    for batch in data.train_dataloader():
        data.position.mark(batch)
    other = make_data(seed=5, on_mismatch="restart")
    other.load_state_dict(data.state_dict())
    assert other.position.num_micro_batches == 0


def test_weights_may_change_on_purpose(make_data, two_sources):
    data = make_data()
    for batch in data.train_dataloader():
        data.position.mark(batch)
    sources = {name: {"path": path, "weight": 1.0} for name, path in two_sources.items()}
    other = make_data(train={"sources": sources})
    other.load_state_dict(data.state_dict())
    assert other.position.num_micro_batches == 24


def test_workers_that_would_share_a_stream_are_refused_with_those_that_work(make_data):
    with pytest.raises(ValueError, match=r"num_streams=8 .* 1 ranks x data.num_workers=3.*one of 1, 2, 4, 8"):
        make_data(num_workers=3).train_dataloader()
