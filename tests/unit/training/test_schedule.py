"""The learning rate is a pure function of the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_lit.training.schedule import factor, num_decay_steps, num_warmup_steps

SHAPES = ("cosine", "linear", "constant", "wsd")


@given(st.sampled_from(SHAPES), st.integers(0, 500), st.integers(1, 300), st.integers(0, 50), st.floats(0, 1))
def test_a_factor_is_between_zero_and_one(shape, step, steps, warmup, floor):
    assert 0 <= factor(step, shape=shape, steps=steps, warmup_steps=warmup, floor=floor) <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_warm_up_rises_from_above_zero_to_the_peak(shape):
    rising = [factor(step, shape=shape, steps=100, warmup_steps=4) for step in range(5)]
    assert rising == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_and_linear_meet_halfway_and_end_at_the_floor():
    for shape in ("cosine", "linear"):
        assert factor(50, shape=shape, steps=100) == pytest.approx(0.5)
        assert factor(100, shape=shape, steps=100, floor=0.1) == pytest.approx(0.1)
        assert factor(1000, shape=shape, steps=100, floor=0.1) == pytest.approx(0.1)


def test_a_constant_rate_stays():
    assert {factor(step, shape="constant", steps=10) for step in range(20)} == {1.0}


def test_warm_up_is_a_share_below_one_and_steps_from_one_on():
    assert num_warmup_steps(0.01, 17_400) == 174
    assert num_warmup_steps(0.01, 250) == 3
    assert num_warmup_steps(200, 17_400) == 200
    assert num_warmup_steps(0, 100) == 0


@given(st.integers(1, 300), st.integers(0, 50), st.integers(1, 100), st.floats(0, 1))
def test_wsd_is_flat_until_its_decay_and_then_falls_in_a_straight_line_to_the_floor(steps, warmup, decay, floor):
    rates = [
        factor(step, shape="wsd", steps=steps, warmup_steps=warmup, decay_steps=decay, floor=floor)
        for step in range(steps + 1)
    ]
    first = max(warmup, steps - decay)  # where the fall begins
    assert rates[warmup : first + 1] == pytest.approx([1.0] * len(rates[warmup : first + 1]))
    falls = [before - after for before, after in zip(rates[first:], rates[first + 1 :], strict=False)]
    assert falls == pytest.approx([(1 - floor) / max(1, steps - first)] * len(falls))
    if first < steps:
        assert rates[steps] == pytest.approx(floor)


def test_wsd_of_a_hundred_steps():
    rates = {s: factor(s, shape="wsd", steps=100, warmup_steps=4, decay_steps=20) for s in (0, 4, 80, 81, 90, 99, 100)}
    assert rates == pytest.approx({0: 0.2, 4: 1.0, 80: 1.0, 81: 0.95, 90: 0.5, 99: 0.05, 100: 0.0})


def test_the_decay_is_counted_as_the_warm_up_is():
    assert num_decay_steps(0.1, 250) == 25
    assert num_decay_steps(30, 250) == 30
