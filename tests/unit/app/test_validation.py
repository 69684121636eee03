"""A run says at its start when nothing is validated, and the way out that it prints is one."""

import logging
import shlex

import pytest

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.data import resolve_validation
from dragonfly_lit.app.values import check_values


@pytest.mark.parametrize("mix", ["data=general_stage1", "data=general_stage2"])
def test_a_mix_without_validation_says_so_and_how_to_have_it(mix, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    resolve_validation(compose([mix], "train"))
    (line,) = caplog.messages
    assert line.startswith("data.val=null: nothing is validated, so there is no val_loss.")
    (typed,) = (word for word in shlex.split(line.removesuffix(".")) if word.startswith("data.val={"))
    caplog.clear()
    config = compose([mix, typed.replace("FOLDER", str(tmp_path))], "train")
    check_values(config, "train")
    resolve_validation(config)
    assert caplog.messages == []
    assert config["data"]["val"] == {"sources": {"held_out": {"path": str(tmp_path)}}, "batch_size": 16}


def test_a_mix_with_validation_says_nothing(caplog):
    caplog.set_level(logging.INFO)
    resolve_validation(compose(["data=demo"], "train"))
    assert caplog.messages == []
