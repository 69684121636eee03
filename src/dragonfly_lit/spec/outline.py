"""What a host must know of a batch before a device computes it: who sees whom, where images and labels lie.

Made from ids in the host's memory, so that no step of the forward waits for the device to tell a length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from dragonfly_lit.spec.tokens import IGNORE

PADDING_RUN = 128
"""Tokens of padding that are a run of their own: each sees the few before it, so that no length is cut out."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which keys each run of queries sees, for variable-length attention. The runs are the whole batch, in its order.

    Attributes:
        ends: 0 and the end of every run, of its queries and of its keys.
        host_ends: the same, on the host wherever the batch is.
        keys: flat positions of the keys, run by run; of no meaning where every run sees itself only, which is where
            both rows of the ends are the same.
    """

    ends: Int[Tensor, "2 runs_and_1"]
    host_ends: Int[Tensor, "2 runs_and_1"]
    keys: Int[Tensor, " keys"]

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Number of queries and of keys of every run."""
        queries, keys = self.host_ends.diff().tolist()
        return queries, keys

    def map(self, function: Callable[[Tensor], Tensor]) -> Packing:
        """With `function` on all that belongs on the device."""
        return replace(self, ends=function(self.ends), keys=function(self.keys))


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What is known of a batch on the host.

    Attributes:
        packing: who sees whom.
        plain: whether plain causal attention is the same: one sample a row, no branch, no padding on the left.
        image_slots: flat positions of the images' slots, in order.
        supervised: flat positions of the labels that count.
        num_tokens: without padding.
        num_pairs: pairs of tokens of which the second sees the first, itself included.
    """

    packing: Packing
    plain: bool
    image_slots: Int[Tensor, " slots"]
    supervised: Int[Tensor, " supervised"]
    num_tokens: int
    num_pairs: int

    def map(self, function: Callable[[Tensor], Tensor]) -> Outline:
        """With `function` on all that belongs on the device."""
        return replace(
            self,
            packing=self.packing.map(function),
            image_slots=function(self.image_slots),
            supervised=function(self.supervised),
        )


class _Run(NamedTuple):
    start: int
    length: int


def supervised_labels(
    labels: Int[Tensor, "rows tokens"], sample_ids: Tensor | None, branch_ids: Tensor | None
) -> Int[Tensor, " supervised"]:
    """Flat positions of the labels that count: those whose token before is of the same sample and branch (or trunk)."""
    counts = labels != IGNORE
    counts[:, 0] = False
    if sample_ids is not None:
        counts[:, 1:] &= sample_ids[:, 1:] == sample_ids[:, :-1]
    if branch_ids is not None:
        counts[:, 1:] &= (branch_ids[:, 1:] == branch_ids[:, :-1]) | (branch_ids[:, :-1] == 0)
    return counts.flatten().nonzero().squeeze(1)


def is_plain(sample_ids: Int[Tensor, "rows tokens"], branch_ids: Int[Tensor, "rows tokens"] | None) -> bool:
    """Whether plain causal attention is right: one sample a row, no branch, and no padding on the left."""
    several = (sample_ids > 0).any() | (sample_ids[:, 0] < 0).any()
    if branch_ids is not None:
        several = several | (branch_ids > 0).any()
    return not bool(several)


def pack_runs(sample_ids: Int[Tensor, "rows tokens"], branch_ids: Int[Tensor, "rows tokens"] | None) -> Packing:
    """The runs of a batch (tokens of one sample and branch behind one another) and the keys that each of them sees."""
    device = sample_ids.device
    samples = sample_ids.cpu()
    branches = torch.zeros_like(samples) if branch_ids is None else branch_ids.cpu()
    runs: list[_Run] = []
    seen: list[_Run] = []
    key_lengths: list[int] = []
    earlier: dict[tuple[int, int], dict[int, list[_Run]]] = defaultdict(lambda: defaultdict(list))
    for run, row, sample, branch in _runs(samples, branches):
        runs.append(run)
        keys = [run]
        if sample >= 0:
            of_sample = earlier[row, sample]
            before = of_sample[branch] if branch == 0 else of_sample[0] + of_sample[branch]
            # A trunk that goes on after a branch is rare; positions put it in its place.
            keys = [*sorted(before), run] if len(before) > 1 else [*before, run]
            of_sample[branch].append(run)
        seen += keys
        key_lengths.append(sum(key.length for key in keys))
    host_ends = torch.zeros(2, len(runs) + 1, dtype=torch.int32)
    lengths = torch.tensor([[run.length for run in runs], key_lengths])
    host_ends[:, 1:] = lengths.cumsum(1)
    alone = key_lengths == [run.length for run in runs]
    # Two places stand for no keys at all: a length of 0 or 1 would be a case of its own to a compiler.
    positions = torch.zeros(2, dtype=torch.long) if alone else _positions(seen)
    return Packing(ends=host_ends.to(device), host_ends=host_ends, keys=positions.to(device))


def _runs(samples: Tensor, branches: Tensor) -> list[tuple[_Run, int, int, int]]:
    """Every run with its row, sample and branch; padding in pieces."""
    rows, tokens = samples.shape
    place = torch.arange(tokens).expand(rows, tokens)
    change = torch.ones(rows, tokens, dtype=torch.bool)
    change[:, 1:] = (samples[:, 1:] != samples[:, :-1]) | (branches[:, 1:] != branches[:, :-1])
    change |= (samples < 0) & (place % PADDING_RUN == 0)
    starts = change.flatten().nonzero().squeeze(1)
    lengths = torch.cat([starts[1:], torch.tensor([rows * tokens])]) - starts
    facts = torch.stack([starts, lengths, starts // tokens, samples.flatten()[starts], branches.flatten()[starts]])
    return [(_Run(start, length), row, sample, branch) for start, length, row, sample, branch in facts.T.tolist()]


def _positions(runs: list[_Run]) -> Tensor:
    """Every place of the runs, one run after the other."""
    starts, lengths = torch.tensor(runs).unbind(1)
    before = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) + (starts - before).repeat_interleave(lengths)


def outline(
    labels: Int[Tensor, "rows tokens"],
    sample_ids: Int[Tensor, "rows tokens"],
    branch_ids: Int[Tensor, "rows tokens"],
    position_ids: Int[Tensor, "rows tokens"],
    image_slots: Int[Tensor, " slots"],
) -> Outline:
    """The outline of a batch, from its parts in the host's memory; see Batch and Outline."""
    useful = sample_ids >= 0
    return Outline(
        packing=pack_runs(sample_ids, branch_ids),
        plain=is_plain(sample_ids, branch_ids),
        image_slots=image_slots,
        supervised=supervised_labels(labels, sample_ids, branch_ids),
        num_tokens=int(useful.sum()),
        num_pairs=int(((position_ids + 1) * useful).sum()),
    )
