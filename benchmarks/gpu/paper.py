"""Steps of this check that were not run, on paper: seconds by kernels' floors, memory as `plan` counts it.

    python -m benchmarks.gpu.paper        # needs no GPU

Products run at the rate of the card's own large bfloat16 product, attention at the rate of v1's measured stage 1, and
everything else at the card's rate of copying: what compiled blocks read and write, logits, and the passes of gradients,
masters and optimizer over the weights. Three steps that were measured say how far above its floor a step is, and the
largest and the smallest of these ratios bound those that were not. They were measured with one pass more over the
gradients (8 bytes a weight where there are 4 now), which their floors have. FP8 is a bound: products of the language
model's layers at twice the rate, and nothing for the casts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.gpu.training import batches
from benchmarks.train_step import SIZES, stage_of
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.flops import PEAK_FLOPS, Trained, Work, step_flops
from dragonfly_lit.models.tiny import tiny_config
from dragonfly_lit.training.costs import memory, sharding_units
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.stages import freeze

RESULTS = Path(__file__).parent / "results/h200.json"
PEAK = PEAK_FLOPS["H200"]
AGAIN = 2.5
"""Backward of flash attention to its forward: four products, and the scores once more."""
MASTERS = 6 + 4 + 32 + 6
"""Bytes a trained weight: its gradient into float32, its norm, AdamW with the gradient written back, its rounding."""
SHARDS = 2 * (6 + 4) + 14 + 4 + 32
"""Likewise: rounded and laid together for two gathers, its gradient taken apart and summed, its norm, AdamW."""
MEASURED_PASS = 4
LOGITS = 30
"""Bytes a logit: head, float32, log-softmax, and the gradient back through them."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A step: what `benchmarks/gpu/training.py` would run, and its entry of the results where it did."""

    name: str
    size: str
    stage: str
    turns: tuple[int, ...] = (3, 3, 2)
    layers: int | None = None
    shards: bool = False
    mode: Any = "none"
    fp8: bool = False
    measured: str | None = None


ROWS = (
    Row(name="v1, stage 1", size="v1", stage="1", measured="v1 stage1"),
    Row(name="v2, stage 1", size="v2", stage="1", turns=(2, 2), measured="v2 stage1"),
    Row(name="1B, stage 2", size="1b", stage="2", measured="stage2 1b"),
    Row(name="1B, stage 2, FSDP", size="1b", stage="2", shards=True),
    Row(name="1B, stage 2, FP8", size="1b", stage="2", fp8=True),
    *(
        Row(name=f"a quarter of 8B, stage 2, FSDP, {mode}", size="v1", stage="2", layers=8, shards=True, mode=mode)
        for mode in ("none", "selective", "full")
    ),
    Row(name="a quarter of 8B, stage 2, FSDP, FP8", size="v1", stage="2", layers=8, shards=True, fp8=True),
)


def floor(row: Row, *, products: float, copying: float, attending: float) -> dict[str, float]:
    """Seconds of a step by what they go to, and what it holds; FLOPs are those of MFU.

    Args:
        row: the step.
        products: FLOP/s of matrix products.
        copying: bytes/s read and written.
        attending: FLOP/s of attention.
    """
    config = _config(row)
    text, trains, found = config.text_config, row.stage == "2", _work(row)
    trained = Trained(vision=trains, projector=True, language=trains)
    flops = step_flops(config, found, trained)
    attention = _attention(row, found)
    forward = flops["language"] - attention
    computed = sum(flops.values()) - 3 * attention + (forward + flops["vision"] * trains) * (row.mode == "full")
    if row.fp8:  # at twice the rate, what casting costs left out
        head = 2 * found.supervised * text.hidden_size * text.vocab_size
        computed -= 3 * (forward - head) / 2
    with torch.device("meta"):
        model = DragonflyForConditionalGeneration(config)
    freeze(model, stage_of(row.stage, steps=1))
    units = sharding_units(TrainingNetwork(model))
    weights = sum(unit.trained for unit in units)
    passes = SHARDS if row.shards else MASTERS
    layers = found.tokens * text.num_hidden_layers
    blocks = layers * (36 * text.hidden_size + 16 * text.intermediate_size) * (4 / 3 if row.mode != "none" else 1)
    logits = LOGITS * found.supervised * text.vocab_size
    held = memory(
        config,
        units,
        _work(row, max),
        kind="sharded" if row.shards else "bfloat16",
        trains=(trains, trains),
        checkpointing=(row.mode, row.mode),
        repeated_heads=False,
        compiled=True,
    )
    return {
        "flops": sum(flops.values()),
        "products": computed / products,
        "attention": (1 + AGAIN + (row.mode == "full")) * attention / attending,
        "blocks and logits": (blocks + logits) / copying,
        "weights": (passes + MEASURED_PASS * (row.measured is not None)) * weights / copying,
        "gb": held.total / 1e9,
    }


