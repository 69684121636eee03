"""Validation: every sample once over all ranks, in its order, in batches that are bounded as those of training are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset

from dragonfly_lit.data.loader import Failure, failure_of, make_loader, whole
from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.mix import Mix
from dragonfly_lit.data.quarantine import Quarantine
from dragonfly_lit.data.source import Source
from dragonfly_lit.processing.batches import collate
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Batch, Sequence
from dragonfly_lit.spec.tokens import IGNORE

MANY = 10_000
"""Samples whose reading takes so long that it is said."""
log = logging.getLogger(__name__)


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
        num_samples = sum(map(len, mix.sources))
        if max_crops is not None and size > 1 and at_most is None and num_samples >= MANY:
            log.warning(
                "data.val: data.batch.max_crops bounds its micro-batches, so all of its %d samples are read once "
                "before they are shared out. A number as trainer.limit_val_batches reads no more than that needs.",
                num_samples,
            )
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

    def num_samples(self, num_batches: int) -> int:
        """How many samples so many batches hold, those that will be left out included."""
        return sum(len(places) for _, places in self._batches[:num_batches])

    def __getitem__(self, number: int) -> Batch | Failure:
        try:
            return self._batch(number)
        except (ValueError, OSError) as error:
            return failure_of(error)

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
