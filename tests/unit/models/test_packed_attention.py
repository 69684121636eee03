"""The operator of packed attention: exact, without a wait for a device, one graph for every pack."""

from __future__ import annotations

import sys
import types
from contextlib import nullcontext

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses import FakeTensorMode
from torch.fx.experimental import _config as symbolic_shapes
from torch.nn.attention.flex_attention import flex_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.integrations import flex_attention as integrated

from dragonfly_lit.models import attention
from dragonfly_lit.models.attention import FLEX, PACKED, attention_arguments, dense_mask, register_flash
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.packed_attention import OPERATOR, packed_attention, run_by_run
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.spec.outline import pack_runs
from dragonfly_lit.training.sharding import checkpoint_activations, compile_blocks

PACKS = {
    "equal": [(5, ()), (5, ()), (5, ())],
    "ragged": [(5, ()), (9, ()), (5, ()), (1, ())],
    "branches": [(6, (2, 3, 2)), (4, ()), (6, (3, 3))],
}
"""Length of the trunk and of the branches of every sample."""


def ids(pack):
    """Two rows: a pack, and the same behind padding."""
    samples, branches = [], []
    for number, (trunk, lengths) in enumerate(pack):
        samples += [number] * (trunk + sum(lengths))
        branches += [0] * trunk + [b for b, length in enumerate(lengths, start=1) for _ in range(length)]
    rows = [samples + [-1] * 3, [-1] * 3 + samples], [branches + [0] * 3, [0] * 3 + branches]
    return tuple(torch.tensor(row) for row in rows)


def inputs(tokens, heads=4, groups=2, width=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(tokens, h, width, dtype=dtype, generator=generator).requires_grad_()
        for h in (heads, groups, groups)
    ]


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("pack", PACKS)
def test_the_operator_gives_what_torch_gives_under_a_dense_mask(pack, groups):
    samples, branches = ids(PACKS[pack])
    packing, mask = pack_runs(samples, branches), dense_mask(samples, branches)
    q, k, v = inputs(samples.numel(), groups=groups)
    direction = torch.randn(q.shape, dtype=q.dtype, generator=torch.Generator().manual_seed(1))
    useful = samples.flatten() >= 0

    def dense():
        rows = [x.unflatten(0, samples.shape).transpose(1, 2) for x in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*rows, attn_mask=mask, scale=0.3, enable_gqa=True)
        return out.transpose(1, 2).flatten(0, 1)

    arguments = (packing.keys, packing.ends, packing.host_ends, 0.3)
    ways = [packed_attention(q, k, v, *arguments), run_by_run(q, k, v, packing.keys, packing.host_ends, 0.3)]
    goal = dense()[useful]
    goals = torch.autograd.grad((goal * direction[useful]).sum(), (q, k, v))
    for out in ways:
        torch.testing.assert_close(out[useful], goal, atol=1e-12, rtol=0)
        found = torch.autograd.grad((out[useful] * direction[useful]).sum(), (q, k, v))
        assert all((a - b).abs().max() < 1e-12 for a, b in zip(found, goals, strict=True))
        assert out.isfinite().all()


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_trunks_and_branches_is_what_a_dense_mask_shows(seed):
    """Trunks that go on behind branches, branches in pieces, padding anywhere: what no sample of ours has, too."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (24,), generator=draw)
    samples, branches = (
        torch.randint(low, 3, (2, 12), generator=draw).flatten().repeat_interleave(lengths)[: 2 * (lengths.sum() // 2)]
        for low in (-1, 0)
    )
    samples, branches = samples.view(2, -1), branches.view(2, -1)
    packing, mask = pack_runs(samples, branches), dense_mask(samples, branches)
    inputs_of = inputs(samples.numel())
    useful = samples.flatten() >= 0
    rows = [x.unflatten(0, samples.shape).transpose(1, 2) for x in inputs_of]
    dense = torch.nn.functional.scaled_dot_product_attention(*rows, attn_mask=mask, scale=0.3, enable_gqa=True)
    goal = dense.transpose(1, 2).flatten(0, 1)[useful]
    out = packed_attention(*inputs_of, packing.keys, packing.ends, packing.host_ends, 0.3)[useful]
    torch.testing.assert_close(out, goal, atol=1e-12, rtol=0)
    goals, found = (torch.autograd.grad(x.square().sum(), inputs_of) for x in (goal, out))
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(found, goals, strict=True))


@pytest.mark.parametrize("pack", PACKS)
def test_the_operator_keeps_the_rules_of_operators(pack):
    packing = pack_runs(*ids(PACKS[pack]))
    q, k, v = inputs(packing.host_ends[0, -1].item())
    arguments = (q, k, v, packing.keys, packing.ends, packing.host_ends, 0.3)
    torch.library.opcheck(torch.ops.dragonfly_lit.packed_attention.default, arguments)


def on_fake_gpu(tensor):
    """As if it were on a GPU, where there is none: with a shape and a type, and no values."""
    return torch.empty_like(tensor, device="cuda", requires_grad=False)


def test_the_operator_on_a_gpu_has_shapes_and_types_of_its_queries():
    packing = pack_runs(*ids(PACKS["branches"]))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        device = packing.map(on_fake_gpu)
        q, k, v = (torch.empty(44, h, 64, dtype=torch.bfloat16, device="cuda") for h in (32, 8, 8))
        out = packed_attention(q, k, v, device.keys, device.ends, device.host_ends, 0.125)
    assert (out.shape, out.dtype, out.device.type) == (q.shape, torch.bfloat16, "cuda")
    assert not device.host_ends.is_cuda


class NoHostRead(TorchDispatchMode):
    """Fails where the host would wait for a device to tell a number or a length."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "_unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in self.WAITS or by_mask:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def batches(make, *, num=1):
    """Different packs: samples, questions that share an image, and text alone; the last of one sample."""
    pairs = (("Q" * 3, "A"), ("Why?", "B" * 9), ("C", "D"))
    for i in range(num):
        pack = [make.sequence(1, pairs=(("Hm?", "A" * (i + 1)),)), make.sequence(4, pairs=pairs, share_image=True)]
        pack += [make.sequence(2, num_images=0, pairs=(("x" * j, "y"),)) for j in range(i % 4)]
        yield make.batch(pack if i else pack[:1], pad_to=None if i % 3 else 900)


