"""Loaders with a length: training dealt from canonical streams to ranks and workers, validation counted exactly."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from dragonfly_lit.data.mix import Mix
from dragonfly_lit.data.order import SourceOrder
from dragonfly_lit.data.packing import BatchShape
from dragonfly_lit.data.position import Position
from dragonfly_lit.data.quarantine import Quarantine
from dragonfly_lit.data.samples import BadSampleError
from dragonfly_lit.data.source import Source
from dragonfly_lit.data.stream import Stream, Texts
from dragonfly_lit.processing.batches import collate
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Batch, Sequence
from dragonfly_lit.spec.tokens import IGNORE


@dataclass(frozen=True)
class Failure:
    """What a worker gives in place of a batch: torch would bury the message in a traceback, or lose its type."""

    error: ValueError | OSError


def _failure(error: ValueError | OSError) -> Failure:
    if get_worker_info() is None:
        raise error
    return Failure(error)


def whole(given: Iterable[Batch | Failure]) -> Iterator[Batch]:
    """The batches; a worker's failure is raised here as it was raised there."""
    for item in given:
        if isinstance(item, Failure):
            raise item.error
        yield item


class Streams(IterableDataset):
    """Micro-batches of one rank from a position on: step k comes from stream (start + k * ranks + rank) mod C.

    Args:
        mix: the sources.
        shape: what a micro-batch is.
        builder: turns samples into sequences.
        quarantine: where skipped samples go.
        order: seed, num_streams, block and window.
        collating: pad_id and weighting.
        rank: of this process.
        ranks: how many there are.
        start: micro-batches that all ranks together have consumed before.
        states: of the streams, as far as they have begun.
        length: micro-batches that this rank gives.
    """

    def __init__(
        self,
        *,
        mix: Mix,
        shape: BatchShape,
        builder: SequenceBuilder,
        quarantine: Quarantine,
        order: Mapping[str, int],
        collating: Mapping[str, Any],
        rank: int = 0,
        ranks: int = 1,
        start: int = 0,
        states: Mapping[int, Mapping[str, Any]] | None = None,
        length: int,
    ):
        self.mix, self.shape, self.builder, self.quarantine = mix, shape, builder, quarantine
        self.order, self.collating = dict(order), dict(collating)
        self.rank, self.ranks, self.start, self.length = rank, ranks, start, length
        self.states: dict[int, Any] = dict(states or {})

    def __iter__(self) -> Iterator[Batch | Failure]:
        try:
            yield from self._batches()
        except (ValueError, OSError) as error:
            yield _failure(error)

    def _batches(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        orders = [
            SourceOrder(
                s.name, len(s), self.order["seed"], self.order["num_streams"], self.order["block"], self.order["window"]
            )
            for s in self.mix.sources
        ]
        streams: dict[int, Stream] = {}
        texts = Texts()
        for k in range(first, self.length, step):
            number = (self.start + k * self.ranks + self.rank) % self.order["num_streams"]
            if number not in streams:
                streams[number] = Stream(
                    number,
                    mix=self.mix,
                    orders=orders,
                    shape=self.shape,
                    builder=self.builder,
                    quarantine=self.quarantine,
                    texts=texts,
                    state=self.states.get(number),
                )
            stream = streams[number]
            rows = stream.next_batch()
            state = {"stream": number, "state": stream.state()}
            yield collate(rows, pad_to=self.shape.pad_to, state=state, **self.collating)


class TrainLoader:
    """A finite epoch of micro-batches that goes on where `position` says.

    Each epoch starts its workers anew from what was marked as consumed. Where nobody marks (a plain `for batch in
    loader`), an epoch that was given to its end counts as consumed.
    """

    def __init__(self, streams: Streams, position: Position, *, num_workers: int, pin_memory: bool):
        self.streams, self.position = streams, position
        self.num_workers, self.pin_memory = num_workers, pin_memory

    def __len__(self) -> int:
        return self.streams.length

    def __iter__(self) -> Iterator[Batch]:
        self.streams.start = self.position.num_micro_batches
        self.streams.states = {**self.position.streams}
        last: dict[int, Any] = {}
        given = 0
        for batch in whole(make_loader(self.streams, self.num_workers, self.pin_memory)):
            assert batch.state is not None  # every batch of a stream carries one
            last[batch.state["stream"]] = batch.state
            given += 1
            yield batch
        if self.position.num_micro_batches == self.streams.start:
            self.position.mark_states(last.values(), given)


def _leave_signals_to_training(_worker: int) -> None:
    # A scheduler signals every process of a job, and a terminal does at Ctrl-C. A reader that died of it would take the
    # training process down with an error before it has saved; readers end when the training process does.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class _Loader(DataLoader):
    """Its readers end with the process, whatever ended it.

    Where an error leaves an epoch half read, the interpreter would ask the readers by SIGTERM to end and wait for them
    without end, since they leave that signal to training.
    """

    def _get_iterator(self) -> Any:
        iterator = super()._get_iterator()
        _readers.update(getattr(iterator, "_workers", ()))
        return iterator


_readers: WeakSet[BaseProcess] = WeakSet()


def _end_readers() -> None:
    for reader in list(_readers):
        if reader.is_alive():
            reader.kill()


Finalize(None, _end_readers, exitpriority=0)  # before multiprocessing waits for them


def make_loader(dataset: Dataset, num_workers: int, pin_memory: bool, **kwargs: Any) -> DataLoader:
    """A DataLoader over ready batches."""
    return _Loader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_training,
        **kwargs,
    )


