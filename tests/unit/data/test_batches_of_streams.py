"""Packs, groups and validation batches."""

from __future__ import annotations

import gc
from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest import mock
from unittest.mock import ANY

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_shards import LAYOUT, PAD, make_record, write_shards

from dragonfly_lit.data import validation
from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.data.packing import BatchShape, Planned, fill, group, useful_share
from dragonfly_lit.data.plan import micro_batches_per_rank
from dragonfly_lit.data.source import Reader
from dragonfly_lit.data.stream import Drawn, Texts
from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Record, Turn
from dragonfly_lit.spec.tokens import IGNORE


def planned(*sizes: tuple[int, int]) -> list[Planned]:
    return [Planned(num_tokens=tokens, num_crops=crops) for tokens, crops in sizes]


def test_a_pack_takes_the_oldest_and_those_that_fill_it_best():
    assert sorted(fill(planned((30, 1), (50, 1), (60, 1), (10, 1)), 100, None)) == [0, 2, 3]
    assert sorted(fill(planned((10, 1), (50, 1), (40, 1), (45, 1), (45, 1)), 100, None)) == [0, 1, 2]


def test_a_pack_keeps_within_its_crops():
    assert sorted(fill(planned((10, 4), (10, 4), (10, 0), (10, 2)), 100, 6)) == [0, 2, 3]


