"""What the host knows of a batch: the same as what the ids say, found in time linear in the runs."""

import sys

import pytest
import torch

from dragonfly_lit.models.attention import dense_mask
from dragonfly_lit.spec.outline import PADDING_RUN, is_plain, pack_runs


def ids(samples: int, branches: int, *, trunk: int = 3, branch: int = 2, padding: int = 0):
    """One row of samples with as many branches each."""
    sample_ids, branch_ids = [], []
    for sample in range(samples):
        sample_ids += [sample] * (trunk + branches * branch)
        branch_ids += [0] * trunk + [b + 1 for b in range(branches) for _ in range(branch)]
    filled = [sample_ids + [-1] * padding], [branch_ids + [0] * padding]
    return tuple(torch.tensor(row) for row in filled)


def mask_of(packing, tokens: int) -> torch.Tensor:
    """Who sees whom, as the kernels understand a packing: causal, aligned at the end of the keys."""
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    queries, keys = packing.host_ends.tolist()
    alone = queries == keys
    for i in range(len(queries) - 1):
        seen = torch.arange(keys[i], keys[i + 1]) if alone else packing.keys[keys[i] : keys[i + 1]]
        length = queries[i + 1] - queries[i]
        for j in range(length):
            mask[queries[i] + j, seen[: len(seen) - length + j + 1]] = True
    return mask


@pytest.mark.parametrize("tail", [[[0, 0, 1, 1, 0, 2]], [[-1, 0, 0, 0, 1, 1]], [[0, 0, 0, 0, 0, 0]]])
def test_runs_see_what_the_dense_mask_shows(tail):
    # A trunk that goes on after a branch, padding on the left, and a second row.
    samples = torch.tensor([[0, 0, 0, 1, 1, 1], *tail])
    branches = torch.tensor([[0, 1, 0, 0, 1, 2], [0, 0, 0, 1, 0, 0]])
    found, wanted = mask_of(pack_runs(samples, branches), 12), torch.zeros(12, 12, dtype=torch.bool)
    for row, mask in enumerate(dense_mask(samples, branches)[:, 0]):
        wanted[6 * row : 6 * row + 6, 6 * row : 6 * row + 6] = mask
    useful = samples.flatten() >= 0
    assert torch.equal(found[useful], wanted[useful])
    assert not found[useful][:, ~useful].any()
    assert found.any(1).all()  # padding too has something to look at: a softmax over nothing is no number


def test_padding_is_cut_into_pieces_so_that_it_costs_little():
    samples, branches = ids(2, 0, padding=3 * PADDING_RUN)
    queries, keys = pack_runs(samples, branches).lengths
    assert queries == keys
    assert max(queries) <= PADDING_RUN


def lines_run(function, *arguments) -> int:
    """How many lines of Python a call takes, whatever else the machine does."""
    count = 0

    def trace(_frame, event, _argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(("samples", "branches"), [(128, 0), (8, 10), (64, 10)])
def test_packing_takes_work_that_grows_with_the_runs_and_no_faster(samples, branches):
    once, twice = (lines_run(pack_runs, *ids(n, branches)) for n in (samples, 2 * samples))
    assert twice < 2.05 * once
    if branches:
        assert lines_run(pack_runs, *ids(samples, 2 * branches)) < 2.05 * once


def test_a_pack_of_128_samples_of_10_branches_is_that_of_its_parts():
    samples, branches = ids(128, 10)
    queries, keys = pack_runs(samples, branches).lengths
    assert queries == [3, *[2] * 10] * 128
    assert keys == [3, *[5] * 10] * 128


def test_a_row_of_one_sample_is_plain():
    assert is_plain(*ids(1, 0, padding=4))
    assert not is_plain(*ids(2, 0))
    assert not is_plain(*ids(1, 1))
    assert not is_plain(torch.tensor([[-1, 0, 0]]), None)
