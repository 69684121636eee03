"""The memory of a step by arithmetic is what one H200 held (torch 2.11, CUDA 13, transformers 5.17, random weights).

The rows that were measured are here, of `docs/performance.md` and of `benchmarks/gpu/results/h200.json`, but for two,
which are named below with the reason.
"""

import pytest
import torch

from benchmarks.train_step import SIZES, stage_of
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.flops import Work
from dragonfly_lit.models.tiny import tiny_config
from dragonfly_lit.spec.outline import pack_runs
from dragonfly_lit.training.costs import block_bytes, memory, sharding_units, tower_bytes
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


E2E = Work(images=9, tokens=8192, pairs=0, supervised=389)
"""A full row of `train.py` on photographs."""
COMPILED = {"compiled": True, "repeated_heads": False}
LEFT_BEHIND = {"accumulates": True}
"""The Trainer dropped the gradients of a step behind the next forward, until they were dropped before it."""


@pytest.mark.parametrize(
    ("measured", "size", "stage", "work", "kind", "mode", "more"),
    [
        # Before: autocast, at commit f85d58c.
        (65.0, "v1", "1", LONGEST, "autocast", "none", {}),
        (51.6, "v1", "1", LONGEST, "autocast", "none", COMPILED),
        (70.6, "v1", "1", LONGEST, "autocast", "none", {}),  # sdpa with its dense mask, of which nothing is counted
        (107.5, "v2", "1", LONGEST_V2, "autocast", "none", {}),
        (48.5, "1b", "2", LONGEST, "autocast", "none", {}),
        (43.6, "1b", "2", LONGEST, "sharded", "none", {}),
        (59.6, "quarter", "2", LONGEST, "sharded", "none", {}),
        (50.5, "quarter", "2", LONGEST, "sharded", "selective", {}),
        (50.5, "quarter", "2", LONGEST, "sharded", "full", {}),
        (13.5, "1b", "1", E2E, "autocast", "none", {}),
        # With bfloat16 weights, eager, at commit 19c6c29. Its quarter of 8B lay beside a model that was not yet freed,
        # and its compiled 1B (51.0) was of graphs that are no longer made.
        (61.2, "v1", "1", LONGEST, "bfloat16", "none", {"repeated_heads": False}),
        (50.0, "1b", "2", LONGEST, "bfloat16", "none", {"repeated_heads": False} | LEFT_BEHIND),
        # The default on a GPU, at commit 728e259.
        (47.8, "v1", "1", LONGEST, "bfloat16", "none", COMPILED),
        (73.9, "v2", "1", LONGEST_V2, "bfloat16", "none", COMPILED),
        (44.6, "1b", "2", LONGEST, "bfloat16", "none", COMPILED | LEFT_BEHIND),
    ],
)
def test_memory_is_what_an_h200_held(measured, size, stage, work, kind, mode, more):
    near = 0.02 if kind == "bfloat16" and more.get("compiled") else 0.1  # the default, and what is not so well known
    assert memory_of(size, stage, work, kind, mode, **more).total / 1e9 == pytest.approx(measured, rel=near)


def kept_by_torch(block, *inputs, **named):
    """Bytes that a forward keeps for its backward, weights left out, each once."""
    own = {weight.untyped_storage().data_ptr() for weight in block.parameters()}
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(*inputs, **named)
    return sum(size for place, size in found.items() if place not in own)


def block_of_language(model, tokens):
    """A block, and what it takes."""
    states = torch.randn(1, tokens, model.config.text_config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    positions = torch.arange(tokens)[None]
    named = {
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool),
        "position_embeddings": model.language.model.rotary_emb(states, positions),
        "position_ids": positions,
        "packing": pack_runs(torch.zeros(1, tokens, dtype=torch.long), None),
        "use_cache": False,
    }
    return model.language.model.layers[0], states * 1, named


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("stage", ["1", "2"])
def test_a_block_keeps_what_torch_keeps_of_it(unchecked, stage, compiled):
    """Compiled as on a GPU up to the kernels, which a CPU has not; the tables of a rotation are all blocks' own."""
    width, tokens = 256, 200
    text = {"hidden_size": width, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2}
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4}
    config = tiny_config(text=text | {"head_dim": 32}, vision=vision)
    model = DragonflyForConditionalGeneration(config).bfloat16()
    model.language.set_attn_implementation("packed_varlen")
    freeze(model, stage_of(stage, steps=1))
    crops = torch.randn(5, 17, width, dtype=torch.bfloat16, requires_grad=True) * 1
    language, tower = block_of_language(model, tokens), (model.vision.blocks[0], crops, {"attention_mask": None})
    torch._dynamo.reset()
    for block, states, named in (language, tower) if stage == "2" else (language,):
        if compiled:
            block.compile(backend="aot_eager_decomp_partition", dynamic=True)
        kept = kept_by_torch(block, states, **named) / (states.numel() / width)
        if block is language[0]:
            paper = block_bytes(config, "bfloat16", trained=stage == "2", repeated_heads=False, compiled=compiled)
            assert 0 < kept - paper < 200  # sums of the softmax, norms, and the tables
        else:
            assert kept == pytest.approx(tower_bytes(config, "bfloat16", compiled=compiled), rel=0.15)
    torch._dynamo.reset()


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
