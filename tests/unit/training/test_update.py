"""From summed gradients to one update, without Lightning."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dragonfly_lit.training import update
from dragonfly_lit.training.optimizer import build_optimizer, no_decay_names
from dragonfly_lit.training.stages import Group, Stage, freeze
from dragonfly_lit.training.update import decides_by_itself, launch_update, prepare_update


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 1)})


def start(net, **fields):
    groups = (Group(match="a.*", lr=0.1, from_step=1), Group(match="b.*", lr=0.1))
    stage = Stage(**{"name": "s", "steps": 10, "groups": groups, "schedule": "constant", "warmup": 0} | fields)
    return stage, build_optimizer(freeze(net, stage), no_decay_names(net), stage)


def backward(net, num_rows, factor=1.0):
    inputs = torch.linspace(-1, 1, num_rows * 4).view(num_rows, 4)
    loss = (net["b"](net["a"](inputs)) * factor).square().sum()
    loss.backward()
    return loss.detach(), torch.tensor(float(num_rows))


def gradients(net):
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def test_gradients_become_those_of_the_mean_over_the_whole_step(net):
    stage, optimizer = start(net, clip=None)
    loss, weight = backward(net, 6)
    expected = {name: g / 6 for name, g in gradients(net).items()}
    report = prepare_update(optimizer, stage, 1, loss=loss, weight=weight, divided_by=1)
    assert report.loss == pytest.approx(float(loss) / 6)
    torch.testing.assert_close(gradients(net), expected)


def test_what_lightning_divides_by_is_undone(net):
    stage, optimizer = start(net, clip=None)
    loss, weight = backward(net, 6)
    expected = {name: g / 6 for name, g in gradients(net).items()}
    for p in net.parameters():
        p.grad /= 8
    prepare_update(optimizer, stage, 1, loss=loss, weight=weight, divided_by=8)
    torch.testing.assert_close(gradients(net), expected)


def test_clipping_is_over_all_groups_and_after_the_mean(net):
    stage, optimizer = start(net, clip=0.01)
    loss, weight = backward(net, 6)
    report = prepare_update(optimizer, stage, 1, loss=loss, weight=weight, divided_by=1)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients(net).values()))
    assert norm == pytest.approx(0.01, rel=1e-4)
    assert report.grad_norm == pytest.approx(math.hypot(*report.grad_norms.values())) != pytest.approx(0.01)


def test_a_group_that_waits_gives_no_gradient_and_does_not_count_in_the_norm(net):
    stage, optimizer = start(net)
    loss, weight = backward(net, 6)
    report = prepare_update(optimizer, stage, 0, loss=loss, weight=weight, divided_by=1)
    assert net["a"].weight.grad is None
    assert report.grad_norms["a.*"] == 0.0
    before = net["a"].weight.clone()
    optimizer.step()
    assert torch.equal(before, net["a"].weight)
    assert float(optimizer.state[net["a"].weight]["step"]) == 0


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_state(net, factor):
    stage, optimizer = start(net)
    loss, weight = backward(net, 6, factor)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    report = prepare_update(optimizer, stage, 1, loss=loss, weight=weight, divided_by=1)
    optimizer.step()
    assert report.skipped == "the loss is not finite"
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())


def test_a_gradient_that_is_not_finite_is_refused_though_the_loss_is(net):
    stage, optimizer = start(net)
    loss, weight = backward(net, 6)
    net["b"].weight.grad[0, 0] = math.nan
    report = prepare_update(optimizer, stage, 1, loss=loss, weight=weight, divided_by=1)
    assert report.skipped == "the gradient is not finite"


def test_a_step_without_a_supervised_token_moves_nothing_by_gradient(net):
    stage, optimizer = start(net)
    zero = torch.zeros(())
    backward(net, 2, 0.0)
    report = prepare_update(optimizer, stage, 1, loss=zero, weight=zero, divided_by=1)
    assert report.skipped is None
    assert report.loss == 0.0


def test_the_learning_rate_follows_the_config_not_the_optimizer(net):
    stage, optimizer = start(net, schedule="linear")
    optimizer.param_groups[0]["lr"] = 123.0
    loss, weight = backward(net, 6)
    prepare_update(optimizer, stage, 5, loss=loss, weight=weight, divided_by=1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05] * 4)


class OneDevice(TorchDispatchMode):
    """Refuses an operation over tensors of two devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        devices = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        assert len(devices) < 2, f"{func} over {devices}"
        return func(*args, **(kwargs or {}))