class ValidationBatches(Dataset):
    """All samples of all sources in their order, `size` a batch or as many as `max_crops` allows.

    A sample that cannot be used is left out and written down as its source's `on_error` says, and so is one that has
    more crops alone; a batch of which nothing is left has one row without a label and no key. Where crops are bounded,
    the records are read once before, so that every rank knows how many batches there are.

    Args:
        mix: the sources.
        size: samples a batch at most.
        max_crops: of a batch; None sets no limit.
        builder: turns samples into sequences.
        quarantine: where samples that are left out go.
        collating: pad_id and weighting.
        at_most: batches that are made; None is all.
    """

    def __init__(
        self,
        *,
        mix: Mix,
        size: int,
        max_crops: int | None = None,
        builder: SequenceBuilder,
        quarantine: Quarantine,
        collating: Mapping[str, Any],
        at_most: int | None = None,
    ):
        self.mix, self.size, self.max_crops, self.builder, self.quarantine = mix, size, max_crops, builder, quarantine
        self.collating = dict(collating)
        found = ((number, places) for number, source in enumerate(mix.sources) for places in self._batches_of(source))
        self._batches = list(islice(found, at_most))

    def _batches_of(self, source: Source) -> Iterator[range]:
        """The places of a source's samples, batch for batch."""
        begin, room = 0, self.max_crops
        for index in range(len(source)):
            num_crops = 0 if self.max_crops is None or self.size == 1 else self._num_crops(source, index)
            if index - begin == self.size or (room is not None and begin < index and num_crops > room):
                yield range(begin, index)
                begin, room = index, self.max_crops
            room = None if room is None else room - num_crops
        yield range(begin, len(source))

    def _num_crops(self, source: Source, index: int) -> int:
        """What a sample brings to the vision tower: nothing where it will be left out."""
        assert self.max_crops is not None
        try:
            num_crops = len(source.record(index, 0).images) * self.builder.layout.zoom.num_crops
        except BadSampleError:  # told when its batch is made
            return 0
        return num_crops if num_crops <= self.max_crops else 0

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch | Failure:
        try:
            return self._batch(number)
        except (ValueError, OSError) as error:
            return _failure(error)

    def _batch(self, number: int) -> Batch:
        if number >= len(self):
            return self.empty_batch()
        which, places = self._batches[number]
        rows = [row for index in places if (row := self._build(which, index)) is not None]
        return collate(rows, **self.collating) if rows else self.empty_batch()

    def empty_batch(self) -> Batch:
        """A batch that counts nothing: what a rank gets when there is none left for it."""
        for which, source in enumerate(self.mix.sources):
            for index in range(len(source)):
                if (row := self._build(which, index)) is not None:
                    blank = replace(row, labels=torch.full_like(row.labels, IGNORE))
                    return replace(collate([blank], **self.collating), keys=((),), sources=((),))
        raise ValueError("no sample of data.val can be used; see the log.")

    def _build(self, which: int, index: int) -> Sequence | None:
        source = self.mix.sources[which]
        try:
            text = source.text(index, 0, self.builder, self.max_crops)
            return source.sequence(index, 0, self.builder, text)
        except BadSampleError as bad:
            if source.spec.on_error == "raise" and not bad.too_long:
                raise
            self.quarantine.write(source.name, bad)
            return None


class ValidationLoader:
    """Every validation batch exactly once over all ranks, as many batches on each of them."""

    def __init__(self, batches: ValidationBatches, *, rank: int, ranks: int, num_workers: int, pin_memory: bool):
        self.batches = batches
        self.numbers = range(rank, -(-len(batches) // ranks) * ranks, ranks)
        self.num_workers, self.pin_memory = num_workers, pin_memory

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Batch]:
        yield from whole(make_loader(self.batches, self.num_workers, self.pin_memory, sampler=self.numbers))
