"""What a mix comes to before anything is decoded: micro-batches an epoch, epochs a source, tokens and images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.mix import Mix, Source
from dragonfly_lit.data.packing import BatchShape, Planned
from dragonfly_lit.processing.sequences import SequenceBuilder

PROBED = 64
"""Samples of a source whose length is taken for all of it."""
EXPECTED_FILL = 0.95
_UNITS = ("steps", "samples", "passes")


@dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """What a number of draws means for one source.

    Attributes:
        name: of the source.
        samples: in the source.
        share: of the draws.
        draws: from it.
        epochs: how often each of its samples is read.
        tokens_per_sample: mean over a probe, image tokens included.
        images_per_sample: likewise.
    """

    name: str
    samples: int
    share: float
    draws: float
    epochs: float
    tokens_per_sample: float
    images_per_sample: float


def probe(source: Source, builder: SequenceBuilder) -> tuple[float, float]:
    """Mean tokens and images of a few samples spread evenly over the source; bad ones are passed over."""
    step = max(1, len(source) // PROBED)
    tokens, images, used = 0, 0, 0
    for index in range(0, len(source), step)[:PROBED]:
        try:
            record = source.record(index, 0)
            tokens += source.length(index, record, builder)
        except BadSampleError:
            continue
        images += len(record.images)
        used += 1
    return (tokens / used, images / used) if used else (float(builder.max_tokens), 1.0)


def plan_mix(mix: Mix, builder: SequenceBuilder, num_draws: float) -> list[SourcePlan]:
    """What `num_draws` samples from the mix are made of."""
    plans = []
    for source, share in zip(mix.sources, mix.shares, strict=True):
        tokens, images = probe(source, builder)
        draws = num_draws * share
        plans.append(
            SourcePlan(
                name=source.name,
                samples=len(source),
                share=share,
                draws=draws,
                epochs=draws / len(source),
                tokens_per_sample=tokens,
                images_per_sample=images,
            )
        )
    return plans


class Means(NamedTuple):
    """Of a sample of a mix: its tokens, images included, and its images."""

    tokens: float
    images: float


def means(mix: Mix, builder: SequenceBuilder) -> Means:
    """Of the samples that are drawn from a mix. Every source is probed, so ask once."""
    return means_of(plan_mix(mix, builder, 1.0))


def means_of(plans: Iterable[SourcePlan]) -> Means:
    """Of the samples that are drawn from all of these sources."""
    plans = list(plans)
    tokens = sum(plan.share * plan.tokens_per_sample for plan in plans)
    return Means(tokens, sum(plan.share * plan.images_per_sample for plan in plans))


def samples_in_row(shape: BatchShape, builder: SequenceBuilder, mean: Means) -> float:
    """How many samples of these means a micro-batch holds: `size` or what fits a packed row, within `max_crops`.

    Args:
        shape: what a micro-batch is.
        builder: knows how many crops an image has.
        mean: of a sample.
    """
    crops = mean.images * builder.layout.zoom.num_crops
    if shape.mode != "packed":
        return float(max(1, min(shape.size, shape.max_crops // crops)) if shape.max_crops and crops else shape.size)
    one = Planned(num_tokens=round(mean.tokens), num_crops=round(crops))
    by_tokens = shape.max_tokens * EXPECTED_FILL / (mean.tokens if shape.cost is None else shape.cost.of(one))
    by_crops = shape.max_crops / crops if shape.max_crops and crops else by_tokens
    return max(1.0, min(by_tokens, by_crops))


def packing_note(shape: BatchShape, builder: SequenceBuilder, batch_size: int, mean: Means) -> str:
    """What a packed micro-batch is, beside what the recipe says of samples.

    Args:
        shape: what a micro-batch is.
        builder: knows how many crops an image has.
        batch_size: samples a micro-batch by the model's recipe.
        mean: of a sample.
    """
    num_samples = samples_in_row(shape, builder, mean)
    return (
        f"data.batch.mode=packed: a micro-batch is a row of up to {shape.max_tokens:,} tokens, about {num_samples:.1f} "
        f"samples of {mean.tokens:,.0f} tokens; the recipe's batch_size={batch_size}, about "
        f"{batch_size * mean.tokens:,.0f} tokens, is not used. data.batch.max_tokens decides how much a step reads."
    )


def micro_batches_per_rank(
    epoch: Mapping[str, Any], num_samples: int, in_micro_batch: Callable[[], float], *, ranks: int, accumulate: int = 1
) -> int:
    """Length of a rank's epoch: of samples and passes whole optimizer steps, since Lightning ends one with the epoch.

    Args:
        epoch: one of `steps` (micro-batches a rank), `samples` (of all ranks together), `passes` (over all sources
            together: as many draws as there are samples).
        num_samples: of all sources.
        in_micro_batch: how many samples a micro-batch holds; not asked where the epoch is given in steps.
        ranks: processes that share `samples` and `passes`.
        accumulate: micro-batches of a rank in an optimizer step.

    Raises:
        ValueError: none or several of the three, or one that is not above 0.
    """
    given = {key: value for key, value in epoch.items() if value is not None}
    if len(given) != 1 or next(iter(given)) not in _UNITS or not next(iter(given.values())) > 0:
        raise ValueError(f"data.epoch={dict(epoch)} must set one of {', '.join(_UNITS)}, above 0.")
    unit, value = next(iter(given.items()))
    if unit == "steps":
        return int(value)
    samples = value if unit == "samples" else value * num_samples
    micro_batches = max(1, -(-int(samples) // max(1, round(in_micro_batch() * ranks))))
    return -(-micro_batches // accumulate) * accumulate
