"""One source of a mix: where its records come from, which question is asked of them, what a bad one does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

from dragonfly_lit.data.failures import RemoteError
from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.samples import ask, check_record, one_question, to_sample
from dragonfly_lit.data.source_spec import SourceSpec
from dragonfly_lit.processing.sequences import SequenceBuilder, TokenizedSample, TooLongError
from dragonfly_lit.spec.records import Record, Sample, Sequence
from dragonfly_lit.spec.tokens import IGNORE


@runtime_checkable
class Reader(Protocol):
    """Where the records of a source come from: a folder of shards, or a class of one's own that inherits from this one.

    A run goes on exactly where it stopped if `record` is a function of its arguments alone: the same index and epoch
    give the same record in every process and on every day. What is random in it is drawn from a generator with the seed
    `(index, epoch)`. Each loader worker has a copy of the object, so it can be pickled; what cannot be (an open file, a
    connection) is opened when the first record is read.
    """

    @property
    def digest(self) -> str:
        """A text that changes when the data do: a checkpoint of other data is then refused by name."""
        ...

    def __len__(self) -> int:
        """How many records there are; at least one."""
        ...

    def record(self, index: int, epoch: int) -> Record:
        """The record at `index`, 0 to `len(self) - 1`, with its images as encoded bytes: JPEG, PNG or WebP.

        Args:
            index: of the record.
            epoch: how often the source was read before; most readers do not look at it.

        Raises:
            ValueError: the record cannot be used; the source's `on_error` says what then happens.
        """
        ...

    def describe(self, index: int) -> tuple[str, str]:
        """Where the record at `index` lies, for messages: a name, and a place there."""
        return type(self).__name__, f"#{index}"


class Text(NamedTuple):
    """A record with its question chosen, and its tokens."""

    record: Record
    tokenized: TokenizedSample


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source that is open."""

    spec: SourceSpec
    reader: Reader
    seed: int
    max_pixels: int | None = None
    preferences: bool | None = None
    """Whether every sample has a chosen and a rejected answer, or none has; None for either."""

    @property
    def name(self) -> str:
        """Its place in the config, nested names joined by `/`."""
        return self.spec.name

    def __len__(self) -> int:
        return len(self.reader)

    def record(self, index: int, epoch: int) -> Record:
        """The record at `index` with its question chosen for `epoch`, its images still encoded.

        Raises:
            BadSampleError: the sample cannot be used.
            RemoteError: the place where it lies cannot be read.
        """
        record = None
        try:
            record = self.reader.record(index, epoch)
            check_record(record)
            if self.preferences is not None and self.preferences != bool(record.rejected):
                raise ValueError(wrong_kind(self.preferences))
            turns = ask(record, self.spec.prompts, (self.seed, self.name, record.key, epoch))
            record = record if turns is record.turns else replace(record, turns=turns)
            if self.spec.questions == "one":
                return one_question(record, (self.seed, self.name, record.key, epoch))
            return record
        except RemoteError:  # of the place where the samples lie, so nothing is skipped for it
            raise
        except Exception as error:
            raise self.bad(index, error, record) from _unforeseen(error)

    def check_kind(self, key: str) -> None:
        """Refuse a source whose first sample is not of the kind that is learnt from; a bad one says nothing.

        Args:
            key: its config key.

        Raises:
            ValueError: names the key and the way out.
        """
        if self.preferences is None:
            return
        try:
            record = self.reader.record(0, 0)
            check_record(record)
        except Exception:  # told by whoever needs the sample
            return
        if self.preferences != bool(record.rejected):
            raise ValueError(f"{key}: sample {record.key}: {wrong_kind(self.preferences)}")

    def sample(self, index: int, record: Record, num_images: int | None = None) -> Sample:
        """The sample of a record that `record(index, epoch)` gave, its images, or the first of them, decoded."""
        try:
            return to_sample(record, record.turns, source=self.name, max_pixels=self.max_pixels, num_images=num_images)
        except Exception as error:
            raise self.bad(index, error, record) from _unforeseen(error)

    def length(self, index: int, record: Record, builder: SequenceBuilder) -> int:
        """How many tokens the sequence of a record has; no image is decoded.

        Raises:
            BadSampleError: the sample cannot be used, or is too long.
        """
        try:
            return builder.num_tokens(
                record.turns, len(record.images), share_image=record.share_image, rejected=record.rejected
            )
        except Exception as error:
            raise self.bad(index, error, record) from _unforeseen(error)

    def text(self, index: int, epoch: int, builder: SequenceBuilder, max_crops: int | None = None) -> Text:
        """The sample at `index`, read and tokenised; no image is decoded.

        Args:
            index: of the sample.
            epoch: in which it was drawn.
            builder: knows how long it becomes.
            max_crops: of a micro-batch; a sample that has more alone is too long.

        Raises:
            BadSampleError: the sample cannot be used, or is too long.
        """
        record = self.record(index, epoch)
        try:
            num_crops = len(record.images) * builder.layout.zoom.num_crops
            if max_crops is not None and num_crops > max_crops:
                raise TooLongError(f"{num_crops} crops are more than data.batch.max_crops={max_crops}")
            tokenized = builder.tokenize(
                record.turns, len(record.images), share_image=record.share_image, rejected=record.rejected
            )
            return Text(record, tokenized)
        except Exception as error:
            raise self.bad(index, error, record) from _unforeseen(error)

    def sequence(self, index: int, epoch: int, builder: SequenceBuilder, text: Text | None = None) -> Sequence:
        """The sequence of the sample at `index`: read, tokenised, and only if it fits decoded and cut into crops.

        Whatever a sample makes go wrong on this way, foreseen or not, is a `BadSampleError` with its name.

        Args:
            index: of the sample.
            epoch: in which it was drawn.
            builder: turns it into a sequence.
            text: what `text` has given for the same arguments, where somebody has kept it.

        Raises:
            BadSampleError: the sample cannot be used, or is too long.
        """
        record, tokenized = text or self.text(index, epoch, builder)
        try:
            sequence = builder.build(self.sample(index, record, tokenized.num_images), tokenized)
            if not bool((sequence.labels[1:] != IGNORE).any()):
                raise ValueError("no token of it is supervised.")
            return sequence
        except Exception as error:
            raise self.bad(index, error, record) from _unforeseen(error)

    def bad(self, index: int, error: Exception, record: Record | None = None) -> BadSampleError:
        """An error that the sample at `index` made, with its name and place.

        Args:
            index: of the sample.
            error: which may be a fault of ours: its type is then kept.
            record: of the sample, as far as it could be read.
        """
        shard, place = self.reader.describe(index)
        if isinstance(error, BadSampleError):
            error.place = place
            return error
        foreseen = isinstance(error, ValueError)
        reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
        if isinstance(error, IndexError) and record is None:
            reason += f". It is record {index} of the {len(self):,} that its __len__ promises."
        return BadSampleError(
            shard,
            place if record is None else record.key,
            reason,
            source="" if self.spec.reader is None else self.name,
            place=place,
            kind="" if foreseen else type(error).__name__,
            too_long=isinstance(error, TooLongError),
        )


def wrong_kind(preferences: bool) -> str:
    """What is said of a sample of the other kind.

    Args:
        preferences: whether the run learns from preferences.
    """
    if preferences:
        return (
            "it has no chosen and rejected answer, which stage=dpo learns from. Pack both, take data=demo_preferences, "
            "or another stage."
        )
    return "it has a chosen and a rejected answer, of which this run would learn the first alone. Use stage=dpo."


def _unforeseen(error: Exception) -> Exception | None:
    """`error` where its traceback tells more than its message; a `ValueError` says all there is to say."""
    return None if isinstance(error, ValueError) else error
