"""The gate of an MLP some rows at a time: the same bits forward and backward, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

from dragonfly_lit.models import gated_mlp
from dragonfly_lit.models.gated_mlp import gates_by_rows
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.sharding import checkpoint_activations


def grads(decoder, states):
    states = states.clone().requires_grad_()
    decoder.zero_grad()
    out = decoder(inputs_embeds=states).last_hidden_state
    out.square().sum().backward()
    return [out.detach(), states.grad, *(p.grad.clone() for p in decoder.parameters() if p.grad is not None)]


def counted(monkeypatch) -> list[int]:
    """How many tokens each gate had that went by rows."""
    taken, forward = [], gated_mlp._Gated.forward
    count = staticmethod(lambda ctx, gate, up: (taken.append(gate[..., 0].numel()), forward(ctx, gate, up))[1])
    monkeypatch.setattr(gated_mlp._Gated, "forward", count)
    return taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "smollm3"])
def test_bits_are_the_same(monkeypatch, kind, dtype):
    monkeypatch.setattr(gated_mlp, "ROWS", 7)
    decoder = tiny_model(text={"model_type": kind}).to(dtype).train().get_decoder()
    states = torch.randn(2, 19, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    plain, taken = grads(decoder, states), counted(monkeypatch)
    with gates_by_rows(decoder):
        found = grads(decoder, states)
    assert taken == [38] * len(decoder.layers)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert not any("forward" in vars(block.mlp) for block in decoder.layers)


def test_blocks_that_are_computed_again_are_left_as_they_are(monkeypatch):
    model = tiny_model().train()
    checkpoint_activations(model.language, "full")
    taken = counted(monkeypatch)
    with gates_by_rows(model.get_decoder()):
        grads(model.get_decoder(), torch.randn(1, 9, model.config.text_config.hidden_size))
    assert not taken
