"""Parquet and Arrow as a source: every row is the sample that it says, whatever groups and files it lies in."""

from __future__ import annotations

import pickle
import random
import re
from shutil import copytree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shards import picture

from dragonfly_lit.data.exclusion import write_keys
from dragonfly_lit.data.opening import open_source
from dragonfly_lit.data.source_spec import SourceSpec, spec_of
from dragonfly_lit.data.table_files import PACK, table_files
from dragonfly_lit.data.tables import Tables

PICTURES = [picture(n) for n in range(4)]


def pairs_row(number: int) -> dict:
    """As The Cauldron and FineVision have it."""
    images = [{"bytes": PICTURES[n % 4], "path": None} for n in range(number % 3)]
    return {"images": images, "texts": [{"user": f"What is {number}?", "assistant": f"It is {number}.", "source": "s"}]}


def write(path, rows, group=7):
    table = pa.Table.from_pylist(rows or [pairs_row(2)]).slice(0, len(rows))
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=group)
    else:
        new = pa.ipc.new_file if path.stem.endswith("file") else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=group)
    return path


def opened(path, tmp_path, **options) -> Tables:
    spec = SourceSpec(name="t", path=str(path))
    tables = open_source(spec, "data.train.sources.t", cache_dir=str(tmp_path / "cache"), **options)
    assert isinstance(tables, Tables)
    return tables


def said(record):
    return [(turn.role, turn.text, turn.num_images) for turn in record.turns]


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    group=st.integers(1, 20),
    kind=st.sampled_from((".parquet", ".arrow", "file.arrow")),
    seed=st.integers(0, 99),
)
def test_every_row_is_there_once_in_the_order_of_the_files(tmp_path_factory, sizes, group, kind, seed):
    tmp_path = tmp_path_factory.mktemp("tables")
    (tmp_path / "t").mkdir()
    rows, names = [], []
    for file, size in enumerate(sizes):
        part = [pairs_row(len(rows) + n) for n in range(size)]
        name = f"{file}{kind}"
        write(tmp_path / "t" / name, part, group)
        rows += part
        names += [f"{name}/{n}" for n in range(size)]
    tables = opened(tmp_path / "t", tmp_path)
    assert len(tables) == len(rows)
    for index in random.Random(seed).sample(range(len(rows)), min(len(rows), 12)):
        record = pickle.loads(pickle.dumps(tables)).record(index, 0)
        assert record.key == names[index]
        file, row = names[index].split("/")
        assert tables.describe(index) == (file, f"row {int(row) + 1}"), "places count from 1, keys from 0"
        assert said(record) == [("user", f"What is {index}?", index % 3), ("assistant", f"It is {index}.", 0)]
        assert record.images == tuple(PICTURES[: index % 3])


LLAVA = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "Red."}]
PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "Which?"}]
CHAT = [{"role": "user", "content": PARTS}, {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}]
PLAIN = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Red."}]


@pytest.mark.parametrize("row", [{"conversations": LLAVA}, {"messages": CHAT}, {"messages": PLAIN}])
def test_a_conversation_is_read_as_in_a_shard(tmp_path, row):
    write(tmp_path / "r.parquet", [{"image": {"bytes": PICTURES[0], "path": "a.png"}, "id": 3, **row}])
    record = opened(tmp_path / "r.parquet", tmp_path).record(0)
    assert said(record) == [("user", "Which?", 1), ("assistant", "Red.", 0)]
    assert record.images == (PICTURES[0],)


def test_a_caption_and_a_text_without_an_image(tmp_path):
    write(tmp_path / "r.parquet", [{"image": PICTURES[0], "caption": " A dog. "}, {"image": None, "caption": "No."}])
    tables = opened(tmp_path / "r.parquet", tmp_path)
    assert tables.record(0).is_caption
    assert said(tables.record(0)) == [("user", "", 1), ("assistant", "A dog.", 0)]
    with pytest.raises(ValueError, match=r"r\.parquet row 2: caption: is a caption, but there is no image beside it"):
        tables.record(1)


LOST = [
    (
        {"image": "a.png", "conversations": LLAVA},
        "r.parquet row 1: image: found the name 'a.png'; only images that lie in the row are read. Pack it: " + PACK,
    ),
    (
        {"image": PICTURES[0], "conversations": LLAVA[:0]},
        "r.parquet row 1: caption: found nothing (null), wanted a text.",
    ),
    (
        {"image": PICTURES[0], "conversations": [{"from": "robot", "value": "Hi"}]},
        "record r.parquet/0: turn {'from': 'robot', 'value': 'Hi'} needs a role among human, user, gpt, assistant, "
        "system.",
    ),
    (
        {"images": PICTURES[:2], "conversations": LLAVA},
        "record r.parquet/0: 1 image placeholders but 2 images; they must be equal.",
    ),
    (
        {"image": PICTURES[0], "texts": [{"user": "What?", "assistant": ""}]},
        "r.parquet row 1: texts[0].assistant: found an empty text, wanted a text.",
    ),
]


