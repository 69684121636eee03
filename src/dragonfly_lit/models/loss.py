"""Hidden states and labels to loss: the only shift by one; only supervised rows go through the head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dragonfly_lit.spec.outline import supervised_labels

ROWS_PER_CHUNK = 2048
"""Rows whose logits exist at a time: 1 GB of float32 at 128,256 words."""

Head = Callable[[Tensor], Tensor]


class LossSums(NamedTuple):
    """The two sums of which a mean loss is made, over however many batches and ranks.

    A tuple, so that the hooks of a sharded root find the tensors in it.

    Attributes:
        loss: sum of weighted token losses, with gradient.
        weight: sum of the weights.
        token_losses: unweighted loss of every supervised token, detached; of an objective that compares answers, of
            every sample.
        rows: flat position (row-major) of the label of each of them, or of one label of each sample.
        measures: sums of what else an objective has to say, by name, to be divided as the loss is; detached.
    """

    loss: Float[Tensor, ""]
    weight: Float[Tensor, ""]
    token_losses: Float[Tensor, " supervised"]
    rows: Int[Tensor, " supervised"]
    measures: dict[str, Tensor] = {}  # noqa: RUF012  # of a tuple, whose default nobody changes

    @property
    def detached(self) -> LossSums:
        """The same without a graph."""
        return LossSums(*(tensor.detach() for tensor in self[:4]), measures=self.measures)

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Weighted mean; zero, with a graph, where nothing is supervised."""
        return self.loss / torch.where(self.weight == 0, torch.ones_like(self.weight), self.weight)


def loss_sums(
    hidden: Float[Tensor, "rows tokens width"],
    head: Head,
    labels: Int[Tensor, "rows tokens"],
    label_weights: Tensor | None = None,
    sample_ids: Tensor | None = None,
    branch_ids: Tensor | None = None,
    rows_per_chunk: int = ROWS_PER_CHUNK,
    rows: Int[Tensor, " supervised"] | None = None,
    token_graph: bool = False,
) -> LossSums:
    """Cross-entropy of each supervised label under the position before it.

    Logits exist for `rows_per_chunk` rows at a time; backward computes them again.

    Args:
        hidden: last hidden states.
        head: hidden states to logits.
        labels: token ids, IGNORE where nothing is supervised; not shifted.
        label_weights: weight of each label; 1 without.
        sample_ids: as in Batch; the first token of a sample has no position that predicts it.
        branch_ids: as in Batch; the first token of a later branch likewise.
        rows_per_chunk: rows whose logits exist at a time.
        rows: `supervised_labels` of these labels, where they are known; to find them the host waits for the device.
        token_graph: whether the loss of each token has a graph too.
    """
    if rows is None:
        rows = supervised_labels(labels, sample_ids, branch_ids)
    states = hidden.flatten(0, 1).index_select(0, rows - 1)
    targets = labels.flatten()[rows]
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    weights = torch.ones(rows.numel(), device=rows.device) if label_weights is None else label_weights.flatten()[rows]
    weights = weights.to(dtype)
    # A rank without a supervised row still goes through the head, or the others' gradients would wait for it.
    inputs = states if rows.numel() else hidden.flatten(0, 1)[:1]
    at_once = getattr(head, AT_ONCE, None) or partial(losses_of_rows, head)
    losses = at_once(inputs, targets, rows_per_chunk)
    total = losses.new_zeros(())
    for some, theirs in zip(losses.split(rows_per_chunk), weights.split(rows_per_chunk), strict=True):
        total = total + (some * theirs).sum()
    shown = losses if token_graph else losses.detach()
    return LossSums(loss=total, weight=weights.sum(), token_losses=shown, rows=rows)


AT_ONCE = "losses_of_rows"
"""Method of a head that is sharded by itself: gathered once for all rows, however many calls they take. Its arguments
are rounded as the inputs of the head are, so the weights of labels stay outside."""


def losses_of_rows(head: Head, states: Tensor, targets: Tensor, rows_per_chunk: int) -> Float[Tensor, " supervised"]:
    """The loss of each row, with a graph.

    Args:
        head: hidden states to logits.
        states: of the rows; of any row where there are none, so that the head is in the graph.
        targets: labels of the rows.
        rows_per_chunk: rows whose logits exist at a time.
    """
    rows = len(targets)
    if not rows:
        return head(states).flatten()[:0].to(torch.promote_types(states.dtype, torch.float32))
    found = []
    for start in range(0, rows, rows_per_chunk):
        chunk = slice(start, start + rows_per_chunk)
        if torch.is_grad_enabled() and rows > rows_per_chunk:
            found.append(checkpoint(_token_losses, states[chunk], targets[chunk], head, use_reentrant=False))
        else:
            found.append(_token_losses(states[chunk], targets[chunk], head))
    return torch.cat(found)


def _token_losses(states: Tensor, targets: Tensor, head: Head) -> Tensor:
    logits = head(states)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="none")
