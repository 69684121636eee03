"""A sample that cannot be read says what lies there and what would be read in its place."""

import json

import pytest
from small_shards import picture, tar_of

from dragonfly_lit.data.members import BadSampleError, raw_sample, to_record

TURNS = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Red."}]
IMAGE = picture(0)


def record(json_member=None, **members):
    files = {} if json_member is None else {"json": json.dumps(json_member).encode()}
    return to_record(raw_sample("0.tar", tar_of([(f"a.{name}", data) for name, data in {**files, **members}.items()])))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"question": "What?", "answer": "Red."},
            "none of conversations, messages and no caption, but 'question', 'ans",
        ),
        ({}, "none of conversations, messages and no caption, but nothing"),
        ({"caption": ["A", "B"]}, r"a\.json: the caption must be a text, not \['A', 'B'\]"),
        ({"caption": " "}, r"a\.json: the caption is empty"),
        ({"caption": None}, r"a\.json: the caption is empty"),
    ],
)
def test_a_json_without_turns_says_what_it_has(fields, told):
    with pytest.raises(BadSampleError, match=told):
        record(fields, jpg=IMAGE)


@pytest.mark.parametrize("name", ["image.jpg", "img0.png", "0.1.jpg", "x.TIFF"])
@pytest.mark.parametrize("fields", [{"conversations": TURNS}, {"caption": "Red."}])
def test_an_image_under_another_name_is_named(fields, name):
    told = rf"a\.{name.lower()} is not read: an image is a\.jpg, several are a\.0\.jpg, a\.1\.jpg\.$"
    with pytest.raises(BadSampleError, match=told):
        record(fields, **{name: IMAGE})
    assert record(fields, jpg=IMAGE, **{name: IMAGE}).images == (IMAGE,)  # a mask beside an image is nobody's fault


def test_images_that_are_numbered_from_one_are_refused():
    with pytest.raises(BadSampleError, match=r"image 0 is missing; there are \[1\]\. They are numbered from 0"):
        record({"conversations": TURNS}, **{"1.jpg": IMAGE})


def test_members_that_do_not_lie_together_are_told_so():
    with pytest.raises(BadSampleError, match=r"no a\.json and no a\.txt beside it\. Members of a sample lie one after"):
        record(jpg=IMAGE)


def test_a_part_that_names_its_image_by_an_address_stands_for_the_one_beside_it():
    parts = [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Red."}]
    assert record({"messages": messages}, jpg=IMAGE).turns == record({"conversations": TURNS}, jpg=IMAGE).turns
    with pytest.raises(BadSampleError, match="1 image placeholders but 0 images"):
        record({"messages": messages})
