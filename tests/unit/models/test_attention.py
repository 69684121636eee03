"""Attention: packed samples and branches see what they would see alone, under every implementation."""

from __future__ import annotations

import pytest
import torch

from dragonfly_lit.models.attention import choose_attention, dense_mask
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.spec.outline import pack_runs

IMPLEMENTATIONS = ("eager", "sdpa", "packed_varlen")
QUESTIONS = (("What is it?", "A dog."), ("How many?", "Two, I think."), ("Where?", "There."))


@pytest.fixture(params=IMPLEMENTATIONS)
def attending(request, model):
    model.set_attn_implementation({"text_config": request.param})
    assert model.get_decoder().config._attn_implementation == request.param
    yield model
    model.set_attn_implementation({"text_config": "sdpa"})


def logits(model, batch):
    with torch.no_grad():
        return model(**batch.model_inputs()).logits


def test_packed_samples_give_the_logits_that_they_give_alone(attending, make):
    samples = [make.sequence(1), make.sequence(2, num_images=0), make.sequence(3, num_images=2)]
    packed = logits(attending, make.batch(samples, [samples[1], samples[0]]))
    alone = [logits(attending, make.batch(sample))[0] for sample in samples]
    torch.testing.assert_close(packed[0], torch.cat(alone), atol=2e-6, rtol=0)
    length = len(samples[0]) + len(samples[1])
    torch.testing.assert_close(packed[1, :length], torch.cat([alone[1], alone[0]]), atol=2e-6, rtol=0)


def test_questions_that_share_an_image_give_the_logits_that_they_give_alone(attending, make):
    shared = make.sequence(4, pairs=QUESTIONS, share_image=True)
    packed = logits(attending, make.batch([make.sequence(1), shared]))[0, len(make.sequence(1)) :]
    for branch, pair in enumerate(QUESTIONS, start=1):
        alone = logits(attending, make.batch(make.sequence(4, pairs=(pair,))))[0]
        own = (shared.branch_ids == 0) | (shared.branch_ids == branch)
        torch.testing.assert_close(packed[own], alone, atol=2e-6, rtol=0)


def test_padding_on_either_side_changes_nothing(attending, make):
    short, long = make.sequence(1), make.sequence(2, pairs=QUESTIONS)
    alone = logits(attending, make.batch(short))[0]
    for side in ("left", "right"):
        row = logits(attending, make.batch(short, long, side=side))[0]
        kept = row[-len(short) :] if side == "left" else row[: len(short)]
        torch.testing.assert_close(kept, alone, atol=2e-6, rtol=0)


def test_gradients_of_packed_samples_are_the_sum_of_those_alone(make):
    model = tiny_model().double()
    model.set_attn_implementation({"text_config": "packed_varlen"})
    samples = [make.sequence(1, pairs=QUESTIONS, share_image=True), make.sequence(3, num_images=0)]
    grads = []
    for rows in ([samples], [[samples[0]], [samples[1]]]):
        model.zero_grad()
        for row in rows:
            batch = make.batch(row)
            model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all((a - b).abs().max() < 1e-7 for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "smollm3"])
@pytest.mark.parametrize("implementation", ["sdpa", "packed_varlen"])
def test_every_kind_of_language_model_keeps_packed_samples_apart(kind, implementation, make):
    model = tiny_model(text={"model_type": kind})
    model.set_attn_implementation({"text_config": implementation})
    samples = [make.sequence(2, pairs=QUESTIONS, share_image=True), make.sequence(1)]
    packed = logits(model, make.batch(samples))[0]
    alone = [logits(model, make.batch(sample))[0] for sample in samples]
    torch.testing.assert_close(packed, torch.cat(alone), atol=5e-6, rtol=0)


def test_a_row_longer_than_a_sliding_window_is_refused(make):
    model = tiny_model(text={"model_type": "mistral", "sliding_window": 64})
    with pytest.raises(ValueError, match=r"sliding_window=64"):
        logits(model, make.batch([make.sequence(1), make.sequence(2)]))


def test_the_keys_of_a_branch_are_the_trunk_and_itself():
    samples = torch.tensor([[0, 0, 0, 0, 0, 1, -1]])
    branches = torch.tensor([[0, 0, 1, 2, 2, 0, 0]])
    packing = pack_runs(samples, branches)
    assert packing.lengths == ([2, 1, 2, 1, 1], [2, 3, 4, 1, 1])
    assert packing.keys.tolist() == [0, 1, 0, 1, 2, 0, 1, 3, 4, 5, 6]  # padding, the last, is seen by itself alone
    assert packing.ends.tolist() == packing.host_ends.tolist() == [[0, 2, 3, 5, 6, 7], [0, 2, 5, 9, 10, 11]]
    seen = [row.nonzero().flatten().tolist() for row in dense_mask(samples, branches)[0, 0, :6]]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [5]]


def test_one_sample_a_row_takes_the_plain_causal_way(model, make, monkeypatch):
    masks = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*args, attn_mask=None, is_causal=False, **kwargs):
        masks.append((attn_mask, is_causal))
        return attend(*args, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    logits(model, make.batch(make.sequence(1), make.sequence(2, num_images=0)))
    assert masks[-2:] == [(None, True)] * 2


def test_the_choice_of_attention_says_why():
    name, why = choose_attention("auto", "cpu", torch.float32)
    assert (name, "cpu in torch.float32" in why) == ("packed_varlen", True)
    name, why = choose_attention("auto", "cuda", torch.bfloat16)
    assert (name, "flash kernels" in why) == ("packed_varlen", True)
    assert choose_attention("auto", "cuda", torch.float32)[0] == "sdpa"
    assert choose_attention("eager", "cpu", torch.float32)[0] == "eager"
    with pytest.raises(ValueError, match="Use attention=auto"):
        choose_attention("flash_attention_2", "cpu", torch.bfloat16)
    with pytest.raises(ValueError, match="Use one of auto"):
        choose_attention("flash", "cpu", torch.bfloat16)


@pytest.mark.gpu
def test_the_gpu_kernels_agree_with_the_dense_mask(make):
    model = tiny_model(text={"hidden_size": 64, "head_dim": 16}).to("cuda", torch.bfloat16)
    batch = make.batch([make.sequence(4, pairs=QUESTIONS, share_image=True), make.sequence(1)]).to("cuda")
    found = []
    for implementation in ("sdpa", "packed_varlen"):
        model.set_attn_implementation({"text_config": implementation})
        found.append(logits(model, batch).float())
    torch.testing.assert_close(*found, atol=3e-2, rtol=0)
