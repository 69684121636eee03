"""A step waits for the device once: to know whether it is taken. Between two lines of telemetry nothing else waits."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.models.vision import forget_constants
from dragonfly_lit.processing.batches import collate, pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.training import update
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.optimizer import build_optimizer, no_decay_names
from dragonfly_lit.training.stages import Group, Stage, freeze
from dragonfly_lit.training.telemetry import PartLosses, count
from dragonfly_lit.training.update import launch_update, prepare_update

READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
}


class Refuses(TorchDispatchMode):
    """Refuses what makes the host wait: values of a GPU's tensors, and copies between it and pageable memory."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        before, after = (
            {t.device.type for t in tree_leaves(values) if isinstance(t, torch.Tensor)} for values in (args, out)
        )
        assert func not in READS or "cuda" not in before, f"{func} reads from the device"
        assert not (before and after) or before >= after, f"{func} copies from {before} to {after}"
        return out


@pytest.fixture
def gpu():
    """Tensors of a GPU that is not there: every rule of shapes and types, no values."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        yield mode


def test_the_guard_sees_a_number_that_is_sent_and_one_that_is_read(gpu):
    there = torch.zeros(3, device="cuda")
    # A torch without CUDA refuses by itself.
    refusal = pytest.raises((AssertionError, RuntimeError), match=r"copies from|not linked")
    with Refuses(), refusal:
        torch.tensor([1, 2]).to("cuda")
    with Refuses(), refusal:
        there.cpu()


def batch_on(device):
    tokenizer = tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=tiny_model().layout, max_tokens=400)
    samples = [
        Sample(key=answer, source=source, turns=(Turn(role="user", text="?"), Turn(role="assistant", text=answer)))
        for source, answer in (("short", "a"), ("long", "a long answer"))
    ]
    batch = collate([builder.build(sample) for sample in samples], pad_id=tokenizer.pad_token_id)
    rows = (batch.labels >= 0).flatten().nonzero().squeeze(1)
    losses = torch.arange(len(rows), dtype=torch.float32)
    return batch, LossSums(losses.sum(), torch.tensor(float(len(rows))), losses, rows)


def packed(model):
    """Two questions about images and one without, in one row."""
    tokenizer = tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=model.layout, max_tokens=400)
    image = Image.new("RGB", (50, 40))
    samples = [
        Sample(
            key=str(number),
            source="s",
            turns=(
                Turn(role="user", text="what?", num_images=number),
                Turn(role="assistant", text="a" * (number + 1)),
            ),
            images=(image,) * number,
        )
        for number in (1, 0, 1)
    ]
    return collate([pack([builder.build(sample) for sample in samples])], pad_id=tokenizer.pad_token_id)


def as_on_gpu(tensor):
    """The same without values, in the type that a run in bf16 has there."""
    half = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=half, device="cuda")


def forward_on_gpu(zoom):
    """Loss sums of a packed batch with images, in the network that trains: a GPU's rules, no values."""
    model = tiny_model(zoom=zoom, text={"hidden_size": 64, "head_dim": 16}).train()
    model.language.set_attn_implementation("packed_varlen")
    batch = packed(model)
    forget_constants()
    with FakeTensorMode(allow_non_fake_inputs=True):  # the host's copy of a pack's lengths has its values
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(as_on_gpu(weight)))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
        there, network = batch._map(as_on_gpu), TrainingNetwork(model)
        model.vision.normalise(there.pixel_values[0])  # its constants are sent once, in the first step
        with Refuses():
            sums = network(there)
    forget_constants()
    return sums, batch


@pytest.mark.parametrize("zoom", [{}, {"score": "question"}, {"top_k": None, "pool": 2}, {"regions": "spatial"}])
def test_a_forward_on_a_gpu_reads_nothing_and_sends_nothing(zoom):
    """A number that Python makes a tensor of is sent from pageable memory, for which the host waits."""
    sums, batch = forward_on_gpu(zoom)
    assert sums.loss.device.type == "cuda"
    assert len(sums.rows) == len(batch.outline.supervised)


def test_telemetry_waits_for_nothing_between_two_lines():
    batch, sums = batch_on("cpu")
    with FakeTensorMode():

        def on_gpu(tensor):
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")

        there, fake = batch._map(on_gpu), LossSums(*map(on_gpu, sums[:4]))
        with Refuses():
            count(there, fake)
            PartLosses().add(there, fake)


def test_sources_are_told_apart_sample_by_sample():
    batch, sums = batch_on("cpu")
    twice = replace(batch, sources=(("long",), ("short",)))
    losses = PartLosses()
    losses.add(batch, sums)
    short = int((batch.labels[0] >= 0).sum())
    first, second = sums.token_losses[:short], sums.token_losses[short:]
    assert losses.means(1)[0] == pytest.approx({"short": float(first.mean()), "long": float(second.mean())})
    losses.add(twice, sums)
    assert losses.means(1)[0] == pytest.approx(dict.fromkeys(("short", "long"), float(sums.token_losses.mean())))


def test_an_update_reads_once(monkeypatch):
    reads = []
    monkeypatch.setattr(update, "_read", lambda sums: reads.append(sums) or [1.0] * len(sums))
    with FakeTensorMode():
        net = nn.ModuleDict()
        for name in ("a", "b"):
            net[name] = nn.Linear(4, 4, device="meta")
            for key in ("weight", "bias"):
                shape = getattr(net[name], key).shape
                setattr(net[name], key, nn.Parameter(torch.empty(shape, device="cuda")))
        groups = (Group(match="a.*", lr=0.1), Group(match="b.*", lr=0.1, from_step=1))
        stage = Stage(name="s", steps=10, groups=groups)
        optimizer = build_optimizer(freeze(net, stage), no_decay_names(net), stage)
        for parameter in net.parameters():
            parameter.grad = torch.empty_like(parameter)
        sums = torch.empty((), device="cuda")
        with Refuses():
            prepare_update(optimizer, stage, 3, loss=sums, weight=sums, divided_by=1)
    assert len(reads) == 1


def test_an_update_that_the_device_decides_on_reads_nothing(monkeypatch):
    monkeypatch.setattr(update, "PendingReport", lambda totals, build: totals)
    with FakeTensorMode():
        net = nn.Linear(4, 4, device="meta")
        for key in ("weight", "bias"):
            setattr(net, key, nn.Parameter(torch.empty(getattr(net, key).shape, device="cuda")))
        stage = Stage(name="s", steps=10, groups=(Group(match="*", lr=0.1),), optimizer=partial(AdamW, fused=True))
        optimizer = build_optimizer(freeze(net, stage), no_decay_names(net), stage)
        for parameter in net.parameters():
            parameter.grad = torch.empty_like(parameter)
        sums = torch.empty((), device="cuda")
        with Refuses():
            totals = launch_update(optimizer, stage, 3, loss=sums, weight=sums, divided_by=1)
    assert (totals.device.type, len(totals)) == ("cuda", 5)
    told = (optimizer.grad_scale, optimizer.found_inf)
    assert [(tensor.device.type, tensor.dtype, tensor.ndim) for tensor in told] == [("cuda", torch.float32, 0)] * 2