@pytest.mark.parametrize(("row", "said"), LOST)
def test_a_bad_row_is_one_line(tmp_path, row, said):
    write(tmp_path / "r.parquet", [{**row, "caption": None}])
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        opened(tmp_path / "r.parquet", tmp_path).record(0)


def test_a_table_without_a_text_is_refused_when_it_is_opened(tmp_path):
    write(tmp_path / "r.parquet", [{"image": PICTURES[0], "question": "What?", "answer": "Red."}])
    with pytest.raises(ValueError, match=r"t\.path=\S+: \S+ has none of the columns .*has image, question.*Pack it:"):
        opened(tmp_path / "r.parquet", tmp_path)


def test_the_parts_of_a_hub_are_told_by_the_names_of_its_files(tmp_path, make_data):
    folder = tmp_path / "t"
    folder.mkdir()
    for name, start in (("train-00000-of-00002", 0), ("train-00001-of-00002", 10), ("test-00000-of-00001", 20)):
        write(folder / f"{name}.parquet", [pairs_row(start + n) for n in range(10)])
    with pytest.raises(ValueError, match=r"it has files of train and of test\. Set split to one of them"):
        opened(folder, tmp_path)
    assert len(opened(folder / "train-*.parquet", tmp_path)) == 20

    def mixed(split):
        return {"sources": {"t": {"path": str(folder), "split": split}}}

    data = make_data(train=mixed("train"), val=mixed("test"), cache_dir=str(tmp_path / "cache"))
    assert (len(data.mix), len(data.val_mix)) == (20, 10)
    assert make_data(train=mixed("train"), val=mixed("validation")).val_mix is None
    with pytest.raises(ValueError, match=r"data\.train\.sources\.t\.split=validation: .* has no such part"):
        _ = make_data(train=mixed("validation")).mix


@pytest.mark.parametrize(
    ("path", "train", "val"),
    [
        ("t", 20, 10),
        ("t/train-*.parquet", 20, None),
        ("t/train-1.parquet", 10, None),
        ("t/validation-*", None, 10),
        ("t/other.parquet", 5, None),
    ],
)
def test_a_table_or_a_pattern_is_the_part_that_its_name_says(tmp_path, make_data, path, train, val):
    (tmp_path / "t").mkdir()
    for name, size in (("train-0", 10), ("train-1", 10), ("validation-0", 10), ("other", 5)):
        write(tmp_path / "t" / f"{name}.parquet", [pairs_row(n) for n in range(size)])

    def mixed(split):
        return {"sources": {"t": {"path": str(tmp_path / path), "split": split}}}

    data = make_data(train=mixed("train"), val=mixed("validation"), cache_dir=str(tmp_path / "cache"))
    if train is None:
        with pytest.raises(ValueError, match=r"data\.train\.sources\.t\.split=train: \S+ has no such part"):
            _ = data.mix
    else:
        assert len(data.mix) == train
    assert val is None if data.val_mix is None else len(data.val_mix) == val


@pytest.mark.parametrize(
    ("names", "path", "said"),
    [
        (("train-0", "dev-0", "validation-0"), "t", "has files of dev and of validation, and both are its part"),
        (("train-0", "Dev-0", "dev-0"), "t", "has files of Dev and of dev, and both are its part validation"),
        (("train-0", "dev-0"), "t/*.parquet", "names files of train and of validation. Name their folder"),
    ],
)
def test_names_that_leave_open_which_are_a_part_are_refused(tmp_path, make_data, names, path, said):
    (tmp_path / "t").mkdir()
    for name in names:
        write(tmp_path / "t" / f"{name}.parquet", [pairs_row(0)])
    val = {"sources": {"t": {"path": str(tmp_path / path), "split": "validation"}}}
    with pytest.raises(ValueError, match=rf"^data\.val\.sources\.t\.split=validation: \S+ {said}"):
        _ = make_data(val=val).val_mix


def test_tables_of_no_part_beside_parts_are_told(tmp_path, caplog):
    (tmp_path / "t").mkdir()
    for name in ("train-0", "testA-0"):
        write(tmp_path / "t" / f"{name}.parquet", [pairs_row(0)])
    node = {"path": str(tmp_path / "t"), "split": "train"}
    first, again = (spec_of(node, "data.train.sources.t", "t") for _ in range(2))
    assert first == again
    assert len(open_source(first, "data.train.sources.t")) == 1
    assert caplog.text.count("1 of its tables are of no part by their names and are not read: testA-0.parquet") == 1


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_rows_that_a_list_names_are_left_out(tmp_path, suffix):
    (tmp_path / "t").mkdir()
    for file in range(3):
        write(tmp_path / "t" / f"{file}{suffix}", [pairs_row(10 * file + n) for n in range(10)], 4)
    every = opened(tmp_path / "t", tmp_path)
    keys = list(every.keys())
    assert keys == [every.record(n).key for n in range(30)]
    out = random.Random(0).sample(keys, 12)
    write_keys(tmp_path / "out.txt", out, "of a test")
    spec = SourceSpec(name="t", path=str(tmp_path / "t"), exclude=str(tmp_path / "out.txt"))
    kept = open_source(spec, "data.train.sources.t", cache_dir=str(tmp_path / "cache"))
    assert [kept.record(n, 0).key for n in range(len(kept))] == [key for key in keys if key not in out]
    assert kept.describe(0) == every.describe(next(n for n, key in enumerate(keys) if key not in out))
    assert kept.digest != every.digest


