"""What a mix comes to before anything is decoded: micro-batches an epoch, epochs a source, tokens and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dragonfly_lit.data.mix import Mix, Source
from dragonfly_lit.data.packing import BatchShape, Planned
from dragonfly_lit.data.samples import BadSampleError
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


def tokens_per_sample(mix: Mix, builder: SequenceBuilder) -> float:
    """Mean over the mix, images included, from the probed lengths."""
    return sum(plan.share * plan.tokens_per_sample for plan in plan_mix(mix, builder, 1.0))


def samples_per_micro_batch(mix: Mix, shape: BatchShape, builder: SequenceBuilder) -> float:
    """`size`, or for packs an estimate from the probed lengths."""
    if shape.mode != "packed":
        return float(shape.size)
    plans = plan_mix(mix, builder, 1.0)
    images = sum(plan.share * plan.images_per_sample for plan in plans)
    return samples_in_row(shape, builder, sum(plan.share * plan.tokens_per_sample for plan in plans), images)


def samples_in_row(shape: BatchShape, builder: SequenceBuilder, tokens: float, images: float) -> float:
    """`size`, or how many samples of these means a packed row holds.

    Args:
        shape: what a micro-batch is.
        builder: knows how many crops an image has.
        tokens: of a sample, images included.
        images: of a sample.
    """
    if shape.mode != "packed":
        return float(shape.size)
    crops = images * builder.layout.zoom.num_crops
    one = Planned(num_tokens=round(tokens), num_crops=round(crops))
    by_tokens = shape.max_tokens * EXPECTED_FILL / (tokens if shape.cost is None else shape.cost.of(one))
    by_crops = shape.max_crops / crops if shape.max_crops and crops else by_tokens
    return max(1.0, min(by_tokens, by_crops))


def packing_note(mix: Mix, shape: BatchShape, builder: SequenceBuilder, batch_size: int | None) -> str | None:
    """What a packed micro-batch is, beside what the recipe says of samples; None where the recipe decides.

    Args:
        mix: the sources.
        shape: what a micro-batch is.
        builder: tells lengths.
        batch_size: samples a micro-batch by the model's recipe.
    """
    if shape.mode != "packed" or batch_size is None:
        return None
    tokens = sum(plan.share * plan.tokens_per_sample for plan in plan_mix(mix, builder, 1.0))
    num_samples = samples_per_micro_batch(mix, shape, builder)
    return (
        f"data.batch.mode=packed: a micro-batch is a row of up to {shape.max_tokens:,} tokens, about {num_samples:.1f} "
        f"samples of {tokens:,.0f} tokens; the recipe's batch_size={batch_size}, about {batch_size * tokens:,.0f} "
        "tokens, is not used. data.batch.max_tokens decides how much a step reads."
    )


def micro_batches_per_rank(
    epoch: Mapping[str, Any], mix: Mix, shape: BatchShape, builder: SequenceBuilder, *, ranks: int
) -> int:
    """Length of a rank's epoch.

    Args:
        epoch: one of `steps` (micro-batches a rank), `samples` (of all ranks together), `passes` (over all sources
            together: as many draws as there are samples).
        mix: the sources.
        shape: what a micro-batch is.
        builder: tells lengths.
        ranks: processes that share `samples` and `passes`.

    Raises:
        ValueError: none or several of the three, or one that is not above 0.
    """
    given = {key: value for key, value in epoch.items() if value is not None}
    if len(given) != 1 or next(iter(given)) not in _UNITS or not next(iter(given.values())) > 0:
        raise ValueError(f"data.epoch={dict(epoch)} must set one of {', '.join(_UNITS)}, above 0.")
    unit, value = next(iter(given.items()))
    if unit == "steps":
        return int(value)
    samples = value if unit == "samples" else value * len(mix)
    return max(1, -(-int(samples) // max(1, round(samples_per_micro_batch(mix, shape, builder) * ranks))))
