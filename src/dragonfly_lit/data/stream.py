"""One canonical stream: draws samples from the mix, lets them wait, gives micro-batches, and says where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.mix import Mix
from dragonfly_lit.data.order import SourceOrder
from dragonfly_lit.data.packing import BatchShape, Planned
from dragonfly_lit.data.quarantine import Quarantine
from dragonfly_lit.data.source import Text
from dragonfly_lit.processing.batches import pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sequence

READ, SKIPPED, TOO_LONG, CUT = range(4)
"""Places in a source's counts."""
ORDER_VERSION = 1
"""Raised when the same seed would give another order."""


class Drawn(NamedTuple):
    """A sample by its place: source number, index in the source, epoch in which it was drawn."""

    source: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # nobody searches this tuple
    epoch: int


class Waiting(NamedTuple):
    """A drawn sample that waits to be chosen, and its length."""

    drawn: Drawn
    planned: Planned

    def to_list(self) -> list[int]:
        return [*self.drawn, self.planned.num_tokens, self.planned.num_crops]

    @classmethod
    def from_list(cls, numbers: list[int]) -> Waiting:
        return cls(Drawn(*numbers[:3]), Planned(num_tokens=numbers[3], num_crops=numbers[4]))


class Texts:
    """What was read and tokenised of the samples that wait, so that a sample is read once.

    It is not a part of a stream's state: what a resumed run, or one short of memory, does not find is read again.

    Args:
        max_bytes: of encoded images that are kept.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self.room = max_bytes
        self._kept: dict[tuple[int, Drawn], Text] = {}

    def keep(self, stream: int, drawn: Drawn, text: Text) -> None:
        """Keep the text of a sample that a stream has drawn, if there is room for its images."""
        if (size := _size(text)) <= self.room:
            self.room -= size
            self._kept[stream, drawn] = text

    def take(self, stream: int, drawn: Drawn) -> Text | None:
        """What was kept of a sample; it is kept no longer."""
        text = self._kept.pop((stream, drawn), None)
        if text is not None:
            self.room += _size(text)
        return text


def _size(text: Text) -> int:
    return sum(map(len, text.record.images))


class Stream:
    """Micro-batches of stream number `number`, without end.

    Args:
        number: of the stream, 0 to C-1.
        mix: the sources.
        orders: the order of each source.
        shape: what a micro-batch is.
        builder: turns samples into sequences; its lengths decide the packs.
        quarantine: where skipped samples go.
        texts: of the samples that wait; several streams may share one.
        state: a `state()` to go on from; None starts at the beginning.
    """

    def __init__(
        self,
        number: int,
        *,
        mix: Mix,
        orders: list[SourceOrder],
        shape: BatchShape,
        builder: SequenceBuilder,
        quarantine: Quarantine,
        texts: Texts | None = None,
        state: Mapping[str, Any] | None = None,
    ):
        self.number, self.mix, self.orders, self.shape = number, mix, orders, shape
        self.builder, self.quarantine = builder, quarantine
        self.texts = texts or Texts()
        state = state or {}
        self.num_batches: int = state.get("batches", 0)
        self.num_draws: int = state.get("draws", 0)
        self.positions = [tuple(p) for p in state.get("positions", [(0, 0, 0)] * len(mix.sources))]
        self.counts = [list(c) for c in state.get("counts", [[0] * 4] * len(mix.sources))]
        self.waiting = [Waiting.from_list(numbers) for numbers in state.get("waiting", [])]

    def state(self) -> dict[str, Any]:
        """Where the stream stands: plain integers and lists."""
        return {
            "batches": self.num_batches,
            "draws": self.num_draws,
            "positions": [list(p) for p in self.positions],
            "counts": [list(c) for c in self.counts],
            "waiting": [waiting.to_list() for waiting in self.waiting],
        }

    def draw(self) -> Drawn:
        """The next sample's place; moves the cursor."""
        source = self.mix.draw(self.number, self.num_draws)
        index, position = self.orders[source].take(self.number, *self.positions[source])
        self.positions[source] = position
        self.num_draws += 1
        self.counts[source][READ] += 1
        return Drawn(source, index, position[0])

    def next_batch(self) -> list[Sequence]:
        """The rows of the next micro-batch.

        Raises:
            BadSampleError: a bad sample of a source with `on_error: raise`.
            ValueError: too many bad samples of one with `on_error: skip`.
        """
        give = {"packed": self._packed, "grouped": self._chosen, "padded": self._padded}[self.shape.mode]
        while not (rows := give()):
            pass
        self.num_batches += 1
        return rows

    def _padded(self) -> list[Sequence]:
        if self.shape.max_crops is not None:  # whose samples are planned before they are decoded
            return self._chosen()
        rows: list[Sequence] = []
        while len(rows) < self.shape.size:
            if (sequence := self._build(self.draw())) is not None:
                rows.append(sequence)
        return rows

    def _chosen(self) -> list[Sequence]:
        return [sequence for drawn in self._take() if (sequence := self._build(drawn)) is not None]

    def _packed(self) -> list[Sequence]:
        kept = self._chosen()
        return [pack(kept)] if kept else []

    def _take(self) -> list[Drawn]:
        """Refill what waits, and take out what goes next."""
        while len(self.waiting) < self.shape.num_waiting:
            drawn = self.draw()
            if (planned := self._plan(drawn)) is not None:
                self.waiting.append(Waiting(drawn, planned))
        chosen = self.shape.choose([waiting.planned for waiting in self.waiting])
        taken = [self.waiting[place].drawn for place in chosen]
        self.waiting = [waiting for place, waiting in enumerate(self.waiting) if place not in chosen]
        return taken

    def _plan(self, drawn: Drawn) -> Planned | None:
        """Length of a sample, its images still encoded; None where it cannot be used."""
        source = self.mix.sources[drawn.source]
        try:
            text = source.text(drawn.index, drawn.epoch, self.builder, self.shape.max_crops)
        except BadSampleError as error:
            self._refuse(drawn, error)
            return None
        self.texts.keep(self.number, drawn, text)
        num_crops = len(text.record.images) * self.builder.layout.zoom.num_crops
        return Planned(num_tokens=len(text.tokenized), num_crops=num_crops)

    def _build(self, drawn: Drawn) -> Sequence | None:
        """The sequence of a sample, its images decoded and cut; None where it cannot be used."""
        source = self.mix.sources[drawn.source]
        num_cut = self.builder.counts.samples_cut
        try:
            text = self.texts.take(self.number, drawn)
            sequence = source.sequence(drawn.index, drawn.epoch, self.builder, text)
        except BadSampleError as error:
            self._refuse(drawn, error)
            return None
        self.counts[drawn.source][CUT] += self.builder.counts.samples_cut - num_cut
        self.quarantine.good(source.name)
        return sequence

    def _refuse(self, drawn: Drawn, error: BadSampleError) -> None:
        """Raise, or write down and count, what cannot be used. What is only too long is never raised at once."""
        source, counts = self.mix.sources[drawn.source], self.counts[drawn.source]
        if error.too_long:
            counts[TOO_LONG] += 1
            self.quarantine.too_long(source.name, error)
            return
        if source.spec.on_error == "raise":
            raise error
        counts[SKIPPED] += 1
        self.quarantine.skip(source.name, error, size=len(source), num_read=counts[READ], num_skipped=counts[SKIPPED])
