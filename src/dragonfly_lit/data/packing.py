"""Which of the waiting samples go into the next micro-batch: pure functions of their lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any, Literal, get_args

from dragonfly_lit.spec.records import Batch

BALANCES = ("tokens", "flops")
Mode = Literal["padded", "packed", "grouped"]
WIDTH = 4
"""Micro-batches that wait to be grouped from, unless somebody says otherwise."""
WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "padded": ("max_tokens", "buffer", "balance"),
    "grouped": ("max_tokens", "balance"),
    "packed": ("size",),
}
"""Fields of `BatchShape` that a mode does not look at."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Length of a sample that waits, known before an image of it is decoded."""

    num_tokens: int
    num_crops: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a sample costs beside its tokens' way through the linear layers, counted in such tokens.

    Attributes:
        crop: one crop in the vision tower and the projector.
        pair: one pair of tokens of which the second sees the first.
    """

    crop: float | int
    pair: float | int

    def of(self, sample: Planned) -> int:
        """Tokens of text that cost as much as the sample; never fewer than it has."""
        pairs = sample.num_tokens * (sample.num_tokens + 1) // 2
        return sample.num_tokens + round(sample.num_crops * self.crop + pairs * self.pair)


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """What a micro-batch is.

    Attributes:
        mode: `padded`, `size` samples as they come; `grouped`, `size` samples of similar length, with an image or all
            without; `packed`, one row of up to `max_tokens` tokens. Of each no more than `max_crops` allows.
        size: samples a micro-batch when padded or grouped.
        max_tokens: tokens of a packed row.
        max_crops: crops a micro-batch may bring to the vision tower; None sets no limit. A sample that does not fit
            any more waits for the next one.
        pad_to: length of every row, for static shapes; None pads to the longest row.
        buffer: samples that wait to be chosen from when packed or grouped.
        balance: what fills a packed row up to `max_tokens`: `tokens`, or `flops`, where a sample counts as many tokens
            as cost what it costs, so that the rows of all ranks take equally long.
        cost: what `balance=flops` counts with.
    """

    mode: str = "padded"
    size: int = 16
    max_tokens: int = 4096
    max_crops: int | None = None
    pad_to: int | None = None
    buffer: int = 16
    balance: str = "tokens"
    cost: Cost | None = None

    def __post_init__(self) -> None:
        if self.balance not in BALANCES:
            raise ValueError(f"data.batch.balance={self.balance!r} is unknown. Use one of {', '.join(BALANCES)}.")
        if self.balance == "flops" and self.cost is None:
            raise ValueError(
                "data.batch.balance=flops needs the cost of a crop and of a pair of tokens: cost=Cost(...)."
            )
        if self.mode not in get_args(Mode):
            raise ValueError(f"data.batch.mode={self.mode!r} is unknown. Use one of {', '.join(get_args(Mode))}.")
        for name in ("size", "max_tokens", "buffer", "max_crops", "pad_to"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.batch.{name}={value} must be at least 1.")
        if self.mode == "grouped" and self.buffer <= self.size:
            raise ValueError(
                f"data.batch.buffer={self.buffer} with data.batch.size={self.size} leaves data.batch.mode=grouped "
                f"nothing to choose from. Use a buffer of {WIDTH * self.size}, or null."
            )

    @classmethod
    def of(
        cls,
        given: Mapping[str, Any],
        *,
        size: int | None = None,
        max_tokens: int | None = None,
        cost: Cost | None = None,
    ) -> BatchShape:
        """The shape that a configuration describes, where null stands for a default.

        Args:
            given: fields by name; None takes the default.
            size: what `size: null` means.
            max_tokens: what `max_tokens: null` means.
            cost: what `balance: flops` counts with.

        Raises:
            ValueError: an unknown field, a value of another type, or one that is set and without effect in this mode.
        """
        known = [field.name for field in fields(cls) if field.name != "cost"]
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"data.batch.{unknown[0]} is unknown. Use {', '.join(known)}.")
        chosen = {name: value for name, value in given.items() if value is not None}
        for name, value in chosen.items():
            if name not in ("mode", "balance") and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"data.batch.{name}={value} must be a whole number.")
        mode = chosen.get("mode", cls.mode)
        for name in WITHOUT_EFFECT.get(mode, ()):
            if name in chosen:
                modes = " or ".join(other for other, ignored in WITHOUT_EFFECT.items() if name not in ignored)
                raise ValueError(
                    f"data.batch.{name}={chosen[name]} has no effect with data.batch.mode={mode}. Leave it null, or "
                    f"set data.batch.mode={modes}."
                )
        defaults: dict[str, Any] = {"size": size, "max_tokens": max_tokens}
        if mode == "grouped":
            defaults["buffer"] = WIDTH * chosen.get("size", size or cls.size)
        return cls(**{name: value for name, value in defaults.items() if value is not None} | chosen, cost=cost)

    @property
    def num_waiting(self) -> int:
        """Samples that wait when some of them are chosen."""
        return self.size if self.mode == "padded" else self.buffer

    def choose(self, waiting: Sequence[Planned]) -> list[int]:
        """Places, in ascending order, of the waiting samples that go next; the oldest is always among them."""
        if self.mode == "padded":
            return first(waiting, self.size, self.max_crops)
        if self.mode == "grouped":
            return sorted(group(waiting, self.size, self.max_crops))
        if self.balance == "flops" and self.cost is not None:
            waiting = [replace(sample, num_tokens=self.cost.of(sample)) for sample in waiting]
        return sorted(fill(waiting, self.max_tokens, self.max_crops))


def fill(waiting: Sequence[Planned], max_tokens: int, max_crops: int | None) -> list[int]:
    """The oldest sample and those others that leave least of `max_tokens` unused within `max_crops`, older ones first.

    Exact, as a subset sum: bit t of `reach[n][c]` says whether some of the first n others have t tokens and c crops.
    """
    room = max(0, max_tokens - waiting[0].num_tokens)  # one that costs more than a row is a row of its own
    spare = None if max_crops is None else max_crops - waiting[0].num_crops
    mask = (1 << room + 1) - 1
    reach: list[dict[int, int]] = [{0: 1}]
    for sample in waiting[1:]:
        before, after = reach[-1], dict(reach[-1])
        for crops, sums in before.items():
            total = 0 if spare is None else crops + sample.num_crops
            if spare is None or total <= spare:
                after[total] = after.get(total, 0) | (sums << sample.num_tokens) & mask
        reach.append(after)
    tokens, crops = max((sums.bit_length() - 1, -crops) for crops, sums in reach[-1].items())
    chosen, crops = [0], -crops
    for place in range(len(waiting) - 1, 0, -1):
        if not reach[place - 1].get(crops, 0) >> tokens & 1:
            chosen.append(place)
            tokens -= waiting[place].num_tokens
            crops -= 0 if spare is None else waiting[place].num_crops
    return chosen


def first(waiting: Sequence[Planned], size: int, max_crops: int | None) -> list[int]:
    """The oldest samples in their order, up to the first that would bring more than `max_crops`."""
    totals = list(accumulate(sample.num_crops for sample in waiting[:size]))
    return [place for place, total in enumerate(totals) if not place or max_crops is None or total <= max_crops]


def group(waiting: Sequence[Planned], size: int, max_crops: int | None = None) -> list[int]:
    """The oldest sample and those most like it: with or without an image as it is, then nearest in length.

    Args:
        waiting: what is chosen from, the oldest first.
        size: how many are chosen.
        max_crops: that they may have; one that would have more is passed over.
    """
    oldest = waiting[0]

    def distance(place: int) -> tuple[bool, int, int]:
        sample = waiting[place]
        return bool(sample.num_crops) != bool(oldest.num_crops), abs(sample.num_tokens - oldest.num_tokens), place

    chosen, room = [], max_crops
    for place in sorted(range(len(waiting)), key=distance):
        num_crops = waiting[place].num_crops
        if len(chosen) < size and (room is None or num_crops <= room or not chosen):
            chosen.append(place)
            room = None if room is None else room - num_crops
    return chosen


def useful_share(batch: Batch, max_tokens: int | None = None) -> float:
    """Share of a batch's positions that hold a token, not padding.

    Args:
        batch: of any mode.
        max_tokens: what a packed row could have held; None counts the row as it is.
    """
    rows, width = batch.sample_ids.shape
    return int((batch.sample_ids >= 0).sum()) / (rows * max(width, max_tokens or 0))