def test_shards_in_the_hosts_memory_are_summed_there_and_meet_the_loss_on_its_device(monkeypatch):
    """`strategy.offload=true`: gradients lie on the host, the loss and what ranks add up on the GPU."""
    read = []
    monkeypatch.setattr(update, "_read", lambda totals: read.append(totals) or [1.0] * len(totals))
    with FakeTensorMode():
        net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 1)})
        stage, optimizer = start(net)
        for parameter in net.parameters():
            parameter.grad = torch.empty_like(parameter)
        loss = torch.empty((), device="cuda")
        with OneDevice():
            prepare_update(optimizer, stage, 0, loss=loss, weight=loss, divided_by=1)
        devices = {state[key].device.type for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")}
    assert [totals.device.type for totals in read] == ["cuda"]
    assert devices == {parameter.device.type for parameter in net.parameters()} == {"cpu"}


FUSED = {"optimizer": partial(torch.optim.AdamW, fused=True)}


def step_both_ways(factor, stage_fields, spoil=None):
    """Weights, optimizer state and report of a step that the host decides on, and of one that the device does."""
    found = []
    for launch in (False, True):
        torch.manual_seed(0)
        net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 1)})
        stage, optimizer = start(net, **FUSED, **stage_fields)
        loss, weight = backward(net, 6, factor)
        if spoil is not None:
            spoil(net)
        arguments = {"loss": loss, "weight": weight, "divided_by": 2}
        if launch:
            pending = launch_update(optimizer, stage, 1, **arguments)
            optimizer.step()
            report = pending.read()
        else:
            report = prepare_update(optimizer, stage, 1, **arguments)
            optimizer.step()
        state = {name: dict(optimizer.state[p]) for name, p in net.named_parameters()}
        found.append((dict(net.named_parameters()), state, report))
    return found


@pytest.mark.parametrize("clip", [None, 0.01, 1e6])
def test_the_device_takes_the_step_that_the_host_would(clip):
    (weights, state, report), (launched, launched_state, late) = step_both_ways(1.0, {"clip": clip})
    assert late == report
    torch.testing.assert_close(launched, weights)
    torch.testing.assert_close(launched_state, state)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_the_device_leaves_a_bad_step_out(bad):
    def spoil(net):
        net["b"].weight.grad[0, 0] = bad

    (weights, state, report), (launched, launched_state, late) = step_both_ways(1.0, {}, spoil)
    assert late.skipped == report.skipped == "the gradient is not finite"
    torch.testing.assert_close(launched, weights, rtol=0, atol=0)
    torch.testing.assert_close(launched_state, state, rtol=0, atol=0)


class Passes(TorchDispatchMode):
    """Operations that read a gradient, in turn."""

    def __init__(self, net):
        super().__init__()
        self.of, self.found = {p.grad.untyped_storage().data_ptr() for p in net.parameters()}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if any(tensor.untyped_storage().data_ptr() in self.of for tensor in given):
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_gradient_is_read_for_the_norm_and_by_the_optimizer_and_no_third_time(net):
    stage, optimizer = start(net, **FUSED)
    loss, weight = backward(net, 6)
    with Passes(net) as passes:
        launch_update(optimizer, stage, 1, loss=loss, weight=weight, divided_by=2)
        optimizer.step()
    groups = len(optimizer.param_groups)
    assert passes.found == ["_foreach_norm"] * groups + ["_fused_adamw_"] * groups


def test_only_a_fused_optimizer_on_a_gpu_decides_by_itself(net):
    _, fused = start(net, **FUSED)
    _, plain = start(net, optimizer=torch.optim.AdamW)
    assert (decides_by_itself(fused), decides_by_itself(plain)) == (False, False)  # on a CPU nobody waits
    with FakeTensorMode():
        groups = [{"params": [nn.Parameter(torch.empty(4, 4, device="cuda"))]}]
        assert decides_by_itself(torch.optim.AdamW(groups, fused=True))
        assert not decides_by_itself(torch.optim.AdamW(groups))
        assert not decides_by_itself(torch.optim.Adagrad(groups))
