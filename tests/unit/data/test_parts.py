"""Parts of a divided folder: one that is not there is left out of validation, one that is misspelt is refused."""

import pytest

from dragonfly_lit.data.parts import without_missing_parts
from dragonfly_lit.spec.shard import SPLITS, SPLITS_FILE


def test_only_a_part_that_is_known_may_be_missing(tmp_path, make_data):
    (tmp_path / SPLITS_FILE).write_text("{}")
    (tmp_path / "test").mkdir()
    mix = {"sources": {split: {"path": str(tmp_path), "split": split} for split in (*SPLITS, "vaildation", 3)}}
    assert list(without_missing_parts(mix)["sources"]) == ["test", "vaildation", 3]
    val = {"sources": {"mine": {"path": str(tmp_path), "split": "vaildation"}}}
    with pytest.raises(ValueError, match=r"data.val.sources.mine.split='vaildation': it is one of train, validation, "):
        _ = make_data(val=val).val_mix
    train = {"sources": {"mine": {"path": str(tmp_path), "split": "train"}}}
    with pytest.raises(ValueError, match=r"data.train.sources.mine.split=train: .* has no such part"):
        _ = make_data(train=train).mix
