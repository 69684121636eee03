"""A chosen and a rejected answer: in a shard, in a sequence, in a mix; what is not a pair is said in one line."""

import json
from io import BytesIO

import pytest
import torch
from PIL import Image

from data_prep.__main__ import main
from data_prep.shards import write_indexed_shard
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.index import index_folder
from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.mix import Mix
from dragonfly_lit.data.samples import check_record
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.sequences import SequenceBuilder, TooLongError
from dragonfly_lit.spec.records import Record, Sample, Turn
from dragonfly_lit.spec.shard import record_from_json, record_to_json
from dragonfly_lit.spec.tokens import IGNORE


def encoded() -> bytes:
    out = BytesIO()
    Image.new("RGB", (8, 6), "red").save(out, "PNG")
    return out.getvalue()


IMAGE = encoded()
ASKED = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "colour?"}]}


def record(key="a", chosen="red", rejected="green", **fields) -> Record:
    turns = (Turn(role="user", text="colour?", num_images=1), Turn(role="assistant", text=chosen))
    return Record(key=key, source="s", turns=turns, rejected=rejected, images=(IMAGE,), **fields)


@pytest.fixture(scope="module")
def builder():
    return SequenceBuilder(tokenizer=tiny_tokenizer(), layout=tiny_model().layout, max_tokens=400)


def test_a_record_is_the_same_behind_json():
    there = record()
    assert record_from_json("a", record_to_json(there), there.images) == there


@pytest.mark.parametrize(
    "answer",
    [
        "red",
        {"from": "gpt", "value": "red"},
        [{"role": "assistant", "content": "red"}],
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ],
)
def test_answers_of_other_tools_are_read(answer):
    found = record_from_json("a", {"messages": [ASKED], "chosen": answer, "rejected": "green"}, (IMAGE,))
    assert (found.turns[-1].text, found.rejected) == ("red", "green")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"chosen": "red"}, "it has 'chosen' and no 'rejected'"),
        ({"rejected": "red"}, "it has 'rejected' and no 'chosen'"),
        ({"chosen": "red", "rejected": " "}, "'rejected' must be a text of the assistant"),
        ({"chosen": 3, "rejected": "green"}, "'chosen' must be the text of an answer or one turn"),
        ({"chosen": {"role": "user", "content": "x"}, "rejected": "green"}, "'chosen' must be a text of the assistant"),
        ({"chosen": ["a", "b"], "rejected": "green"}, "'chosen' must be the text of an answer"),
    ],
)
def test_what_is_not_a_preference_is_said_in_one_line(fields, told):
    with pytest.raises(ValueError, match=told) as error:
        record_from_json("a", {"conversations": [ASKED], **fields}, (IMAGE,))
    assert "\n" not in str(error.value)


def test_the_last_turn_must_be_the_question():
    turns = [ASKED, {"role": "assistant", "content": "red"}]
    with pytest.raises(ValueError, match="must be the user's"):
        record_from_json("a", {"conversations": turns, "chosen": "red", "rejected": "green"}, (IMAGE,))


def test_two_answers_that_are_the_same_teach_nothing():
    with pytest.raises(ValueError, match="are the same"):
        check_record(record(rejected=" red "))
    with pytest.raises(ValueError, match="share_image"):
        check_record(record(share_image=True))


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("red", "green"), ("red sky", "red sea"), ("a", "a b"), ("one\ntwo", "one")]
)
def test_both_answers_are_branches_of_what_comes_before_them(builder, chosen, rejected):
    turns = (
        Turn(role="user", text="what?", num_images=1),
        Turn(role="assistant", text="a thing"),
        Turn(role="user", text="colour?"),
        Turn(role="assistant", text=chosen),
    )
    image = Image.new("RGB", (40, 40))
    found = builder.build(Sample(key="a", source="s", turns=turns, images=(image,), rejected=rejected))
    assert len(found.crops) == 1
    for branch, answer in ((1, chosen), (2, rejected)):
        alone = builder.build(
            Sample(key="a", source="s", turns=(*turns[:-1], Turn(role="assistant", text=answer)), images=(image,))
        )
        seen = (found.branch_ids == 0) | (found.branch_ids == branch)
        assert torch.equal(found.input_ids[seen], alone.input_ids)
        assert torch.equal(found.position_ids[seen], alone.position_ids)
        labels = found.labels[found.branch_ids == branch]
        told = builder.tokenizer.decode(labels[labels != IGNORE])
        assert told == f"{answer}<|eot_id|>"
    assert bool((found.labels[found.branch_ids == 0] == IGNORE).all())


