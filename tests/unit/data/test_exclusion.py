"""`exclude: FILE`: what is listed is never read, everything else is, and a run goes on exactly where it stopped."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shards import make_record, write_shards
from test_resume import PACKED, PADDED, run

from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.exclusion import read_keys, write_keys
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.source_spec import spec_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def keys_of(folder):
    shards = open_dataset(folder)
    return [shards[place].key for place in range(len(shards))]


def listed(path, keys):
    path.write_text("# of a test\n\n" + "".join(f"{key}\n" for key in keys))
    return str(path)


def opened(folder, file):
    return open_source(spec_of({"path": folder, "exclude": str(file)}, "data.train.sources.pic", "pic"), "KEY")


@pytest.mark.parametrize("seed", range(5))
def test_what_is_listed_is_left_out_and_nothing_else(two_sources, tmp_path, seed):
    keys, random_of = keys_of(two_sources["pic"]), Random(seed)
    excluded = set(random_of.sample(keys, random_of.randrange(1, len(keys))))
    reader = opened(two_sources["pic"], listed(tmp_path / "out.txt", excluded))
    wanted = [key for key in keys if key not in excluded]
    assert [reader.record(place, 0).key for place in range(len(reader))] == wanted
    shards = open_dataset(two_sources["pic"])
    for place, key in enumerate(wanted):
        assert reader.describe(place) == shards.describe(keys.index(key))


@pytest.mark.parametrize("batch", [PADDED, PACKED], ids=lambda batch: batch["mode"])
def test_an_epoch_reads_every_other_sample_and_resume_equals_never_stopping(make_data, two_sources, tmp_path, batch):
    keys = keys_of(two_sources["pic"])
    file = listed(tmp_path / "out.txt", keys[::3])
    sources = {"pic": {"path": two_sources["pic"], "exclude": file}}
    data = make_data(train={"sources": sources}, batch=batch)
    whole, _ = run(data, None, ranks=1, workers=0, steps=32)
    first, state = run(data, None, ranks=2, workers=0, steps=4)
    rest, _ = run(data, state, ranks=4, workers=2, steps=6)
    assert first + rest == whole
    read = {key for row in whole for key in row}
    assert read
    assert not read & set(keys[::3])


def test_a_list_that_changed_since_the_checkpoint_is_named(make_data, two_sources, tmp_path):
    keys, file = keys_of(two_sources["pic"]), tmp_path / "out.txt"
    source = {"path": two_sources["pic"], "exclude": str(file)}
    listed(file, keys[:2])
    state = make_data(train={"sources": {"pic": source}}).state_dict()
    make_data(train={"sources": {"pic": source}}).load_state_dict(state)
    listed(file, keys[2:4])  # as many samples, other ones
    with pytest.raises(ValueError, match=r"sources\.pic.*on_mismatch=restart"):
        make_data(train={"sources": {"pic": source}}).load_state_dict(state)
    with pytest.raises(ValueError, match=r"sources\.pic.*on_mismatch=restart"):
        make_data(train={"sources": {"pic": source | {"exclude": None}}}).load_state_dict(state)


def test_an_empty_list_reads_all(two_sources, tmp_path):
    assert len(opened(two_sources["pic"], listed(tmp_path / "out.txt", []))) == len(keys_of(two_sources["pic"]))


def test_a_list_that_cannot_be_meant_is_one_line_with_its_key(two_sources, tmp_path):
    with pytest.raises(ValueError, match=r"^KEY\.exclude=.*gone.txt: cannot be read: No such file"):
        opened(two_sources["pic"], tmp_path / "gone.txt")
    with pytest.raises(ValueError, match=r"^KEY\.exclude=.* lists 2 keys, and no sample here has one"):
        opened(two_sources["pic"], listed(tmp_path / "a.txt", ["other-1", "other-2"]))
    with pytest.raises(ValueError, match=r"^KEY\.exclude=.* lists all 140 samples"):
        opened(two_sources["pic"], listed(tmp_path / "b.txt", keys_of(two_sources["pic"])))
    with pytest.raises(ValueError, match=r"pic\.exclude=a\.txt is for shards and tables"):
        spec_of({"reader": object(), "exclude": "a.txt"}, "data.train.sources.pic", "pic")


@settings(max_examples=300)
@given(st.lists(st.text(st.sampled_from('ab# "\\\r\n\t\0\x85\u2028\ufeff\udc80é')) | st.text(), unique=True))
def test_every_list_of_keys_is_read_as_it_was_written(tmp_path_factory, keys):
    file = tmp_path_factory.mktemp("lists") / "out.txt"
    write_keys(file, keys, "of a test")
    assert read_keys(file) == keys


def test_keys_that_look_like_comments_or_have_spaces_around_are_left_out(tmp_path):
    keys = ["#1", " outer ", "# a remark", "plain"]
    write_shards(tmp_path / "s", [replace(make_record(n, "s"), key=key) for n, key in enumerate(keys)])
    write_keys(tmp_path / "out.txt", keys[:3], "of a test")
    reader = opened(str(tmp_path / "s"), tmp_path / "out.txt")
    assert [reader.record(n, 0).key for n in range(len(reader))] == ["plain"]
    (tmp_path / "own.txt").write_bytes(b"#\r\n# mine\r\n\r\n#1\r\n outer \r\n")
    assert read_keys(tmp_path / "own.txt") == ["#1", " outer "]


def test_keys_that_are_of_no_sample_are_counted(two_sources, tmp_path, caplog):
    keys = keys_of(two_sources["pic"])
    reader = opened(two_sources["pic"], listed(tmp_path / "out.txt", [keys[0], "other-1"]))
    assert len(reader) == len(keys) - 1
    assert "1 of the 2 excluded keys are of no sample here" in caplog.text