WAITING = st.lists(st.tuples(st.integers(1, 90), st.integers(0, 6)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(sizes=WAITING, size=st.integers(1, 8), max_crops=st.none() | st.integers(6, 20))
def test_what_waits_is_chosen_within_size_and_crops_and_nothing_fits_that_is_left(sizes, size, max_crops):
    waiting = planned(*sizes)
    limit = max_crops or 1000

    def crops(places):
        return sum(waiting[place].num_crops for place in places)

    padded = BatchShape(mode="padded", size=size, max_crops=max_crops).choose(waiting)
    assert padded == list(range(len(padded)))
    assert 1 <= len(padded) <= size
    assert crops(padded) <= limit
    assert len(padded) in (size, len(waiting)) or crops([*padded, len(padded)]) > limit
    grouped = BatchShape(mode="grouped", size=size, buffer=99, max_crops=max_crops).choose(waiting)
    assert grouped[0] == 0
    assert len(grouped) <= size
    assert crops(grouped) <= limit
    left = [place for place in range(len(waiting)) if place not in grouped]
    assert len(grouped) == size or all(crops([*grouped, place]) > limit for place in left)
    if max_crops is None:
        assert grouped == sorted(group(waiting, size))


@pytest.mark.parametrize("batch", [{"mode": "padded", "size": 5}, {"mode": "grouped", "size": 3, "buffer": 9}])
def test_no_micro_batch_has_more_crops_than_allowed_and_no_sample_is_lost(make_data, batch):
    """A tenth of the samples have two images."""
    one = LAYOUT.zoom.num_crops
    batch = {**batch, "max_crops": 2 * one}
    data = make_data(batch=batch, num_streams=1, epoch={"steps": 400})
    brought, seen = Counter(), Counter()
    for found in data.train_dataloader():
        brought[0 if found.pixel_values is None else found.pixel_values.shape[0]] += 1
        keys = [key for row in found.keys for key in row]
        assert 1 <= len(keys) <= batch["size"]
        seen.update(keys)
    assert max(brought) == 2 * one
    assert data.counts()["pic"]["too_long"] == 0
    drawn = sum(count["read"] for count in data.counts().values())
    assert sum(seen.values()) == drawn - len(data.position.streams[0]["waiting"])
    assert len(seen) == 200


def test_a_bound_below_one_image_is_refused_and_one_that_holds_makes_other_data(make_data):
    layout = Layout(image_size=16, patch_size=8, class_token=False, zoom=Zoom(medium=True, high=False, top_k=None))
    several = SequenceBuilder(tokenizer=tiny_tokenizer(), layout=layout, max_tokens=160)
    least = layout.zoom.num_crops
    assert least > 1
    for mode in ("padded", "grouped", "packed"):
        with pytest.raises(ValueError, match=rf"max_crops={least - 1} is less than the {least} crops of one image"):
            make_data(builder=several, batch={"mode": mode, "max_crops": least - 1})
        assert make_data(builder=several, batch={"mode": mode, "max_crops": least}).shape.max_crops == least
    bound, free = (make_data(batch={"mode": "padded", "size": 4, "max_crops": limit}) for limit in (2, None))
    assert free.fingerprint["batch"] == {"mode": "padded", "size": 4}
    assert bound.fingerprint["batch"] == {**free.fingerprint["batch"], "max_crops": 2, "lengths": ANY}
    assert (bound.samples_per_micro_batch, free.samples_per_micro_batch) == (2, 4)


def test_packs_are_at_least_95_percent_useful(make_data):
    data = make_data(batch={"mode": "packed", "max_tokens": 512, "buffer": 16}, epoch={"steps": 40})
    found = [useful_share(batch, 512) for batch in data.train_dataloader()]
    assert sum(found) / len(found) > 0.95


def test_a_planned_length_is_the_built_length(make_data):
    data = make_data(batch={"mode": "packed", "max_tokens": 160, "max_crops": 2, "pad_to": 160}, epoch={"steps": 60})
    for batch in data.train_dataloader():
        assert batch.input_ids.shape == (1, 160)
        assert batch.pixel_values is None or batch.pixel_values.shape[0] <= 2
        assert (batch.labels != IGNORE).any()


def test_groups_are_of_one_modality_and_waste_less_than_padding(make_data):
    grouped = make_data(batch={"mode": "grouped", "size": 4, "buffer": 16}, epoch={"steps": 40})
    padded = make_data(batch={"mode": "padded", "size": 4}, epoch={"steps": 40})
    one_kind = [len({*row}) == 1 for batch in grouped.train_dataloader() for row in [sum(batch.sources, ())]]
    assert sum(one_kind) / len(one_kind) > 0.9
    share = [sum(map(useful_share, data.train_dataloader())) / 40 for data in (grouped, padded)]
    assert share[0] > share[1] + 0.05


def test_a_pack_larger_than_a_sample_may_be_is_asked_for(make_data):
    with pytest.raises(ValueError, match=r"data\.batch\.max_tokens to at least 160"):
        make_data(batch={"mode": "packed", "max_tokens": 100})
    with pytest.raises(ValueError, match=r"data\.batch\.mode='pack' is unknown"):
        BatchShape(mode="pack")


def test_a_sample_without_a_supervised_token_is_refused(tmp_path, builder):
    silent = Record(key="silent", source="x", turns=(Turn(role="user", text="hello?"),))
    folder = write_shards(tmp_path, [silent, *(make_record(n, "x", images=0) for n in range(30))])
    fields = {"builder": builder, "pad_id": PAD, "num_workers": 0, "num_streams": 1, "epoch": {"steps": 12}}
    batch = {"mode": "packed", "max_tokens": 160}
    source = {"path": str(folder), "on_error": "skip"}
    data = DragonflyDataModule(train={"sources": {"x": source}}, batch=batch, max_skip_rate=0.5, **fields)
    keys = [key for found in data.train_dataloader() for row in found.keys for key in row]
    assert "silent" not in keys
    assert data.counts()["x"]["skipped"] >= 1
    with pytest.raises(ValueError, match=r"sample silent|#0"):
        list(
            DragonflyDataModule(
                train={"sources": {"x": source | {"on_error": "raise"}}}, batch=batch, **fields
            ).train_dataloader()
        )


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_validation_has_every_sample_exactly_once_for_any_number_of_ranks(make_data, two_sources, ranks):
    data = make_data(val={"sources": {n: {"path": p} for n, p in two_sources.items()}, "batch_size": 8})
    seen: Counter[str] = Counter()
    lengths = set()
    for rank in range(ranks):
        loader = data.val_dataloader()
        loader.numbers = range(rank, -(-len(loader.batches) // ranks) * ranks, ranks)
        batches = list(loader)
        lengths.add((len(loader), len(batches)))
        seen.update(key for batch in batches for row in batch.keys for key in row)
        for batch in batches:
            weights = batch.label_weights.sum(1)
            assert all((weight > 0) == bool(row) for weight, row in zip(weights, batch.keys, strict=True))
    assert len(lengths) == 1
    assert len(seen) == 200
    assert set(seen.values()) == {1}


@given(
    samples=st.integers(1, 500),
    size=st.integers(1, 20),
    ranks=st.integers(1, 5),
    accumulate=st.integers(1, 8),
    unit=st.sampled_from(["samples", "passes"]),
)
def test_an_epoch_of_samples_is_whole_optimizer_steps(samples, size, ranks, accumulate, unit):
    """Lightning would end the last step with the epoch, however few of its micro-batches there were."""
    epoch = {unit: samples if unit == "samples" else 1}
    least = micro_batches_per_rank(epoch, samples, lambda: float(size), ranks=ranks)
    assert (least - 1) * size * ranks < samples <= least * size * ranks
    length = micro_batches_per_rank(epoch, samples, lambda: float(size), ranks=ranks, accumulate=accumulate)
    assert length % accumulate == 0
    assert 0 <= length - least < accumulate


def test_the_loader_of_a_run_has_whole_optimizer_steps_or_says_that_it_has_not(make_data, caplog):
    trainer: Any = SimpleNamespace(world_size=1, global_rank=0, accumulate_grad_batches=7)
    data = make_data(batch={"mode": "padded", "size": 100}, epoch={"passes": 1})
    data.trainer = trainer
    assert len(list(data.train_dataloader())) == len(data.train_dataloader()) == 7
    assert not caplog.text
    data = make_data(epoch={"steps": 9})
    data.trainer = trainer
    assert len(data.train_dataloader()) == 9
    assert "data.epoch.steps=9 ends an epoch amid an optimizer step, which then has 2 of stage.acc" in caplog.text


class Counted(Reader):
    """A sample for each number of images."""

    def __init__(self, images: list[int]):
        self.images = images

    @property
    def digest(self) -> str:
        return str(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def record(self, index: int, epoch: int = 0) -> Record:
        if self.images[index] < 0:
            raise ValueError("it is bad.")
        return make_record(index, "x", images=self.images[index])


@given(
    images=st.lists(st.lists(st.integers(-1, 5), min_size=1, max_size=20), min_size=1, max_size=3),
    size=st.integers(1, 6),
    max_crops=st.integers(LAYOUT.zoom.num_crops, 4 * LAYOUT.zoom.num_crops),
    ranks=st.integers(1, 4),
    at_most=st.none() | st.integers(1, 5),
)
@settings(deadline=None, max_examples=60)
def test_validation_is_bounded_in_crops_and_has_every_sample_that_fits_exactly_once(
    make_data, images, size, max_crops, ranks, at_most
):
    one = LAYOUT.zoom.num_crops
    fitting = [[0 <= number * one <= max_crops for number in numbers] for numbers in images]
    assume(any(map(any, fitting)))
    sources = {f"s{n}": {"reader": Counted(numbers), "on_error": "skip"} for n, numbers in enumerate(images)}
    data = make_data(
        val={"sources": sources, "batch_size": size}, batch={"mode": "padded", "size": 4, "max_crops": max_crops}
    )
    trainer = SimpleNamespace(world_size=ranks, limit_val_batches=1.0 if at_most is None else at_most)
    seen: list[tuple[str, str]] = []
    told, lengths = [], set()
    with mock.patch.object(data._quarantine, "write", lambda source, error: told.append((source, error))):
        for rank in range(ranks):
            data.trainer = SimpleNamespace(**vars(trainer), global_rank=rank)  # type: ignore[assignment]
            loader = data.val_dataloader()
            batches = list(loader)
            lengths.add((len(loader), len(batches)))
            for batch in batches:
                assert batch.pixel_values is None or batch.pixel_values.shape[0] <= max_crops
                keys = [*zip(sum(batch.sources, ()), sum(batch.keys, ()), strict=True)]
                assert len(keys) <= size
                seen += keys
    every = [(f"s{n}", f"x-{place:05d}") for n, fits in enumerate(fitting) for place, fit in enumerate(fits) if fit]
    assert len(lengths) == 1
    assert len(seen) == len({*seen})
    of_all_ranks = ranks * max(length for length, _ in lengths)
    assert len(seen) <= data.val_samples(of_all_ranks) <= of_all_ranks * size
    if at_most is None:
        assert data.val_samples(of_all_ranks) == sum(map(len, images))
        assert sorted(seen) == every
    else:
        assert max(length for length, _ in lengths) <= at_most
        assert {*seen} <= {*every}
    for _, error in told:
        assert (
            error.too_long == ("crops are more than data.batch.max_crops" in str(error)) != ("it is bad" in str(error))
        )
    if at_most is None:
        assert len({(source, error.place) for source, error in told}) == sum(map(len, images)) - len(every)


def test_a_bound_that_is_not_reached_changes_no_micro_batch_of_validation(make_data, two_sources):
    val = {"sources": {n: {"path": p} for n, p in two_sources.items()}, "batch_size": 8}
    bound, free = (
        [batch.keys for batch in make_data(val=val, batch={"size": 4, "max_crops": limit}).val_dataloader()]
        for limit in (100, None)
    )
    assert bound == free


def test_it_is_said_that_many_samples_are_read_before_the_first_validation(make_data, monkeypatch, caplog):
    monkeypatch.setattr(validation, "MANY", 5)
    data = make_data(val={"sources": {"s": {"reader": Counted([1] * 5)}}}, batch={"size": 4, "max_crops": 100})
    data.val_dataloader()
    assert "all of its 5 samples are read once before they are shared out" in caplog.text
    caplog.clear()
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, limit_val_batches=2)  # type: ignore[assignment]
    data.val_dataloader()
    assert not caplog.text


def test_without_validation_there_is_no_loader(make_data):
    assert make_data().val_dataloader() == []


@pytest.mark.parametrize(
    ("epoch", "length"),
    [({"steps": 7}, 7), ({"samples": 40}, 10), ({"passes": 1}, 50), ({"steps": None, "passes": 2}, 100)],
)
def test_an_epoch_has_a_length_in_steps_samples_or_passes(make_data, epoch, length):
    assert len(make_data(epoch=epoch).train_dataloader()) == length


def test_an_epoch_has_one_unit(make_data):
    with pytest.raises(ValueError, match="must set one of steps, samples, passes"):
        make_data(epoch={"steps": 3, "passes": 1}).train_dataloader()


def test_an_epoch_holds_one_state_a_stream_however_long_it_is(make_data):
    batches = iter(make_data(epoch={"steps": 64}, num_streams=2).train_dataloader())
    for _ in range(60):
        next(batches)
    states = [found for found in gc.get_objects() if isinstance(found, dict) and found.keys() == {"stream", "state"}]
    assert 2 <= len(states) <= 3


@pytest.mark.parametrize("shape", [{"mode": "packed", "max_tokens": 320}, {"mode": "grouped", "size": 3}])
def test_a_sample_that_waits_is_read_and_tokenised_once(make_data, shape, monkeypatch):
    def batches(room: int):
        monkeypatch.setattr(Texts.__init__, "__defaults__", (room,))
        data, read = make_data(batch=shape, epoch={"steps": 24}), Counter()
        for source in data.mix.sources:
            record = source.reader.record
            monkeypatch.setattr(
                source.reader, "record", lambda index, epoch, record=record: read.update("r") or record(index, epoch)
            )
        built = list(data.train_dataloader())
        draws = sum(state["draws"] for state in data.position.streams.values())
        return built, read.total(), draws

    (once, num_once, draws), (twice, num_twice, _) = batches(2**20), batches(0)
    assert num_once == draws
    with_image = sum(key.startswith("pic") for batch in twice for row in batch.keys for key in row)
    assert num_twice == draws + with_image  # where there is no room for images they are read again
    assert all(torch.equal(a.input_ids, b.input_ids) and a.keys == b.keys for a, b in zip(once, twice, strict=True))
    assert [batch.state for batch in once] == [batch.state for batch in twice]


def test_kept_texts_never_exceed_their_room(make_data):
    data = make_data(batch={"mode": "packed", "max_tokens": 320})
    source, texts = data.mix.sources[0], Texts(3000)
    kept = [Drawn(0, index, 0) for index in range(20)]
    for drawn in kept:
        texts.keep(1, drawn, source.text(drawn.index, 0, data.builder))
    held = [drawn for drawn in kept if texts.take(1, drawn) is not None]
    assert 0 < len(held) < 20
    assert texts.room == 3000


def test_groups_choose_from_more_than_one_micro_batch():
    assert BatchShape.of({"mode": "grouped"}, size=16).buffer == 64
    assert BatchShape.of({"mode": "grouped", "size": 5, "buffer": 6}).buffer == 6
    for buffer in (4, 5):
        with pytest.raises(ValueError, match=rf"buffer={buffer} with data\.batch\.size=5 .* a buffer of 20"):
            BatchShape.of({"mode": "grouped", "size": 5, "buffer": buffer})
