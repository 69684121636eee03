"""Few bits compute what floats of the same roundings compute, take the bytes that they should, and no float beside."""

import json
import shutil
import subprocess
import sys
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import initialization as init

from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.quantized import (
    QuantizedLinear,
    check_quantize,
    quantization_of,
    quantize_layers,
    quantized_layers,
    quantized_size,
    round_layers,
)
from dragonfly_lit.models.tiny import tiny_model

KINDS = ["int8", "nf4"]
IDS = torch.arange(2 * 17).view(2, 17) % 200
STEP = {"int8": 0.5 / 127, "nf4": (1 - 0.6961928009986877) / 2}
"""Largest rounding as a share of the largest weight of a row or block: half of the widest gap between two codes."""


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    return request.param


def layer_of(linear: nn.Linear, kind: str) -> QuantizedLinear:
    layer = QuantizedLinear(linear.in_features, linear.out_features, kind, linear.bias)
    layer.fill(linear.weight.detach())
    return layer


@given(rows=st.integers(1, 70), width=st.integers(1, 150), seed=st.integers(0, 99), zero=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_weight_is_rounded_to_the_nearest_code(rows, width, seed, zero):
    for kind in KINDS:
        if kind == "nf4":
            pytest.importorskip("bitsandbytes")
        torch.manual_seed(seed)
        linear = nn.Linear(width, rows, bias=False)
        if zero:
            linear.weight.data[0] = 0
        layer = layer_of(linear, kind)
        wrong = (layer.weight - linear.weight).abs().max()
        assert wrong <= (STEP[kind] + 1e-6) * linear.weight.abs().max()
        again = layer_of(nn.Linear(width, rows, bias=False), kind)
        again.fill(layer.weight)
        assert torch.equal(again.codes, layer.codes)


def test_outputs_and_gradients_are_those_of_the_rounded_floats(kind):
    torch.manual_seed(0)
    linear = nn.Linear(96, 40)
    layer = layer_of(linear, kind)
    linear.weight.data = layer.weight
    inputs = [torch.randn(3, 5, 96, requires_grad=True) for _ in range(1)] * 2
    gradients = []
    for part, x in zip((linear, layer), inputs, strict=True):
        x.grad = None
        part(x).square().sum().backward()
        gradients.append(x.grad.clone())
    # The same product of the same numbers; only the bias is added in another order.
    torch.testing.assert_close(layer(inputs[0]), linear(inputs[0]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    assert layer.codes.grad is None
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


def test_logits_are_those_of_the_rounded_model_and_near_those_of_the_floats(kind):
    rounded, few, whole = tiny_model(), tiny_model(), tiny_model()
    round_layers(rounded.language, kind)
    quantize_layers(few.language, kind)
    with torch.no_grad():
        same, found, floats = (model(input_ids=IDS).logits for model in (rounded, few, whole))
    torch.testing.assert_close(found, same, rtol=0, atol=1e-6)
    # Errors of weights are independent and add up over two layers: a few times the mean rounding of a weight, which is
    # 0.6% of their deviation in 8 bits and 9% in 4.
    assert (found - floats).norm() / floats.norm() < {"int8": 0.02, "nf4": 0.4}[kind]
    assert few.generate(input_ids=IDS[:1], max_new_tokens=4, do_sample=False).shape == (1, 21)


def test_which_layers_and_how_many_bytes(kind):
    model = tiny_model()
    floats = {n for n, p in model.named_parameters() if n.endswith("proj.weight") and n.startswith("language.")}
    count = sum(model.get_parameter(name).numel() for name in floats)
    rows = sum(len(model.get_parameter(name)) for name in floats)
    quantize_layers(model.language, kind)
    assert set(quantized_layers(model)) == floats  # and neither head, words, norms, projector nor tower
    assert quantization_of(model) == kind
    size = {"int8": count + 4 * rows, "nf4": count // 2 + 4 * (count // 64)}[kind]
    assert quantized_size(model) == (count, size)


def test_a_cast_leaves_scales_alone(kind):
    model = tiny_model()
    quantize_layers(model.language, kind)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to(torch.bfloat16)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert model(input_ids=IDS).logits.dtype == torch.bfloat16


def test_a_folder_is_read_into_few_bits(kind, tmp_path):
    whole = tiny_model()
    whole.save_pretrained(tmp_path)
    read = DragonflyForConditionalGeneration.from_exported(tmp_path, quantize=kind)
    quantize_layers(whole.language, kind)
    mine, theirs = read.state_dict(), whole.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    buffers = dict(read.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in whole.named_buffers())
    assert read.generation_config.eos_token_id == whole.generation_config.eos_token_id
    with pytest.raises(ValueError, match=r"held as .*no folder is written"):
        read.save_pretrained(tmp_path / "again")
    with pytest.raises(ValueError, match=r"held as .*no folder is written"):
        read.save_released(tmp_path / "again")


MEASURE = """
import json, resource, sys
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration as Model
from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.spec.layout import Zoom
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def read(folder):
    if way == "exported":
        return Model.from_exported(folder, quantize=kind)
    if way == "released":
        return Model.from_released(folder, version="v1", quantize=kind)
    parts = {"vision": "builtin", "tokenizer": tiny_tokenizer(), "zoom": Zoom(high_crops=8, top_k=1)}
    return Model.from_backbones(language=folder, quantize=kind, **parts)
way, kind, tiny, large = sys.argv[1:]
read(tiny)
before = peak()
held = read(large).state_dict().values()
print(json.dumps([peak() - before, sum(t.numel() * t.element_size() for t in held)]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny and a larger model as each way of loading reads it, and the float32 bytes of the larger one's layers."""
    made, size = {}, 0
    for name, width in (("tiny", 48), ("large", 768)):
        text = {"hidden_size": width, "intermediate_size": 8 * width, "num_hidden_layers": 4}
        with init.no_init_weights():
            model = tiny_model(zoom={"high_crops": 24, "top_k": 3, "regions": "raster"}, text=text)
        size = sum(weight.numel() * 4 for weight in model.language.model.layers.parameters())
        ways = {"exported": model.save_pretrained, "released": model.save_released}
        for way, save in (ways | {"backbones": model.language.save_pretrained}).items():
            folder = tmp_path_factory.mktemp(f"{way}-{name}")
            save(folder)
            made.setdefault(way, []).append(folder)
    yield made, size
    for folder in chain(*made.values()):
        shutil.rmtree(folder)


@pytest.mark.parametrize("way", ["exported", "released", "backbones"])
def test_reading_takes_no_float_copy_of_the_layers(folders, kind, way):
    made, floats = folders
    assert floats > 200e6
    run = subprocess.run([sys.executable, "-c", MEASURE, way, kind, *made[way]], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    peak, held = json.loads(run.stdout)
    assert held < 0.35 * floats
    assert peak < held + 0.1 * floats


def test_an_unknown_format_and_a_missing_package_are_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"^model\.quantize=nf5 is unknown\. Use one of nf4, int8, or null\.$"):
        check_quantize("nf5")
    monkeypatch.setattr("dragonfly_lit.models.quantized._loaded", [])
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"quantize=nf4 needs bitsandbytes.*pip install 'dragonfly_lit\[quantize\]'"):
        check_quantize("nf4")
    check_quantize("int8")
