"""Inspect shows every token and marks those that are learnt."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from data_prep.__main__ import COMMANDS, main
from data_prep.drawing import crops_picture, page, terminal_text
from data_prep.inspect import draw_sample, facts
from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.spec.tokens import IGNORE

SAID = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "It is green."}]


@pytest.fixture(scope="module")
def builder():
    layout = Layout(image_size=32, patch_size=8, class_token=True, zoom=Zoom())
    return SequenceBuilder(tokenizer=tiny_tokenizer(), layout=layout, max_tokens=2048)


@pytest.fixture(scope="module")
def sample():
    turns = [("user", "Is it <red>?"), ("assistant", "yes"), ("user", "Shape?"), ("assistant", "box")]
    return Sample(
        key="a/1",
        source="drawn",
        share_image=True,
        images=(Image.new("RGB", (64, 40), "red"),),
        turns=tuple(Turn(role=role, text=text, num_images=int(n == 0)) for n, (role, text) in enumerate(turns)),
    )


def test_every_token_is_shown_and_the_learnt_ones_are_marked(builder, sample):
    sequence, found, picture = draw_sample(sample, builder)
    learnt = "".join(piece.text for piece in found if piece.kind == "supervised")
    assert learnt == "yes<|eot_id|>box<|eot_id|>"
    assert sum(piece.kind == "supervised" for piece in found) == int((sequence.labels != IGNORE).sum())
    assert [piece.text for piece in found if piece.kind == "image"] == ["[306 image tokens, 17 crops]"]
    assert {piece.branch for piece in found} == {0, 1, 2}
    assert "branch 2" in terminal_text(found).plain
    assert "2 questions share the image" in facts(sample, sequence, builder)
    assert picture is not None


def test_the_picture_has_the_crops_in_their_grid(builder, sample):
    sequence = builder.build(sample)
    picture = crops_picture(sequence.crops[0], builder.layout)
    colours = {picture.getpixel((x, 60)) for x in range(20, 430)}
    assert colours == {(255, 0, 0)}


def test_the_page_escapes_what_the_data_say(builder, sample):
    _, found, picture = draw_sample(sample, builder)
    html = page("<script>", "facts", found, picture)
    assert "<script>" not in html
    assert "&lt;" in html


def test_a_text_only_sample_has_no_picture(builder):
    turns = (Turn(role="user", text="2+2?"), Turn(role="assistant", text="4"))
    sequence, found, picture = draw_sample(Sample(key="t", source="text", turns=turns), builder)
    assert picture is None
    assert torch.equal(sequence.branch_ids, torch.zeros_like(sequence.branch_ids))
    assert "".join(piece.text for piece in found).endswith("4<|eot_id|>")


def test_help_lists_every_command_and_an_unknown_one_is_refused(capsys):
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in COMMANDS)
    assert main(["pakc"]) == 1
    assert "not a command" in capsys.readouterr().err


def test_a_folder_of_tables_is_inspected_as_it_lies_and_named_where_shards_are_read(tmp_path, capsys):
    data = io.BytesIO()
    Image.new("RGB", (40, 30), "green").save(data, "PNG")
    row = {"image": {"bytes": data.getvalue(), "path": None}, "conversations": SAID}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    assert main(["inspect", str(tmp_path), "--out", str(tmp_path / "seen")]) == 0
    assert "It is green." in capsys.readouterr().out
    for command in ("stats", "lint", "index"):
        assert main([command, str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert "holds tables (train.parquet), which training, `mix-plan` and `inspect` read as they lie" in said
        assert "pack --from parquet FILE" in said