@pytest.mark.parametrize("num_images", [1, 0])
@pytest.mark.parametrize("zoom", [{}, {"score": "question"}, {"top_k": None, "pool": 2}, {"regions": "spatial"}])
def test_a_step_never_waits_for_the_device(make, zoom, num_images):
    model = tiny_model(zoom=zoom).train()
    model.language.set_attn_implementation(PACKED)
    make = type(make)(model)
    pack = [make.sequence(1, num_images=num_images), make.sequence(2, num_images=num_images)]
    batch = make.batch(pack, [pack[1]])
    inputs = batch.model_inputs() | {"labels": batch.labels, "label_weights": batch.label_weights}
    before = model.loss_sums(**inputs | {"outline": None})
    before.loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with NoHostRead():
        sums = model.loss_sums(**inputs)
        sums.mean.backward(gradient=sums.weight.clone())
    assert torch.equal(sums.loss, before.loss)
    assert torch.equal(sums.rows, before.rows)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], atol=1e-6, rtol=1e-5)
    with pytest.raises(AssertionError, match="waits for the device"), NoHostRead():
        model.loss_sums(**inputs | {"outline": None})


def test_a_forward_without_values_knows_all_that_it_must(make):
    (batch,) = batches(make)
    model = tiny_model().train()
    model.language.set_attn_implementation(PACKED)
    meta = batch.to("meta")  # has no values: whatever asks for one raises
    assert not meta.outline.packing.host_ends.is_meta
    sums = model.to("meta").loss_sums(**meta.model_inputs(), labels=meta.labels)
    sums.mean.backward()
    assert len(sums.rows) == len(batch.outline.supervised)


def test_a_compiled_block_is_one_graph_for_every_pack(make, monkeypatch, unchecked):
    model = tiny_model().train()
    model.vision.requires_grad_(False)
    model.language.requires_grad_(False)
    model.language.set_attn_implementation(PACKED)
    packs = list(batches(make, num=12))
    inputs = [b.model_inputs() | {"labels": b.labels} for b in packs]
    plain = [model.loss_sums(**i).loss for i in inputs]
    compile_in_place = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compile_in_place(self, **options | {"backend": "aot_eager"})
    )
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    with symbolic_shapes.patch(use_duck_shape=True):  # as it is by itself; what compiling sets ends with this test
        compile_blocks(model.get_decoder(), "blocks", "cpu")
        for batch, loss in zip(inputs, plain, strict=True):
            sums = model.loss_sums(**batch)
            sums.loss.backward()
            torch.testing.assert_close(sums.loss, loss)
            graphs.append(counters["stats"]["unique_graphs"])
    assert len({b.outline.packing.host_ends.shape[1] for b in packs}) >= 6  # packs that differ in runs
    assert len({b.input_ids.shape[1] for b in packs}) >= 6  # and in tokens
    assert sum(counters["graph_break"].values()) == 0
    assert graphs == [1] * len(packs), graphs
    torch._dynamo.reset()


@pytest.mark.parametrize(("mode", "times"), [("none", 1), ("selective", 1), ("full", 2)])
def test_selective_checkpointing_keeps_what_attention_gave(make, mode, times):
    model = tiny_model().train()
    model.language.set_attn_implementation(PACKED)
    checkpoint_activations(model.language, mode)
    calls = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    (batch,) = batches(make)
    with Count():
        model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
    assert calls.count(OPERATOR) == times * model.config.text_config.num_hidden_layers


def test_torch_counts_the_products_of_runs_and_none_between_them():
    packing = pack_runs(*ids(PACKS["branches"]))
    q, k, v = inputs(packing.host_ends[0, -1].item())
    with FlopCounterMode(display=False) as counter:
        packed_attention(q, k, v, packing.keys, packing.ends, packing.host_ends, 0.3).sum().backward()
    pairs = sum(a * b for a, b in zip(*packing.lengths, strict=True))
    assert counter.get_total_flops() == 3 * 4 * pairs * 4 * 8


