"""A setting that would be without effect is refused, or said to be, with what makes it so."""

import logging
from argparse import Namespace
from math import ceil

import pytest

from dragonfly_lit.app.starts import find_steps
from dragonfly_lit.data import plan
from dragonfly_lit.data.packing import BatchShape
from dragonfly_lit.data.plan import packing_note


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mode": "packed", "size": 8}, r"batch\.size=8 has no effect .*mode=packed.*mode=padded or grouped"),
        ({"mode": "padded", "max_tokens": 9}, r"batch\.max_tokens=9 has no effect .*mode=padded.*mode=packed"),
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
    note = packing_note(packed.shape, packed.builder, 5, packed.means)
    assert "a row of up to 320 tokens" in note
    assert "the recipe's batch_size=5, about" in note


def test_a_note_of_packing_is_for_packs_with_a_recipe(make_data, caplog):
    trainer = Namespace(overfit_batches=0, callbacks=[], is_global_zero=True, world_size=1, global_rank=0)
    notes = []
    for mode, batch_size in (("packed", 5), ("packed", None), ("padded", 5)):
        data = make_data(batch={"mode": mode}, batch_size=batch_size)
        data.trainer = trainer
        caplog.clear()
        data.setup("fit")
        notes.append([record.getMessage()[:22] for record in caplog.records])
    assert notes == [["data.batch.mode=packed"], [], []]


def test_lengths_are_probed_once(make_data, monkeypatch):
    probed = []
    probe = plan.probe
    monkeypatch.setattr(plan, "probe", lambda source, builder: probed.append(source.name) or probe(source, builder))
    data = make_data(batch={"mode": "packed"}, batch_size=5, epoch={"passes": 1})
    assert data.micro_batches_per_epoch == ceil(len(data.mix) / round(data.samples_per_micro_batch))
    trainer, stage = {"devices": 1, "num_nodes": 1}, {"accumulate": 2, "steps": 7}
    steps, told = find_steps({"trainer": trainer, "stage": stage}, data, None)
    assert steps == 7
    assert f"2 x {data.samples_per_micro_batch:.3g} samples" in told
    assert packing_note(data.shape, data.builder, 5, data.means)
    assert probed == [source.name for source in data.mix.sources]
    steps_only = make_data(batch={"mode": "packed"}, epoch={"steps": 3})
    assert steps_only.micro_batches_per_epoch == 3
    assert len(probed) == len(data.mix.sources)


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
