"""A token is chosen for every row by its own numbers; what is wrong with one row is told of that row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.serving.sampling import Chosen, NotFiniteError, Sampler, Sampling, choose_all

NEVER = torch.tensor([0])


@settings(deadline=None, max_examples=100)
@given(
    temperature=st.floats(0, 2, exclude_min=True) | st.sampled_from([1e-320, 5e-324, 1e-45, 1e-38]),
    top_p=st.floats(0, 1),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-30, 1.0, 1e4, 1e30]),
)
def test_any_temperature_draws_a_token_that_has_a_chance(temperature, top_p, seed, scale):
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(seed)) * scale
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed, logprobs=3)
    (chosen,) = choose_all(logits, [Sampler(sampling)], NEVER)
    assert isinstance(chosen, Chosen)
    assert chosen.word != 0
    assert chosen.logprob is not None
    if temperature < 1e-9 and scale >= 1:
        assert chosen.word == int(logits[0, 1:].argmax()) + 1


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=1), Sampling(logprobs=2)], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_without_numbers_is_told_and_the_others_have_theirs(sampling, bad):
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    alone = choose_all(logits[[0, 2]], [Sampler(sampling) for _ in range(2)], NEVER)
    logits[1] = bad
    told = choose_all(logits, [Sampler(sampling) for _ in range(3)], NEVER)
    assert isinstance(told[1], NotFiniteError)
    assert [told[0], told[2]] == alone


def test_greedy_rows_and_drawn_ones_side_by_side_get_what_each_gets_alone():
    logits = torch.randn(4, 40, generator=torch.Generator().manual_seed(2))
    kinds = [Sampling(), Sampling(temperature=1.0, seed=3), Sampling(logprobs=0), Sampling(temperature=0.5, seed=4)]
    together = choose_all(logits, [Sampler(kind) for kind in kinds], NEVER)
    alone = [choose_all(logits[[n]], [Sampler(kind)], NEVER)[0] for n, kind in enumerate(kinds)]
    assert together == alone
