"""A `system` text beside the turns is said before them, whichever reader sees it; nowhere is it dropped in silence."""

import base64
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from data_prep.job import Job
from data_prep.packing import pack
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.source_spec import SourceSpec

SHAREGPT = ("from", "value", "human", "gpt")
OPENAI = ("role", "content", "user", "assistant")


@pytest.fixture
def image(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 6), "red").save(tmp_path / "images" / "a.png")
    return (tmp_path / "images" / "a.png").read_bytes()


def turns(words=SHAREGPT, system=None):
    who, what, user, assistant = words
    said = [{who: user, what: "<image>What?"}, {who: assistant, what: "Red."}]
    return ([{who: "system", what: system}] if system else []) + said


def packed(folder, form, row):
    (folder / "rows.json").write_text(json.dumps([row]))
    out, images = folder / "out", folder / "images"
    pack(Job(form=form, path=folder / "rows.json", images=images, out=out, source="s", licence="L"), workers=1)
    return open_dataset(folder / "out").record(0, 0)


def first_of(path, folder):
    return open_source(SourceSpec(name="s", path=str(path)), "s", cache_dir=str(folder / "cache")).record(0, 0)


def in_a_shard(folder, row, image):
    (folder / "shards").mkdir()
    with webdataset.TarWriter(str(folder / "shards" / "0.tar")) as writer:  # type: ignore[attr-defined]
        writer.write({"__key__": "a", "json": row, "png": image})
    return first_of(folder / "shards", folder)


def in_a_table(folder, row, image):
    (folder / "table").mkdir()
    pq.write_table(pa.Table.from_pylist([{"images": [{"bytes": image}], **row}]), folder / "table" / "0.parquet")
    return first_of(folder / "table", folder)


def read_by(reader, folder, row, image):
    """The record of a row of turns as one of the five readers of such rows has it."""
    if reader == "shard":
        return in_a_shard(folder, row, image)
    if reader == "table":
        return in_a_table(folder, row, image)
    beside = {"image": "data:image/png;base64," + base64.b64encode(image).decode()}
    return packed(folder, reader, {**beside, **row})


READERS = ("llava", "messages", "parquet", "shard", "table")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("system", ["Be brief.", None, "", "  "])
def test_it_is_said_first(tmp_path, image, reader, system):
    record = read_by(reader, tmp_path, {"conversations": turns(), "system": system}, image)
    first = [("system", "Be brief.")] if system == "Be brief." else []
    assert [(turn.role, turn.text) for turn in record.turns] == [*first, ("user", "What?"), ("assistant", "Red.")]
    assert [turn.num_images for turn in record.turns] == [0] * len(first) + [1, 0]


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader != "llava"])
def test_it_is_said_before_messages_too(tmp_path, image, reader):
    record = read_by(reader, tmp_path, {"messages": turns(OPENAI), "system": "Be brief."}, image)
    assert [turn.role for turn in record.turns] == ["system", "user", "assistant"]


@pytest.mark.parametrize("reader", READERS)
def test_two_of_them_are_refused(tmp_path, image, reader):
    with pytest.raises(ValueError, match=r"system'?:? is given, and .* of that role\. Leave one of them"):
        read_by(reader, tmp_path, {"conversations": turns(system="Be kind."), "system": "Be brief."}, image)


@pytest.mark.parametrize("reader", READERS)
def test_a_tag_in_it_is_no_word(tmp_path, image, reader):
    """An image that comes with it is the system's, as in any other turn."""
    row = {"conversations": [turns()[0] | {"value": "What?"}, turns()[1]], "system": "<image>Be brief."}
    record = read_by(reader, tmp_path, row, image)
    assert [(turn.text, turn.num_images) for turn in record.turns] == [("Be brief.", 1), ("What?", 0), ("Red.", 0)]


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_text_is_refused(tmp_path, image, reader):
    with pytest.raises(ValueError, match=r"system'?(:| must be)"):
        read_by(reader, tmp_path, {"conversations": turns(), "system": {"text": "Be brief."}}, image)
