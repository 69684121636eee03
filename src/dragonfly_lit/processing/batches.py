"""Sequences to one batch: packed behind one another, padded to rows of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from dragonfly_lit.spec.outline import outline
from dragonfly_lit.spec.records import Batch, Crops, Sequence
from dragonfly_lit.spec.tokens import IGNORE

Weighting = Literal["token", "sample", "sqrt"]
Side = Literal["right", "left"]

_EXPONENT: dict[str, float] = {"token": 0.0, "sqrt": -0.5, "sample": -1.0}
"""Weight of a label: this power of the number of supervised tokens in its sample."""


def pack(sequences: Seq[Sequence]) -> Sequence:
    """The sequences behind one another in one row, numbered by `sample_ids` so that none sees another."""
    if not sequences:
        raise ValueError("no sequence to pack.")
    offsets, slots, offset, length = [], [], 0, 0
    for sequence in sequences:
        offsets.append(sequence.sample_ids + offset)
        slots.append(sequence.image_slots + length)
        offset += int(sequence.sample_ids.max()) + 1
        length += len(sequence)

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(sequence, name) for sequence in sequences])

    def chained(name: str) -> tuple:
        return tuple(item for sequence in sequences for item in getattr(sequence, name))

    return Sequence(
        input_ids=joined("input_ids"),
        labels=joined("labels"),
        position_ids=joined("position_ids"),
        sample_ids=torch.cat(offsets),
        branch_ids=joined("branch_ids"),
        question_mask=joined("question_mask"),
        image_slots=torch.cat(slots),
        crops=chained("crops"),
        keys=chained("keys"),
        sources=chained("sources"),
        kinds=chained("kinds"),
    )


def collate(
    sequences: Seq[Sequence],
    *,
    pad_id: int,
    weighting: Weighting = "token",
    pad_to: int | None = None,
    side: Side = "right",
    state: Mapping[str, Any] | None = None,
) -> Batch:
    """One batch, a sequence a row.

    Args:
        sequences: single or packed.
        pad_id: token id of padding; its label is IGNORE, its weight and position 0, its sample -1.
        weighting: `token` weighs every label 1; `sample` every sample the same, 1/n for its n labels; `sqrt` 1/sqrt(n).
        pad_to: length of the rows, for static shapes; None is the longest sequence.
        side: where padding goes: `right` for training, `left` for generation.
        state: position of the data stream after this batch.

    Raises:
        ValueError: a sequence is longer than `pad_to`, there is none, or an option is unknown.
    """
    if not sequences:
        raise ValueError("no sequence to collate.")
    for name, value, allowed in (("weighting", weighting, get_args(Weighting)), ("side", side, get_args(Side))):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is unknown. Use one of {', '.join(allowed)}.")
    longest = max(map(len, sequences))
    if pad_to is not None and longest > pad_to:
        raise ValueError(
            f"a sequence of {longest} tokens does not fit pad_to={pad_to}. Raise pad_to or cut the samples."
        )
    length = longest if pad_to is None else pad_to

    def rows(name: str, fill: int | bool) -> Tensor:
        return pad_rows([getattr(sequence, name) for sequence in sequences], length=length, fill=fill, side=side)

    sample_ids, branch_ids = rows("sample_ids", -1), rows("branch_ids", 0)
    labels = _without_first(rows("labels", IGNORE), sample_ids, branch_ids)
    position_ids = rows("position_ids", 0)
    starts = [row * length + (length - len(s) if side == "left" else 0) for row, s in enumerate(sequences)]
    slots = torch.cat([s.image_slots + start for s, start in zip(sequences, starts, strict=True)])
    pixel_values, image_grids = stack_crops(crops for sequence in sequences for crops in sequence.crops)
    return Batch(
        input_ids=rows("input_ids", pad_id),
        labels=labels,
        label_weights=_weights(labels, sample_ids, _EXPONENT[weighting]),
        position_ids=position_ids,
        sample_ids=sample_ids,
        branch_ids=branch_ids,
        question_mask=rows("question_mask", False),
        pixel_values=pixel_values,
        image_grids=image_grids,
        keys=tuple(sequence.keys for sequence in sequences),
        sources=tuple(sequence.sources for sequence in sequences),
        kinds=tuple(sequence.kinds for sequence in sequences),
        outline=outline(labels, sample_ids, branch_ids, position_ids, slots),
        state=state,
    )


def pad_rows(rows: Seq[Tensor], *, length: int, fill: int | bool, side: Side) -> Tensor:
    """One-dimensional tensors as rows of `length`, filled up with `fill` on one side."""
    padded = rows[0].new_full((len(rows), length), fill)
    for target, row in zip(padded, rows, strict=True):
        start = 0 if side == "right" else length - len(row)
        target[start : start + len(row)] = row
    return padded


def stack_crops(
    images: Iterable[Crops],
) -> tuple[UInt8[Tensor, "images crops 3 side side"] | None, Int[Tensor, "images 2 2"] | None]:
    """Crops and grids of all images in their order; None and None without an image."""
    images = tuple(images)
    if not images:
        return None, None
    pixels = images[0].pixels[None] if len(images) == 1 else torch.stack([i.pixels for i in images])
    return pixels, torch.tensor([[tuple(g) for g in i.grids] for i in images])


def _without_first(
    labels: Int[Tensor, "rows tokens"], sample_ids: Int[Tensor, "rows tokens"], branch_ids: Int[Tensor, "rows tokens"]
) -> Int[Tensor, "rows tokens"]:
    # The token before the first of a sample or of a branch does not predict it.
    first = torch.ones_like(labels, dtype=torch.bool)
    first[:, 1:] = (sample_ids.diff() != 0) | (branch_ids.diff() != 0)
    return labels.masked_fill(first, IGNORE)


def _weights(
    labels: Int[Tensor, "rows tokens"], sample_ids: Int[Tensor, "rows tokens"], exponent: float
) -> Float[Tensor, "rows tokens"]:
    supervised = (labels != IGNORE).float()
    samples = sample_ids.clamp(min=0)  # padding has no label, so it adds nothing to sample 0
    counts = torch.zeros(len(labels), int(samples.max()) + 1).scatter_add_(1, samples, supervised)
    return supervised * counts.gather(1, samples).clamp(min=1) ** exponent
