"""What decides the order of samples and packs: a checkpoint goes on only with data of the same fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dragonfly_lit.data.mix import Mix
from dragonfly_lit.data.packing import BatchShape
from dragonfly_lit.data.stream import ORDER_VERSION
from dragonfly_lit.processing.sequences import SequenceBuilder


def fingerprint(mix: Mix, shape: BatchShape, builder: SequenceBuilder, order: Mapping[str, int]) -> dict[str, Any]:
    """Of training data, as a checkpoint keeps it; the weights of the sources are not in it and may change on purpose.

    Args:
        mix: the open sources.
        shape: of the batches.
        builder: turns samples into sequences.
        order: seed, streams and shuffling.
    """
    return {
        "order": {"version": ORDER_VERSION, **order},
        "batch": _of_batches(shape, builder),
        "names": " ".join(source.name for source in mix.sources),
        "sources": {source.name: {"samples": len(source), "shards": source.reader.digest} for source in mix.sources},
    }


def _of_batches(shape: BatchShape, builder: SequenceBuilder) -> dict[str, Any]:
    """The fields of the shape that matter in its mode; where lengths deal out samples, what these depend on as well."""
    found: dict[str, Any] = {"mode": shape.mode}
    if shape.mode != "packed":
        found["size"] = shape.size
    if shape.mode != "padded":
        found["buffer"] = shape.buffer
    if shape.mode == "packed":
        found["max_tokens"] = shape.max_tokens
        if shape.balance == "flops" and shape.cost is not None:
            found["balance"] = {"crop": shape.cost.crop, "pair": shape.cost.pair}
    if shape.mode == "packed" or shape.max_crops is not None:
        found["max_crops"] = shape.max_crops
    if shape.mode != "padded" or shape.max_crops is not None:
        found["lengths"] = _lengths_digest(builder)
    return found


def _lengths_digest(builder: SequenceBuilder) -> str:
    """Of everything that a sample's planned length depends on: tokenizer, prompt format, layout, limits."""
    text = "A probe: 0123, Ünïcode; <|eot_id|>\n\tthe end."
    probe = builder.tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = [
        list(probe),
        len(builder.tokenizer),
        builder.layout.num_tokens,
        builder.layout.zoom.num_crops,
        builder.max_tokens,
        builder.supervise,
        builder.too_long,
        *([builder.chat.template] if builder.chat.template else []),
        *(["in_place"] if builder.chat.in_place else []),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
