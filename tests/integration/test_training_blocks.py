"""Blocks: what is computed again in backward, and what is compiled once."""

from collections import Counter
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_job import micro_batches

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.network import TrainingNetwork, named_weights
from dragonfly_lit.training.sharding import (
    KEPT,
    blocks,
    checkpoint_activations,
    compile_blocks,
    keep,
    leave_uncompiled,
    uncompiled,
)

ATTENTION = "dragonfly_lit::packed_attention"


class Calls(TorchDispatchMode):
    """How often each operation is called."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func.name()] += 1
        return func(*args, **(kwargs or {}))


def model_of(mode="none"):
    model = tiny_model()
    model.language.set_attn_implementation("packed_varlen")
    checkpoint_activations(model, mode)
    return model.train()


def backward(model, rows=3):
    """Gradients of a step, and what is called for them behind the forward."""
    (batch,) = micro_batches(1, rows=rows, packed=True)
    model.zero_grad()
    loss = TrainingNetwork(model)(batch).loss
    with Calls() as calls:
        loss.backward()
    return {name: p.grad.clone() for name, p in named_weights(model).items()}, calls.found


@pytest.fixture(scope="module")
def plain():
    return backward(model_of())


@pytest.mark.parametrize("mode", ["selective", "full", "offload", {"language": "selective"}, {"vision": "full"}])
def test_gradients_are_those_of_saved_activations(plain, mode):
    found, _ = backward(model_of(mode))
    assert found.keys() == plain[0].keys()
    assert all(torch.equal(plain[0][name], gradient) for name, gradient in found.items())


def test_selective_computes_no_attention_and_no_matmul_of_a_block_again(plain):
    _, full = backward(model_of({"language": "full"}))
    _, selective = backward(model_of({"language": "selective"}))
    layers = len(tiny_model().language.model.layers)
    assert plain[1][ATTENTION] == selective[ATTENTION] == 0
    assert full[ATTENTION] == layers
    assert plain[1]["aten::mm"] == selective["aten::mm"] < full["aten::mm"]
    assert plain[1]["aten::rsqrt"] < selective["aten::rsqrt"]  # norms are


def test_kernels_of_packages_are_kept_by_name():
    from torch.nn.attention import varlen  # noqa: F401  it registers the operator

    assert keep(None, torch.ops.torch_attn._varlen_attn.default).name == "MUST_SAVE"
    assert keep(None, torch.ops.aten.silu.default).name == "PREFER_RECOMPUTE"
    assert {"flash_attn::_flash_attn_varlen_forward", ATTENTION} <= KEPT


def test_a_name_that_is_kept_is_an_operators():
    """A misspelt one would keep nothing. Those of packages, and of flex attention, are not there to be asked."""
    for name in KEPT:
        space, _, operator = name.partition("::")
        if space in ("aten", "dragonfly_lit"):
            assert hasattr(getattr(torch.ops, space), operator), name
            overload = getattr(torch.ops, space).__getattr__(operator)
            assert keep(None, getattr(overload, overload.overloads()[0])).name == "MUST_SAVE"


def test_selective_keeps_what_sdpa_gave():
    """Under a dense mask, by the kernel that torch chooses here."""
    kernel, found = "aten::_scaled_dot_product_flash_attention_for_cpu", {}
    for mode in ("full", "selective"):
        model = model_of({"language": mode})
        model.language.set_attn_implementation("sdpa")
        _, found[mode] = backward(model)
    assert found["full"][kernel] == len(tiny_model().language.model.layers)
    assert found["selective"][kernel] == 0


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("half", r"^strategy\.activation_checkpointing=half is unknown\. Use one of none, selective, full, offload\.$"),
        ({"language": "half"}, r"^strategy\.activation_checkpointing\.language=half is unknown"),
        ({"tower": "full"}, r"the model has no part tower\. Use vision, zoom, projector, language\.$"),
    ],
)
def test_an_unknown_mode_or_part_is_refused(mode, message):
    with pytest.raises(ValueError, match=message):
        checkpoint_activations(tiny_model(), mode)


@pytest.fixture
def graphs(monkeypatch, unchecked):
    """Counts what is compiled; the graphs run as they are."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield found
    torch._dynamo.reset()


@pytest.mark.parametrize("hooked", [False, True])
def test_one_block_of_each_kind_is_compiled_for_all_lengths(plain, graphs, hooked):
    torch._dynamo.utils.counters.clear()
    model = model_of()
    compile_blocks(model, "blocks", "cpu", hooked=hooked)
    found, _ = backward(model)
    compiled = len(graphs)
    # The tower with gradients and without, and the language model; never one for each of its layers.
    assert compiled == 3
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain[0][name])
    for rows in (2, 4, 5):
        backward(model, rows)
    assert len(graphs) == compiled
    assert not torch._dynamo.utils.counters["graph_break"]


def test_auto_compiles_on_a_gpu_only(monkeypatch):
    model = tiny_model()
    compile_blocks(model, "auto", "cpu")
    assert not any(block._compiled_call_impl for block in blocks(model))
    monkeypatch.setattr("dragonfly_lit.training.sharding.find_spec", lambda name: object())
    compile_blocks(model, "auto", "cuda")
    assert all(block._compiled_call_impl for block in blocks(model))


def test_a_model_that_answers_runs_as_it_is_written():
    model = tiny_model()
    compile_blocks(model, "blocks", "cpu")
    with uncompiled(model):
        assert not any(block._compiled_call_impl for block in blocks(model))
    assert all(block._compiled_call_impl for block in blocks(model))
    leave_uncompiled(model)
    assert not any(block._compiled_call_impl for block in blocks(model))


def test_an_unknown_way_to_compile_is_refused():
    with pytest.raises(ValueError, match=r"trainer\.compile=model is unknown\. Use one of auto, off, blocks\."):
        compile_blocks(tiny_model(), "model", "cpu")