def test_a_copy_in_the_cache_is_of_the_file_as_it_is_now(tmp_path):
    """Rows of the same length in the same place: neither the size nor the footer need say so."""
    rest, digests = "x" * 2**17, set()
    for word in ("cat", "dog"):
        row = {"texts": [{"user": "What?", "assistant": f"{rest}{word}{rest}"}]}
        plain = {"write_statistics": False, "use_dictionary": False, "compression": "none"}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "r.parquet", **plain)
        tables = opened(tmp_path / "r.parquet", tmp_path)
        assert word in tables.record(0).turns[1].text
        digests.add(tables.digest)
    assert len(digests) == 1, "docs/data.md says that such a change is overlooked by a checkpoint"


def test_a_folder_with_shards_is_one_of_shards(tmp_path, two_sources):
    copytree(two_sources["text"], tmp_path / "s")
    write(tmp_path / "s" / "r.parquet", [pairs_row(0)])
    assert table_files(str(tmp_path / "s")) == []
    assert table_files(str(tmp_path / "none")) == []


def test_its_digest_is_that_of_the_rows_and_not_of_the_place(tmp_path):
    for name, rows in (("a", range(30)), ("b", range(30)), ("c", range(1, 31))):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "r.parquet", [pairs_row(n) for n in rows])
    a, b, c = (opened(tmp_path / name, tmp_path).digest for name in "abc")
    assert a == b != c


def test_the_cache_stays_within_its_bytes_and_rows_come_all_the_same(tmp_path):
    path = write(tmp_path / "r.parquet", [pairs_row(n) for n in range(60)], group=10)
    tables = opened(path, tmp_path, cache_bytes=20_000)
    order = [*range(60)] * 2
    random.Random(0).shuffle(order)
    for index in order:
        assert said(tables.record(index))[1] == ("assistant", f"It is {index}.", 0)
        assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= 20_000
    small = opened(path, tmp_path / "other", cache_bytes=100)
    with pytest.raises(
        ValueError, match=r"r\.parquet \(row group 0\) has \d+ bytes, the cache 100\. Raise data\.cache_gb"
    ):
        small.record(0)


@pytest.mark.parametrize("name", ["r.parquet", "r.arrow", "file.arrow"])
def test_damage_is_one_line_with_the_name_of_the_file(tmp_path, name):
    whole, random_of = write(tmp_path / name, [pairs_row(n) for n in range(30)]).read_bytes(), random.Random(0)
    refused = 0
    for number in range(60):
        data = bytearray(whole[: random_of.randrange(len(whole))] if number % 2 else whole)
        for _ in range(random_of.randrange(4) if data else 0):
            data[random_of.randrange(len(data))] = random_of.randrange(256)
        (tmp_path / name).write_bytes(data)
        try:
            tables = opened(tmp_path / name, tmp_path / str(number))
            for index in range(len(tables)):
                tables.record(index)
        except ValueError as error:
            refused += 1
            if "\n" in str(error) or name not in str(error):
                pytest.fail(str(error))
    assert refused > 20


def test_a_table_that_goes_or_shrinks_is_named(tmp_path):
    path = write(tmp_path / "r.parquet", [pairs_row(n) for n in range(30)])
    tables = opened(path, tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"r\.parquet is gone"):
        tables.record(0)
    path = write(tmp_path / "r.arrow", [pairs_row(n) for n in range(30)])
    tables = opened(path, tmp_path)
    write(path, [pairs_row(n) for n in range(3)])
    with pytest.raises(ValueError, match=r"r\.arrow has fewer rows than when it was opened"):
        tables.record(20)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_over_tables_goes_on_where_it_stopped(tmp_path, make_data, suffix, workers):
    folder = tmp_path / "t"
    folder.mkdir()
    for file in range(3):
        write(folder / f"{file}{suffix}", [pairs_row(20 * file + n) for n in range(20)])
    fields = {
        "train": {"sources": {"t": {"path": str(folder)}}},
        "batch": {"mode": "packed", "max_tokens": 256, "buffer": 6},
        "epoch": {"steps": 24},
        "cache_dir": str(tmp_path / "cache"),
    }
    whole = [batch.keys for batch in make_data(**fields).train_dataloader()]
    first = make_data(**fields, num_workers=workers)
    for number, batch in enumerate(first.train_dataloader(), 1):
        first.position.mark(batch)
        if number == 9:
            break
    then = make_data(**fields)
    then.load_state_dict(first.state_dict())
    rest = [batch.keys for _, batch in zip(range(15), then.train_dataloader(), strict=False)]
    assert rest == whole[9:]
    write(folder / f"0{suffix}", [pairs_row(n) for n in range(100, 120)])
    with pytest.raises(ValueError, match=r"sources\W+t\b"):
        make_data(**fields).load_state_dict(first.state_dict())