def _config(row: Row) -> Any:
    sizes: dict[str, Any] = SIZES[row.size]
    if row.layers:
        sizes = sizes | {"text": sizes["text"] | {"num_hidden_layers": row.layers}}
    return tiny_config(**sizes, feature_layer=-2)


def _work(row: Row, of: Callable[[list[int]], float] = fmean) -> Work:
    """Of the batches that the measured steps take in turns, their mean or the largest."""
    made = batches(_config(row), number=len(row.turns), per_batch=8, longest=400)
    many = [batch for batch, times in zip(made, row.turns, strict=True) for _ in range(times)]
    return Work(
        images=8,
        tokens=round(of([batch.input_ids.numel() for batch in many])),
        pairs=round(of([int((batch.position_ids + 1).sum()) for batch in many])),
        supervised=round(of([batch.outline.supervised.numel() for batch in many])),
    )


def _attention(row: Row, work: Work) -> int:
    text = _config(row).text_config
    return 4 * work.pairs * text.num_hidden_layers * text.head_dim * text.num_attention_heads


def estimate() -> list[dict[str, Any]]:
    """Floor, measured seconds or their bounds, MFU and memory of every row."""
    results = json.loads(RESULTS.read_text())
    card = results["machine"]["ceilings"]
    runs = results[next(key for key in results if key.startswith("commit 728e259"))]
    seconds = runs["v1 stage1"]["profile"]["by_kind_s"]["attention"]
    attending = (1 + AGAIN) * _attention(ROWS[0], _work(ROWS[0])) / seconds
    found = []
    for row in ROWS:
        parts = floor(row, products=card["bf16_tflops"] * 1e12, copying=card["copy_tb_s"] * 1e12, attending=attending)
        gb, flops = parts.pop("gb"), parts.pop("flops")
        run = runs[row.measured] if row.measured else None
        found.append({"row": row.name, "floor": sum(parts.values()), "flops": flops, "gb": gb, "measured": run} | parts)
    ratios = [entry["measured"]["s_a_step"] / entry["floor"] for entry in found if entry["measured"]]
    for entry, row in zip(found, ROWS, strict=True):
        entry["seconds"] = [ratio * entry["floor"] for ratio in (min(ratios), max(ratios))]
        if row.measured or row.fp8:
            entry["seconds"] = [entry["measured"]["s_a_step"] if row.measured else entry["floor"]]
        entry["mfu"] = [entry["flops"] / seconds / PEAK for seconds in entry["seconds"]]
    return found


def table(found: list[dict[str, Any]]) -> str:
    """What `estimate` has given, in Markdown."""
    lines = ["| | floor | of it for weights | s a step | MFU | GB |", "|---|---|---|---|---|---|"]
    for entry, row in zip(found, ROWS, strict=True):
        seconds = " to ".join(f"{value:.3f}" for value in entry["seconds"])
        mfu = " to ".join(f"{100 * value:.0f}" for value in sorted(entry["mfu"]))
        seconds, mfu = (f"at least {seconds}", f"at most {mfu}") if row.fp8 else (seconds, mfu)
        lines.append(
            f"| {row.name} | {entry['floor']:.3f} | {entry['weights']:.3f} | "
            f"{seconds} ({'measured' if row.measured else 'not run'}) | {mfu}% | {entry['gb']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(table(estimate()))


if __name__ == "__main__":
    main()
