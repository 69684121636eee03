"""Two ranks are one, under every strategy, with clipping, frozen parts and a freeze schedule."""

import pytest
import torch
from training_job import PROJECTOR, largest_difference, run, run_ranks

from dragonfly_lit.training.stages import Group

SCHEDULE = (
    Group(match="projector.*", lr=1e-2),
    Group(match="vision.*", lr=1e-3, from_step=2),
    Group(match="language.*", lr=2e-3, until_step=3),
)
MIXED = {"groups": SCHEDULE, "steps": 4, "rows": 1, "num_batches": 18}
"""The fifth sample has no image: a micro-batch of one rank lacks what the other rank's has."""
FROZEN = {"groups": PROJECTOR, "steps": 3, "rows": 1, "num_batches": 8, "stage_name": "1", "validates": True}
HALF = FROZEN | {"precision": "bf16", "dtype": torch.bfloat16, "steps": 2, "validates": False}
"""Frozen weights that were loaded in bfloat16."""
STEP_2 = "checkpoints/step-00000002"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder):
    save = {"every": 2, "save": {"keep_last": 9}}
    jobs = {}
    for strategy in ("ddp", "fsdp"):
        jobs |= {
            strategy: {"strategy": strategy, **save, **MIXED},
            f"{strategy}-resumed": {"strategy": strategy, "resume": f"{strategy}/{STEP_2}", **MIXED},
            f"{strategy}-frozen": {"strategy": strategy, **FROZEN},
        }
    jobs |= {
        "fsdp-from-ddp": {"strategy": "fsdp", "resume": f"ddp/{STEP_2}", **MIXED},
        "fsdp-background": {
            "strategy": "fsdp",
            "every": 2,
            "save": {"background": True, "keep_last": 9},
            "strategy_options": {"activation_checkpointing": "selective", "reshard": False},
            **MIXED,
        },
        "fsdp-last": {
            "strategy": "fsdp",
            "strategy_options": {"reduce": "last", "offload": True},
            "accumulate": 2,
            **MIXED,
        },
        "ddp-full": {"strategy": "ddp", "strategy_options": {"activation_checkpointing": "full"}, **MIXED},
        "fsdp-bf16": {"strategy": "fsdp", "precision": "bf16", **MIXED},
        "ddp-frozen-bf16": {"strategy": "ddp", **HALF},
        "fsdp-frozen-bf16": {"strategy": "fsdp", **HALF},
    }
    return run_ranks(2, folder, jobs)


@pytest.fixture(scope="module")
def one(folder):
    return run(folder / "one", accumulate=2, **MIXED)


@pytest.mark.parametrize("job", ["ddp", "fsdp", "fsdp-background", "ddp-full"])
def test_two_ranks_equal_one_that_accumulates(one, two, job):
    assert two[job]["losses"] == pytest.approx(one["losses"], rel=1e-6)
    assert two[job]["norms"] == pytest.approx(one["norms"], rel=1e-5)
    assert largest_difference(one, two[job]) < 2e-6


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_equal_one_with_frozen_parts(folder, two, strategy):
    alone = run(folder / f"{strategy}-alone", accumulate=2, **FROZEN)
    assert largest_difference(alone, two[f"{strategy}-frozen"]) < 2e-6


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_resume_in_the_middle_of_a_freeze_schedule_is_exact(two, strategy):
    assert largest_difference(two[strategy], two[f"{strategy}-resumed"]) == 0.0
    assert two[strategy]["losses"][2:] == two[f"{strategy}-resumed"]["losses"]


def test_a_ddp_checkpoint_resumes_under_fsdp(two):
    assert largest_difference(two["ddp"], two["fsdp-from-ddp"]) < 2e-6


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp-background"])
def test_two_sharded_ranks_resume_as_one_process(folder, one, two, strategy):
    alone = run(folder / f"{strategy}-to-one", accumulate=2, resume=folder / strategy / STEP_2, **MIXED)
    assert largest_difference(one, alone) < 2e-6


def test_reducing_once_a_step_equals_reducing_every_micro_batch(folder, two):
    alone = run(folder / "four", accumulate=4, **MIXED)
    assert two["fsdp-last"]["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert largest_difference(alone, two["fsdp-last"]) < 2e-6


def test_bf16_follows_fp32_from_float32_master_weights(one, two):
    assert two["fsdp-bf16"]["losses"] == pytest.approx(one["losses"], rel=0.02)
    assert two["fsdp-bf16"]["trained"] == {"torch.float32"}


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp"])
def test_half_precision_is_for_frozen_weights_and_never_for_rotary_frequencies(folder, two, strategy):
    found = two.get(f"{strategy}-frozen-bf16") or run(folder / "half", accumulate=2, **HALF)
    assert found["frozen"] == {"torch.bfloat16"}
    assert found["trained"] == found["rotary"] == {"torch.float32"}
    full = two["ddp-frozen"]["losses"][:2]
    assert found["losses"] == pytest.approx(full, rel=0.02)
