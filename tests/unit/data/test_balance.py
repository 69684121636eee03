"""Rows of equal FLOPs: what a sample costs fills the row, and everything that is exact stays so."""

import random
from dataclasses import asdict

import pytest
from test_dealing import pairs, steps_of

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.data import build_data
from dragonfly_lit.app.factories import build_components
from dragonfly_lit.app.planning import cost_of
from dragonfly_lit.data.packing import BatchShape, Cost, Planned

COST = Cost(crop=5.0, pair=0.01)
PACKED = {"mode": "packed", "max_tokens": 320, "buffer": 12, "balance": "flops"}


def test_a_sample_costs_its_tokens_its_crops_and_its_pairs():
    assert COST.of(Planned(num_tokens=10, num_crops=0)) == 10 + round(55 * 0.01)
    assert COST.of(Planned(num_tokens=10, num_crops=4)) == 10 + round(20 + 0.55)


def test_rows_are_filled_up_to_one_cost():
    draw = random.Random(0)
    cost = Cost(crop=26.0, pair=4e-5)
    shape = BatchShape(mode="packed", max_tokens=16384, buffer=64, balance="flops", cost=cost)
    by_tokens = BatchShape(mode="packed", max_tokens=16384, buffer=64)

    def spread(rule):
        costs = []
        for _ in range(20):
            waiting = [
                Planned(num_tokens=draw.randint(50, 600) + 2000 * image, num_crops=41 * image)
                for image in draw.choices((0, 1), k=64)
            ]
            row = [waiting[place] for place in rule.choose(waiting)]
            assert sum(sample.num_tokens for sample in row) <= 16384
            costs.append(sum(cost.of(sample) for sample in row))
        return max(costs) / min(costs)

    assert spread(shape) < 1.001
    assert spread(by_tokens) > 1.03


def test_a_sample_that_costs_more_than_a_row_is_a_row_of_its_own():
    shape = BatchShape(mode="packed", max_tokens=100, balance="flops", cost=COST)
    assert shape.choose([Planned(num_tokens=90, num_crops=8), Planned(num_tokens=5, num_crops=0)]) == [0]


def test_it_resumes_exactly_and_on_another_number_of_ranks(make_data):
    def fresh():
        return make_data(batch=PACKED, cost=asdict(COST), epoch={"steps": 8})

    def resumed():
        data = fresh()
        data.load_state_dict(state)
        return data

    first = fresh()
    for batch in first.train_dataloader():
        first.position.mark(batch)
    state = first.state_dict()
    rest = [batch.keys for batch in first.train_dataloader()]
    assert [batch.keys for batch in resumed().train_dataloader()] == rest
    alone = steps_of(resumed, 1, 8)
    assert steps_of(resumed, 2, 4) == [a + b for a, b in pairs(alone)]


def test_other_rows_are_another_order(make_data):
    plain = {key: value for key, value in PACKED.items() if key != "balance"}
    state = make_data(batch=PACKED, cost=asdict(COST)).state_dict()
    with pytest.raises(ValueError, match=r"balance"):
        make_data(batch=plain).load_state_dict(state)
    assert make_data(batch=plain | {"balance": "tokens"}).fingerprint == make_data(batch=plain).fingerprint
    rows = [[batch.keys for batch in make_data(batch=b, cost=asdict(COST)).train_dataloader()] for b in (PACKED, plain)]
    assert rows[0] != rows[1]


def test_the_model_and_the_stage_say_what_a_crop_costs():
    def crop(*overrides):
        found = cost_of(compose(["data=general_stage2", "data.batch.balance=flops", *overrides]))
        assert found is not None
        return found.crop

    assert cost_of(compose(["data=general_stage2"])) is None
    assert 0.2 < crop("model=dragonfly_v1", "stage=1") < 0.4
    assert crop("model=dragonfly_v2", "stage=1") < crop("model=dragonfly_v2", "stage=2")
    assert 20 < crop("model=dragonfly_v2", "stage=2") < 30


def test_a_configuration_hands_the_cost_to_its_data():
    overrides = ["data.batch.mode=packed", "data.batch.max_tokens=2048", "data.batch.balance=flops"]
    config = compose(overrides)
    data = build_data(config, build_components(config).builder)
    assert data.shape.cost == cost_of(config)
    assert data.shape.balance == "flops"


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"mode": "packed", "balance": "flops"}, "needs the cost"),
        ({"mode": "packed", "balance": "time"}, "data.batch.balance='time' is unknown"),
        ({"mode": "padded", "balance": "flops"}, "data.batch.balance=flops has no effect with data.batch.mode=padded"),
    ],
)
def test_a_mistake_is_named(batch, said):
    with pytest.raises(ValueError, match=said):
        BatchShape.of(batch)
