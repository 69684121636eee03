"""What is computed in which type, and what is refused."""

import pytest
import torch
from torch import nn

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training import precision
from dragonfly_lit.training.precision import check_precision, to_fp8
from dragonfly_lit.training.sharding import blocks
from dragonfly_lit.training.stages import Group, Stage, freeze
from dragonfly_lit.training.strategies import Ddp, Fsdp


@pytest.mark.parametrize("strategy", [Ddp, Fsdp])
@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:0", "cpu:gloo,cuda:nccl")])
def test_a_gpu_has_a_backend_on_the_cpu_too(monkeypatch, strategy, device, backend):
    monkeypatch.setattr(strategy, "root_device", torch.device(device))
    assert strategy()._get_process_group_backend() == backend


def test_fp8_without_torchao_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(precision, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^trainer\.precision=fp8 needs torchao: pip install .* or use bf16\.$"):
        check_precision("fp8", torch.device("cuda"))


@pytest.fixture
def fp8():
    return pytest.importorskip("torchao.float8")


def small(match):
    """A model whose language blocks have sides of 16 and more."""
    model = tiny_model()
    freeze(model, Stage(name="2", steps=1, groups=(Group(match=match, lr=1.0),)))
    return model


def converted(model, fp8):
    from torchao.float8.float8_linear import Float8Linear  # pyright: ignore[reportMissingImports]

    return {name for name, module in model.named_modules() if isinstance(module, Float8Linear)}


def test_fp8_turns_layers_that_train_and_no_others(fp8):
    model = small("language.model.layers.1.*")
    to_fp8(blocks(model.language), emulate=True)
    found = converted(model, fp8)
    fitting = {
        name
        for name, module in small("*").language.model.layers[1].named_modules()
        if isinstance(module, nn.Linear) and module.in_features % 16 == module.out_features % 16 == 0
    }
    assert fitting
    assert found == {f"language.model.layers.1.{name}" for name in fitting}


def test_fp8_where_nothing_fits_is_refused_in_one_line(fp8):
    model = small("projector.*")
    with pytest.raises(ValueError, match=r"^trainer\.precision=fp8: the stage trains no linear layer .* Use .*bf16\.$"):
        to_fp8(blocks(model.language))
    assert not converted(model, fp8)


@pytest.mark.parametrize("rows", [64, 37])
def test_fp8_takes_any_number_of_rows_and_follows_bf16(fp8, rows):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 128, dtype=torch.bfloat16))
    turned = nn.Sequential(nn.Linear(64, 128, dtype=torch.bfloat16))
    turned.load_state_dict(plain.state_dict())
    to_fp8([turned], emulate=True)
    inputs = torch.randn(rows, 64, dtype=torch.bfloat16)
    for layer in (plain, turned):
        layer(inputs).square().sum().backward()
    mine, theirs = (layer[0].weight.grad.float() for layer in (turned, plain))
    assert (mine - theirs).norm() < 0.1 * theirs.norm()


def test_rows_are_padded_in_every_product_that_sums_over_them(fp8):
    layer = nn.Sequential(nn.Linear(64, 128))
    to_fp8([layer])
    assert all(product.pad_inner_dim for product in layer[0].linear_mm_config)


@pytest.mark.gpu
def test_the_kernels_of_a_gpu_take_rows_that_do_not_divide_by_16(fp8):
    layer = nn.Sequential(nn.Linear(64, 128, dtype=torch.bfloat16, device="cuda"))
    to_fp8([layer])
    layer(torch.randn(37, 64, dtype=torch.bfloat16, device="cuda")).sum().backward()
    assert layer[0].weight.grad.isfinite().all()
