"""A model without a learned zoom rule is given one: its weights begin afresh, all others are read."""

from __future__ import annotations

import pytest
import torch

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.checkpoint.locate import ZOOM, load_weights

FIND = {"_target_": "dragonfly_lit.models.find.Find"}


def test_a_rule_with_weights_begins_afresh_where_there_was_none_and_all_else_is_read(tmp_path):
    source = tiny_model(seed=1)
    source.save_pretrained(tmp_path)
    model = tiny_model(seed=2, zoom_selector=FIND)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    left = load_weights(model, tmp_path, fresh=ZOOM)
    assert left == {name for name in before if name.startswith(ZOOM)}
    read = dict(source.named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name] if name in left else read[name]), name


def test_whoever_only_reads_a_model_is_told_what_is_missing(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights of this one are missing there"):
        load_weights(tiny_model(zoom_selector=FIND), tmp_path)


def test_a_rule_of_another_kind_is_never_half_read(tmp_path):
    tiny_model(zoom={"learned": True}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"1 are unknown here \(for example zoom"):
        load_weights(tiny_model(zoom_selector=FIND), tmp_path, fresh=ZOOM)
    assert load_weights(tiny_model(zoom={"learned": True}), tmp_path, fresh=ZOOM) == set()
