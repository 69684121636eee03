"""Weights that the first rank alone reads: every rank ends with its own of them, and no other rank asks a file."""

import os

import pytest
import torch
from torch import nn
from training_job import ALL, PROJECTOR, largest_difference, run, run_ranks

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.factories import build_components, model_factory
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.models.weights import Stored
from dragonfly_lit.training.sending import skeleton_of
from dragonfly_lit.training.stages import Group, Lora

ADAPTERS = {"groups": (*PROJECTOR, Group(match="language.*lora_*", lr=1e-2)), "stage": {"lora": Lora(rank=2, alpha=4)}}


def first_rank_only() -> nn.Module:
    """Weights that no seed gives, on the first rank."""
    assert os.environ.get("RANK", "0") == "0", "another rank has read weights"
    model = tiny_model(text={"tie_word_embeddings": True})
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    model.register_buffer("told", torch.tensor([3.0, 4.0]), persistent=False)
    return model


def skeleton() -> nn.Module:
    model = tiny_model(text={"tie_word_embeddings": True})
    model.register_buffer("told", torch.empty(2), persistent=False)
    return model


def other_skeleton() -> nn.Module:
    return tiny_model(text={"tie_word_embeddings": True, "intermediate_size": 80})


def cannot_be_empty() -> nn.Module:
    model = tiny_model()
    model.scale = float(torch.ones(1))  # pyright: ignore[reportAttributeAccessIssue]
    return model


def hides_a_tensor() -> nn.Module:
    model = tiny_model()
    model.hidden = {"tables": [torch.ones(1)]}  # not a buffer: nothing would send it
    return model


JOB = {"groups": ALL, "steps": 3, "num_batches": 6, "model_factory": first_rank_only}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    jobs = {}
    for name, options in {"ddp": {}, "fsdp": {}, "offload": {"offload": True}, "full": {}}.items():
        strategy = "ddp" if name == "ddp" else "fsdp"
        if name == "full":
            options = {"activation_checkpointing": "full"}
        jobs[name] = {"strategy": strategy, "strategy_options": options, "skeleton_factory": skeleton, **JOB}
    for strategy in ("ddp", "fsdp"):
        half = {"strategy": strategy, "skeleton_factory": skeleton, "precision": "bf16", **JOB}
        jobs[f"{strategy}-half"] = half | {"groups": PROJECTOR}
        jobs[f"{strategy}-adapters"] = {"strategy": strategy, "skeleton_factory": skeleton, **JOB, **ADAPTERS}
    return run_ranks(2, tmp_path_factory.mktemp("two"), jobs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), accumulate=2, **JOB)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "offload", "full"])
def test_ranks_that_were_sent_their_weights_equal_one_that_read_them(two, alone, name):
    assert two[name]["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert largest_difference(alone, two[name]) < 2e-6


def test_adapters_that_the_first_rank_drew_arrive(two, tmp_path):
    pytest.importorskip("peft")
    alone = run(tmp_path, accumulate=2, **JOB | ADAPTERS)
    for strategy in ("ddp", "fsdp"):
        assert largest_difference(alone, two[f"{strategy}-adapters"]) < 2e-6


def test_weights_of_every_type_arrive(two):
    ddp, fsdp = two["ddp-half"], two["fsdp-half"]
    assert ddp["losses"] == pytest.approx(fsdp["losses"], rel=2e-2)
    frozen = [name for name in ddp["weights"] if not name.startswith("projector")]
    assert all(torch.equal(ddp["weights"][n].bfloat16(), fsdp["weights"][n].bfloat16()) for n in frozen)


def test_models_that_differ_between_ranks_are_refused(tmp_path):
    job = {"strategy": "fsdp", **JOB, "skeleton_factory": other_skeleton}
    with pytest.raises(AssertionError, match=r"rank 1 has built .*\(80, 48\).* where rank 0 has .*\(96, 48\)"):
        run_ranks(2, tmp_path, {"job": job})


@pytest.mark.parametrize("build", [cannot_be_empty, hides_a_tensor])
def test_a_part_that_needs_its_numbers_is_built_whole(build):
    assert skeleton_of(build) is None
    assert skeleton_of(tiny_model) is not None


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=tiny"],
        ["model=tiny", "model.dtype=bfloat16", "vision.image_size=48"],
        ["model=tiny", "zoom.score=question", "projector=mlp"],
    ],
)
def test_the_skeleton_of_a_configuration_is_its_model_and_reads_no_weight(monkeypatch, overrides):
    config = compose(overrides)
    build = model_factory(config, build_components(config))
    whole = build()

    def read(*_):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Stored, "_chunks", read)
    monkeypatch.setattr("safetensors.safe_open", read)
    empty = skeleton_of(lambda: build("meta"))
    assert isinstance(empty, DragonflyForConditionalGeneration)
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))

    def shapes(model):
        return [(n, t.shape, t.dtype) for n, t in (*model.named_parameters(), *model.named_buffers())]

    assert shapes(empty) == shapes(whole)
    assert empty.config.to_dict() == whole.config.to_dict()
    assert empty.generation_config.to_dict() == whole.generation_config.to_dict()