@pytest.mark.parametrize("release", ["a tensor", "a tuple"])
def test_kernels_of_a_package_are_given_the_pack(make, monkeypatch, release):
    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False
    ):
        assert causal
        assert (max_seqlen_q, max_seqlen_k) == tuple(c.diff().max() for c in (cu_seqlens_q, cu_seqlens_k))
        ends = torch.stack([cu_seqlens_q, cu_seqlens_k])
        out = run_by_run(q, k, v, torch.arange(len(k)), ends, softmax_scale)
        return out if release == "a tensor" else (out, None)

    module = types.SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    monkeypatch.setitem(sys.modules, "flash_of_a_test", module)
    monkeypatch.setattr(attention, "VARIABLE", (*attention.VARIABLE, "packed_fa_of_a_test"))
    register_flash("packed_fa_of_a_test", "flash_of_a_test")
    model = tiny_model().eval()
    *_, batch = batches(make, num=2)
    found = []
    for implementation in (PACKED, "packed_fa_of_a_test"):
        model.language.set_attn_implementation(implementation)
        found.append(model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss)
    torch.testing.assert_close(*found)


def test_flex_attention_sees_what_the_dense_mask_shows(make, monkeypatch):
    model = tiny_model(text={"hidden_size": 64, "head_dim": 16}).eval()
    *_, batch = batches(make, num=2)
    # As it is, not compiled: that takes a compiler of C++ and a minute.
    monkeypatch.setattr(
        integrated, "compile_friendly_flex_attention", lambda *a, training, **k: flex_attention(*a, **k)
    )
    found = []
    with torch.no_grad():
        for implementation in ("sdpa", FLEX):
            model.language.set_attn_implementation(implementation)
            found.append(model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss)
    torch.testing.assert_close(*found)


def test_rotated_queries_of_an_autocast_are_computed_in_half(make):
    model = tiny_model().eval()
    model.language.set_attn_implementation(PACKED)
    seen = []
    original = torch.ops.dragonfly_lit.packed_attention

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket is original:
                seen.extend(a.dtype for a in args[:3])
            return func(*args, **(kwargs or {}))

    (batch,) = batches(make)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Watch():
        model.loss_sums(**batch.model_inputs(), labels=batch.labels)
    assert set(seen) == {torch.bfloat16}


def test_padding_and_an_outline_change_no_argument_of_a_mask(make):
    *_, batch = batches(make, num=2)
    model = tiny_model()
    model.language.set_attn_implementation(PACKED)
    known, found = (
        attention_arguments(model.get_decoder().config, batch.sample_ids, batch.branch_ids, torch.float32, outline)
        for outline in (batch.outline, None)
    )
    for name in ("ends", "host_ends", "keys"):
        assert torch.equal(getattr(known["packing"], name), getattr(found["packing"], name))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "smollm3"])
def test_the_last_block_at_supervised_rows_gives_the_same_loss_and_gradients(make, monkeypatch, kind):
    model = tiny_model(text={"model_type": kind}).double().train()
    model.language.set_attn_implementation(PACKED)
    *_, batch = batches(make, num=2)
    inputs = batch.model_inputs() | {"labels": batch.labels, "label_weights": batch.label_weights}
    found, rows = [], []
    model.get_decoder().layers[-1].mlp.down_proj.register_forward_hook(lambda _m, _a, out: rows.append(out.numel()))
    for way in (DragonflyForConditionalGeneration._last_block_at, lambda *_: nullcontext()):
        monkeypatch.setattr(DragonflyForConditionalGeneration, "_last_block_at", way)
        model.zero_grad()
        sums = model.loss_sums(**inputs)
        sums.loss.backward()
        found.append([sums.loss, *(p.grad.clone() for p in model.parameters())])
    width = model.config.text_config.hidden_size
    assert rows == [width * len(batch.outline.supervised), width * batch.input_ids.numel()]
    assert all((a - b).abs().max() < 1e-9 for a, b in zip(*found, strict=True))
    mlp = model.get_decoder().layers[-1].mlp
    assert not mlp._forward_pre_hooks
    assert not mlp._forward_hooks


@pytest.mark.parametrize("mode", ["selective", "full", "offload"])
def test_a_last_block_that_is_computed_again_is_computed_at_supervised_rows(make, mode):
    model = tiny_model().train()
    model.language.set_attn_implementation(PACKED)
    (batch,) = batches(make)
    rows, found = [], []
    model.get_decoder().layers[-1].mlp.gate_proj.register_forward_hook(lambda _m, _a, out: rows.append(len(out)))
    for again in (False, True):
        if again:
            checkpoint_activations(model.language, mode)
        model.zero_grad()
        model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert rows == 3 * [len(batch.outline.supervised)]  # of the plain one, of the forward, of backward
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    mlp = model.get_decoder().layers[-1].mlp
    assert not mlp._forward_pre_hooks
    assert not mlp._forward_hooks
