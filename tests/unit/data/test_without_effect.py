"""A setting that would be without effect is refused, or said to be, with what makes it so."""

import logging

import pytest

from dragonfly_lit.data.packing import BatchShape
from dragonfly_lit.data.plan import packing_note


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mode": "packed", "size": 8}, r"batch\.size=8 has no effect .*mode=packed.*mode=padded or grouped"),
        ({"mode": "padded", "max_crops": 9}, r"batch\.max_crops=9 has no effect .*mode=padded.*mode=packed"),
        ({"mode": "padded", "buffer": 9}, r"batch\.buffer=9 has no effect .*mode=grouped or packed"),
        ({"max_tokens": 9}, r"batch\.max_tokens=9 has no effect with data\.batch\.mode=padded"),
        ({"mode": "grouped", "max_tokens": 9}, r"batch\.max_tokens=9 has no effect .*mode=packed"),
        ({"mode": "padded", "size": "many"}, r"batch\.size=many must be a whole number"),
        ({"sizes": 3}, r"batch\.sizes is unknown\. Use mode, size"),
    ],
)
def test_a_field_that_the_mode_does_not_look_at_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        BatchShape.of(given)


def test_null_is_the_default_of_the_recipe_and_of_the_model(make_data):
    blank = {"size": None, "max_tokens": None, "max_crops": None, "buffer": None, "pad_to": None}
    padded = make_data(batch={"mode": "padded", **blank}, batch_size=5)
    assert padded.shape.size == 5
    packed = make_data(batch={"mode": "packed", **blank}, batch_size=5)
    assert packed.shape == BatchShape(mode="packed", size=5, max_tokens=160, buffer=16)


def test_what_packing_makes_of_the_recipe_is_said_in_tokens(make_data):
    packed = make_data(batch={"mode": "packed", "max_tokens": 320}, batch_size=5)
    note = packing_note(packed.mix, packed.shape, packed.builder, 5)
    assert note is not None
    assert "a row of up to 320 tokens" in note
    assert "the recipe's batch_size=5, about" in note
    padded = make_data(batch={"mode": "padded", "size": 4}, batch_size=5)
    assert packing_note(padded.mix, padded.shape, padded.builder, 5) is None


def test_weights_of_validation_are_said_to_be_without_effect(make_data, two_sources, caplog):
    val = {"sources": {"pic": {"path": two_sources["pic"], "weight": 0.5}, "text": {"path": two_sources["text"]}}}
    with caplog.at_level(logging.WARNING):
        assert make_data(val=val).val_mix is not None
    assert [record.getMessage().split(" has ")[0] for record in caplog.records] == ["data.val.sources.pic.weight=0.5"]


def test_data_are_prepared_by_what_the_configuration_names(make_data):
    calls = []
    make_data(prepare=lambda: calls.append(1)).prepare_data()
    make_data().prepare_data()
    assert calls == [1]