def test_a_pair_that_does_not_fit_is_refused_and_never_cut(builder):
    turns = (Turn(role="user", text="colour?"), Turn(role="assistant", text="red " * 150))
    with pytest.raises(TooLongError, match="a preference is not cut"):
        builder.num_tokens(turns, 0, rejected="green " * 150)
    every = SequenceBuilder(tokenizer=builder.tokenizer, layout=builder.layout, max_tokens=400, supervise="all")
    with pytest.raises(ValueError, match=r"model\.supervise=all"):
        every.num_tokens(turns, 0, rejected="green")


@pytest.fixture
def folders(tmp_path):
    for name, rejected in (("pairs", "green"), ("answers", "")):
        (tmp_path / name).mkdir()
        records = [record(key=f"{name}-{n}", rejected=rejected, chosen=f"red {n}") for n in range(3)]
        write_indexed_shard(tmp_path / name / f"{name}-00000.tar", records)
        index_folder(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "preferences", "told"),
    [
        ("pairs", False, "has a chosen and a rejected answer.*Use stage=dpo"),
        ("answers", True, "has no chosen and rejected"),
    ],
)
def test_a_source_of_the_other_kind_is_refused_by_its_key(folders, name, preferences, told):
    mix = {"sources": {"mine": {"path": str(folders / name)}}}
    with pytest.raises(ValueError, match=rf"^data\.train\.sources\.mine: .*{told}"):
        Mix(mix, preferences=preferences)
    for other in (None, not preferences):
        assert len(Mix(mix, preferences=other)) == 3


def test_a_sample_of_the_other_kind_among_others_is_a_bad_one(folders):
    (folders / "both").mkdir()
    records = [record(key="x-0"), record(key="x-1", rejected="")]
    write_indexed_shard(folders / "both" / "both-00000.tar", records)
    index_folder(folders / "both")
    source = Mix({"sources": {"mine": {"path": str(folders / "both")}}}, preferences=True).sources[0]
    assert source.record(0, 0).rejected == "green"
    with pytest.raises(BadSampleError, match="sample x-1: it has no chosen and rejected answer"):
        source.record(1, 0)


def test_tools_know_preferences(folders, capsys):
    assert main(["lint", str(folders / "pairs"), "--workers", "1"]) == 0
    assert main(["stats", str(folders / "pairs")]) == 0
    assert " 3 preferences, " in capsys.readouterr().out
    assert main(["stats", str(folders / "answers")]) == 0
    assert " preferences, " not in capsys.readouterr().out
    rows = [row for row in open_dataset(folders / "pairs").rows(0)]
    assert len({row.checksum for row in rows}) == 3


ANSWERED = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
ROWS = [
    {
        "id": str(n),
        "image": "red.png",
        "question": f"Colour {n}?",
        "chosen": "red",
        "rejected": ["green", "blue"][n % 2],
    }
    for n in range(4)
]


def packed(tmp_path, form, rows, *more):
    (tmp_path / "red.png").write_bytes(IMAGE)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    arguments = [
        "pack",
        "--from",
        form,
        str(tmp_path / "rows.json"),
        "--out",
        str(tmp_path / "out"),
        "--source",
        "mine",
    ]
    status = main([*arguments, "--images", str(tmp_path), "--licence", "mine", "--workers", "1", *more])
    return status, open_dataset(tmp_path / "out") if status == 0 else None


def test_a_table_with_two_answers_is_packed_as_preferences(tmp_path):
    status, shards = packed(tmp_path, "table", ROWS)
    assert status == 0
    assert [(shards[n].turns[-1].text, shards[n].rejected) for n in range(4)] == [
        ("red", "green"),
        ("red", "blue"),
        ("red", "green"),
        ("red", "blue"),
    ]
    assert shards[0].turns[0].num_images == 1
    assert shards[0].meta["question_ids"] == ["0"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: {"from": "gpt", "value": text},
        lambda text: [{"role": "assistant", "content": text}],
    ],
)
def test_llava_with_two_answers_is_packed_as_preferences(tmp_path, wrap):
    turns = [{"from": "human", "value": "<image>\nColour?"}]
    rows = [{"image": "red.png", "conversations": turns, "chosen": wrap("red"), "rejected": wrap("green")}]
    status, shards = packed(tmp_path, "llava", rows)
    assert status == 0
    assert (shards[0].turns[-1].text, shards[0].rejected) == ("red", "green")


@pytest.mark.parametrize(
    ("form", "change", "told"),
    [
        ("table", {"rejected": ""}, "rejected: found an empty text"),
        ("table", {"rejected": "red"}, "are the same"),
        ("table", {"rejected": "<|eot_id|>"}, "special token"),
        (
            "llava",
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            "must be the user's",
        ),
    ],
)
def test_a_row_that_is_not_a_pair_ends_in_one_line(tmp_path, capsys, form, change, told):
    status, _ = packed(tmp_path, form, [{**ROWS[0], **change}])
    assert status == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
