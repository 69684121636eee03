"""Loss: the shift, the weights, and equality with the plain computation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dragonfly_lit.models.loss import loss_sums
from dragonfly_lit.spec.tokens import IGNORE


def made(dtype=torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(3, 20, 8, dtype=dtype, requires_grad=True)
    head = torch.nn.Linear(8, 11, bias=False).to(dtype)
    labels = torch.randint(0, 11, (3, 20))
    labels[torch.rand(3, 20) < 0.5] = IGNORE
    return hidden, head, labels, torch.rand(3, 20)


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 1000])
def test_rows_in_chunks_give_the_loss_and_gradients_of_all_rows_at_once(rows_per_chunk):
    hidden, head, labels, weights = made()
    sums = loss_sums(hidden, head, labels, weights, rows_per_chunk=rows_per_chunk)
    ours = torch.autograd.grad(sums.mean, [hidden, head.weight])
    logits = head(hidden)[:, :-1].flatten(0, 1)
    losses = F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="none")
    counted = (labels[:, 1:].flatten() != IGNORE) * weights[:, 1:].flatten().double()
    plain = (losses * counted).sum() / counted.sum()
    theirs = torch.autograd.grad(plain, [hidden, head.weight])
    assert abs(sums.mean - plain) < 1e-12
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(sums.rows, torch.tensor([i for i in range(60) if i % 20 and labels.flatten()[i] != IGNORE]))
    torch.testing.assert_close(sums.token_losses, losses[labels[:, 1:].flatten() != IGNORE])
    assert not sums.token_losses.requires_grad


def test_no_label_is_predicted_across_samples_or_from_another_branch():
    hidden, head, _, _ = made()
    labels = torch.zeros(3, 20, dtype=torch.long)
    samples = torch.zeros_like(labels)
    samples[0, 12:] = 1
    branches = torch.zeros_like(labels)
    branches[1, 6:12], branches[1, 12:] = 1, 2
    rows = set(loss_sums(hidden, head, labels, None, samples, branches).rows.tolist())
    assert set(range(60)) - rows == {0, 12, 20, 32, 40}


def test_nothing_supervised_is_a_zero_that_can_be_propagated():
    hidden, head, labels, _ = made()
    sums = loss_sums(hidden, head, torch.full_like(labels, IGNORE))
    sums.mean.backward()
    assert (sums.loss, sums.weight) == (0, 0)
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))


def test_half_precision_losses_are_computed_in_float32():
    hidden, head, labels, _ = made(torch.bfloat16)
    assert loss_sums(hidden, head, labels).loss.dtype == torch.float32


def test_forward_gives_the_weighted_mean_and_loss_sums_the_same_sums(model, make):
    batch = make.batch(make.sequence(1), make.sequence(2, num_images=0, pairs=(("Hm?", "No."),)), weighting="sample")
    with torch.no_grad():
        output = model(**batch.model_inputs(), labels=batch.labels, label_weights=batch.label_weights)
        sums = model.loss_sums(**batch.model_inputs(), labels=batch.labels, label_weights=batch.label_weights)
        losses = F.cross_entropy(output.logits[:, :-1].mT, batch.labels[:, 1:], reduction="none")
    weights = batch.label_weights[:, 1:] * (batch.labels[:, 1:] != IGNORE)
    torch.testing.assert_close(output.loss, (losses * weights).sum() / weights.sum())
    torch.testing.assert_close(sums.loss, (losses * weights).sum())
    torch.testing.assert_close(sums.weight, weights.sum())
