"""Rows of another format than the one that was asked for: the message names the format that reads them."""

import json
import re
from dataclasses import replace
from typing import Literal

import pytest
from PIL import Image

from data_prep.job import Job
from data_prep.packing import pack
from data_prep.sources.conversations import Options

ROWS = {
    "llava": {
        "image": "a.png",
        "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Red."}],
    },
    "messages": {
        "images": ["a.png"],
        "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Red."}],
    },
    "table": {"image": "a.png", "question": "What?", "answer": "Red."},
    "parquet": {"image": "a.png", "texts": [{"user": "What?", "assistant": "Red."}]},
    "captions": {"file_name": "a.png", "caption": "Red."},
    "vqa_rad": {"image_name": "a.png", "question": "What?", "answer": "Red.", "qid": "1"},
}


def job(folder, form, rows, on_error: Literal["raise", "skip"] = "raise"):
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(folder / "images" / "a.png")
    (folder / "rows.json").write_text(json.dumps(rows))
    return Job(
        form=form,
        path=folder / "rows.json",
        images=folder / "images",
        out=folder / "out",
        source="s",
        licence="L",
        on_error=on_error,
    )


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("llava", "messages"),
        ("llava", "table"),
        ("llava", "captions"),
        ("llava", "parquet"),
        ("messages", "table"),
        ("captions", "llava"),
        ("roco", "llava"),
        ("table", "llava"),
        ("slake", "vqa_rad"),
    ],
)
def test_the_format_that_reads_a_row_is_named(tmp_path, asked, there):
    with pytest.raises(ValueError, match=rf"is missing: .* Such a row is read by --from {there}\. \("):
        pack(job(tmp_path, asked, [ROWS[there]]), workers=1)
    with pytest.raises(ValueError, match=rf"all 1 were refused.* Such a row is read by --from {there}\."):
        pack(job(tmp_path, asked, [ROWS[there]], on_error="skip"), workers=1)
    pack(job(tmp_path, there, [ROWS[there]]), workers=1)  # and so it is


def test_no_format_is_named_where_none_reads_it_or_something_else_is_wrong(tmp_path):
    for row in ({"query": "What?", "response": "Red."}, ROWS["llava"] | {"image": "b.png"}):
        with pytest.raises(ValueError, match="row 1") as told:
            pack(job(tmp_path, "llava", [row]), workers=1)
        assert "--from" not in str(told.value)


def test_a_later_row_that_lacks_a_column_is_not_of_another_format(tmp_path):
    with pytest.raises(ValueError, match=re.escape("row 2: conversations: is missing")) as told:
        pack(job(tmp_path, "llava", [ROWS["llava"], ROWS["messages"]]), workers=1)
    assert "--from" not in str(told.value)


def test_questions_that_share_an_image_are_not_of_another_format_for_one_that_lacks_a_column(tmp_path):
    rows = [ROWS["table"], {"image": "a.png", "answer": "Red."}]
    for form in ("table", "parquet"):
        with pytest.raises(ValueError, match="row 2: question: is missing") as told:
            pack(replace(job(tmp_path, form, rows), options=Options(share_image=True)), workers=1)
        assert "--from" not in str(told.value)
