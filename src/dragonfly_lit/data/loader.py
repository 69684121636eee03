"""Loaders with a length: training dealt from canonical streams to ranks and workers, and what validation shares."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
from dragonfly_lit.data.stream import Stream, Texts
from dragonfly_lit.processing.batches import collate
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Batch


@dataclass(frozen=True)
class Failure:
    """What a worker gives in place of a batch: torch would bury the message in a traceback, or lose its type."""

    error: ValueError | OSError


def failure_of(error: ValueError | OSError) -> Failure:
    """What a worker hands over in place of a batch; without workers the error is raised where it is."""
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
            yield failure_of(error)

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
