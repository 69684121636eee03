"""The order of a source, and the shares of a mix."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shards import make_record, write_shards

from dragonfly_lit.data.mix import Mix, shares
from dragonfly_lit.data.order import SourceOrder, permutation, uniform


def read(order: SourceOrder, stream: int, epochs: int) -> list[tuple[int, int]]:
    """(epoch, sample) of everything that `stream` reads in the first epochs."""
    found, position = [], (0, 0, 0)
    while True:
        sample, position = order.take(stream, *position)
        if position[0] >= epochs:
            return found
        found.append((position[0], sample))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), streams=st.sampled_from([1, 4, 12]), block=st.integers(1, 40), window=st.integers(1, 90))
def test_all_streams_together_read_every_sample_once_an_epoch(n, streams, block, window):
    order = SourceOrder("x", n, 3, streams, block, window)
    found = [pair for stream in range(streams) for pair in read(order, stream, 3)]
    assert sorted(found) == [(epoch, sample) for epoch in range(3) for sample in range(n)]


def test_epochs_seeds_and_sources_differ_in_order():
    def first(name: str, seed: int, epoch: int) -> list[int]:
        order = SourceOrder(name, 200, seed, 1, 8, 64)
        return [sample for e, sample in read(order, 0, epoch + 1) if e == epoch]

    orders = [first("x", 0, 0), first("x", 0, 1), first("x", 1, 0), first("y", 0, 0), list(range(200))]
    assert len({tuple(order) for order in orders}) == 5


def test_the_order_of_a_seed_is_pinned():
    assert permutation(8, 0, "x").tolist() == [2, 1, 7, 3, 6, 5, 4, 0]
    assert uniform(0, "mix", 3, 5) == 0.5503445397764656


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("mix")
    return {
        name: str(write_shards(root / name, [make_record(n, name) for n in range(count)]))
        for name, count in (("big", 90), ("small", 30))
    }


def test_two_sources_are_drawn_at_their_shares_each_without_replacement(folders):
    mix = Mix({"sources": {n: {"path": p, "weight": w} for (n, p), w in zip(folders.items(), (0.7, 0.3), strict=True)}})
    orders = [SourceOrder(source.name, len(source), 0, 4, 8, 32) for source in mix.sources]
    drawn: Counter[int] = Counter()
    seen: Counter[tuple[int, int, int]] = Counter()
    for stream in range(4):
        positions = [(0, 0, 0), (0, 0, 0)]
        for number in range(5000):
            source = mix.draw(stream, number)
            sample, positions[source] = orders[source].take(stream, *positions[source])
            drawn[source] += 1
            seen[source, positions[source][0], sample] += 1
    assert drawn[0] / 20_000 == pytest.approx(0.7, abs=0.01)
    assert set(seen.values()) == {1}
    assert {sample for source, epoch, sample in seen if (source, epoch) == (1, 100)} == set(range(30))


def test_nested_mixes_and_temperature_multiply_into_shares(folders):
    mix = {
        "sources": {
            "a": {"weight": 3, "sources": {"x": {"path": "x", "weight": 1}, "y": {"path": "y", "weight": 2}}},
            "b": {"path": "b", "weight": 1},
        }
    }
    assert shares(mix, {"a/x": 1, "a/y": 1, "b": 1}) == pytest.approx({"a/x": 0.25, "a/y": 0.5, "b": 0.25})
    even = {"temperature": 2, "sources": {"x": {"path": "x"}, "y": {"path": "y"}}}
    assert shares(even, {"x": 900, "y": 100}) == pytest.approx({"x": 0.75, "y": 0.25})


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"sources": {}}, r"data\.train\.sources is empty"),
        ({"sources": {"a": {"pth": "x"}}}, r"data\.train\.sources\.a has an unknown key 'pth'"),
        ({"sources": {"a": {"path": "/absent/easy_vqa/train"}}}, r"sources\.a\.path=.*python -m data_prep demo"),
        ({"sources": {"a": {"path": "/absent/x"}}}, r"no such folder.*python -m data_prep pack"),
        ({"sources": {"a": {"path": "BIG", "weight": 0}}}, r"sources\.a\.weight=0 must be above 0"),
        ({"sources": {"a": {"path": "BIG", "prompts": "nope"}}}, r"prompts='nope' is unknown. Use caption"),
        ({"sources": {"a": {"path": "BIG", "on_error": "ignore"}}}, r"on_error='ignore' is unknown"),
        ({"temperature": 2, "sources": {"a": {"path": "BIG", "weight": 1}}}, r"are both set"),
    ],
)
def test_a_wrong_mix_is_refused_with_its_key(mix, message, folders):
    for node in mix["sources"].values():
        node |= {"path": folders["big"]} if node.get("path") == "BIG" else {}
    with pytest.raises(ValueError, match=message):
        Mix(mix)
