"""Image tokens that are added between blocks, in training: ranks agree, and recomputed blocks are given them again."""

import pytest
from training_job import Group, collate, largest_difference, pack, run, run_ranks, samples

from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.sequences import SequenceBuilder

MODEL = {
    "zoom": {"medium": False, "high": False},
    "vision": {"image_size": 64},
    "vision_tower": {
        "_target_": "dragonfly_lit.models.scales.ScalesTower", "scales": [1, 2], "feature_size": 16,
    },
    "projector": {"_target_": "dragonfly_lit.models.projector.StackProjector", "depth": 2},
}  # fmt: skip
GROUPS = (Group(match="projector.*", lr=1e-2), Group(match="vision.*", lr=1e-3), Group(match="language.*", lr=2e-3))


def batches(count, packed=False, rows=1):
    builder = SequenceBuilder(tokenizer=tiny_tokenizer(), layout=tiny_model(**MODEL).layout, max_tokens=400)
    sequences = [builder.build(sample) for sample in samples(count * rows)]
    groups = [sequences[n : n + rows] for n in range(0, len(sequences), rows)]
    return [collate([pack(group)] if packed else group, pad_id=0) for group in groups]


def test_two_ranks_equal_one_where_one_of_them_has_no_image(tmp_path):
    job = {"groups": GROUPS, "steps": 4, "batches": batches(18), "model": MODEL}
    one = run(tmp_path / "one", accumulate=2, **job)
    jobs = {
        "ddp": {"strategy": "ddp", **job},
        "fsdp": {"strategy": "fsdp", "strategy_options": {"activation_checkpointing": "full"}, **job},
    }
    for name, ranks in run_ranks(2, tmp_path, jobs).items():
        assert ranks["losses"] == pytest.approx(one["losses"], rel=1e-6), name
        assert largest_difference(one, ranks) < 2e-6, name


def test_packed_rows_train_as_padded_ones_do(tmp_path):
    found = (
        run(tmp_path / str(flag), groups=GROUPS, steps=4, batches=batches(4, flag, rows=2), model=MODEL)
        for flag in (False, True)
    )
    padded, packed = found
    assert packed["losses"] == pytest.approx(padded["losses"], rel=1e-5)
    assert largest_difference(padded, packed) < 1e-4
