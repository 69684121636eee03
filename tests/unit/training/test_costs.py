"""The memory of a step by arithmetic is what one H200 held (torch 2.11, CUDA 13, transformers 5.17, random weights)."""

import pytest
import torch

from benchmarks.train_step import SIZES, stage_of
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.flops import Work
from dragonfly_lit.models.tiny import tiny_config
from dragonfly_lit.training.costs import memory, sharding_units
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.stages import freeze

QUARTER = {**SIZES["v1"], "text": SIZES["v1"]["text"] | {"num_hidden_layers": 8}}
LONGEST = Work(images=8, tokens=9297, pairs=0, supervised=2137)
"""Of the four batches of a run, the longest: 8 images and their ragged answers."""
LONGEST_V2 = Work(images=8, tokens=18172, pairs=0, supervised=1164)


def memory_of(size, stage, work, kind, mode="none", **more):
    config = tiny_config(**QUARTER if size == "quarter" else SIZES[size])
    with torch.device("meta"):
        model = DragonflyForConditionalGeneration(config)
    freeze(model, stage_of(stage, steps=1))
    found = sharding_units(TrainingNetwork(model))
    return memory(config, found, work, kind=kind, trains=(stage == "2",) * 2, checkpointing=(mode, mode), **more)


@pytest.mark.parametrize(
    ("size", "stage", "work", "kind", "mode", "measured"),
    [
        ("v1", "1", LONGEST, "autocast", "none", 65.0),
        ("v2", "1", LONGEST_V2, "autocast", "none", 107.5),
        ("1b", "2", LONGEST, "autocast", "none", 48.5),
        ("1b", "2", LONGEST, "sharded", "none", 43.6),
        ("quarter", "2", LONGEST, "sharded", "none", 59.6),
        ("quarter", "2", LONGEST, "sharded", "selective", 50.5),
        ("quarter", "2", LONGEST, "sharded", "full", 50.5),
    ],
)
def test_memory_is_what_an_h200_held(size, stage, work, kind, mode, measured):
    assert memory_of(size, stage, work, kind, mode).total / 1e9 == pytest.approx(measured, rel=0.1)


def test_shards_divide_what_is_held_and_nothing_of_the_batch():
    one, eight = (memory_of("quarter", "2", LONGEST, "sharded", shards=shards) for shards in (1, 8))
    assert eight.weights * 8 == one.weights
    assert eight.optimizer * 8 == one.optimizer
    assert (eight.language, eight.tower, eight.logits) == (one.language, one.tower, one.logits)


def test_what_is_accumulated_is_held_while_the_next_micro_batch_is_computed():
    once, more = (memory_of("1b", "2", LONGEST, "sharded", accumulates=many) for many in (False, True))
    assert once.gradients == 0
    assert more.total - once.total == more.gradients > 0


def test_bfloat16_weights_with_masters_are_16_bytes_a_weight_with_half_gradients():
    held = memory_of("1b", "2", LONGEST, "bfloat16", accumulates=True, gradient_bytes=2)
    floats = memory_of("1b", "2", LONGEST, "autocast", accumulates=True)
    assert held.held == pytest.approx(floats.held)
    assert held.language < floats.language


def test_offloaded_shards_are_not_the_gpus():
    assert memory_of("1b", "2", LONGEST, "sharded", offloaded=True).held == 0
