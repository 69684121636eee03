"""`--boxes text`: every box is written where its tag stands, in thousandths of its image, or its row is refused."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.__main__ import main
from data_prep.job import Job
from data_prep.records import records_of
from data_prep.sources.conversations import Options
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.spec.rows import Place, Row

JOB = Job(
    form="messages", path=Path("r.jsonl"), out=Path("out"), source="s", licence="L", options=Options(boxes="text")
)


def picture(width: int, height: int, **options) -> bytes:
    out = BytesIO()
    Image.new("L", (width, height)).save(out, "PNG", **options)
    return out.getvalue()


def chat(*texts: str):
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


def packed(objects, *texts: str, images=(), job=JOB):
    row = {"messages": chat(*texts), "images": list(images), "objects": objects}
    (record,) = records_of(job, 0, [Row(values=row, place=Place("r.jsonl", 0))], [], {}, {})
    return record


def texts_of(record):
    return [turn.text for turn in record.turns]


sides = st.integers(1, 5000)


@st.composite
def boxes(draw, width, height, unit):
    """A box or a point inside of an image, as whole numbers or with a point."""

    def along(end):
        if unit == "norm1":
            return st.floats(0, 1)
        return st.one_of(st.integers(0, end), st.floats(0, end))

    if draw(st.booleans()):
        return [draw(along(width)), draw(along(height))]
    xs, ys = (sorted(draw(st.lists(along(end), min_size=2, max_size=2, unique=True))) for end in (width, height))
    return [xs[0], ys[0], xs[1], ys[1]]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.tuples(sides, sides), unit=st.sampled_from(("real", "norm1")))
def test_every_coordinate_is_the_nearest_thousandth_and_of_two_the_larger(data, size, unit):
    found = data.draw(st.lists(boxes(*size, unit), min_size=1, max_size=5))
    answer = " and ".join(["<bbox>"] * len(found))
    record = packed({"bbox": found, "bbox_type": unit}, "Where?", answer, images=[picture(*size)])
    written = [json.loads(box) for box in texts_of(record)[1].split(" and ")]
    ends = (1, 1) if unit == "norm1" else size
    assert list(map(len, written)) == list(map(len, found))
    for box, given_as in zip(written, found, strict=True):
        for place, (number, value) in enumerate(zip(box, given_as, strict=True)):
            exact = Fraction(value) * 1000 / ends[place % 2]
            assert isinstance(number, int)
            assert 0 <= number <= 1000
            assert number - Fraction(1, 2) <= exact < number + Fraction(1, 2)


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(["<bbox>", "<ref-object>", "see", " ", "[1]", "<box>"]), min_size=1, max_size=12),
    in_place=st.booleans(),
)
def test_tags_are_filled_in_their_order_and_the_words_between_stay(pieces, in_place):
    question = "".join(["<image>Where is", *pieces, ".<image>" if in_place else "."])
    num_images = 1 + in_place
    num_boxes, num_names = pieces.count("<bbox>"), pieces.count("<ref-object>")
    objects = {
        "bbox": [[n, 1000 - n] for n in range(num_boxes)],
        "ref": [f"thing {n}" for n in range(num_names)],
        "image_id": [n % num_images for n in range(num_boxes)],
    }
    job = replace(JOB, options=replace(JOB.options, images_in_place=in_place))
    images = [picture(1000, 1000)] * num_images
    record = packed(objects, question, "Here.", images=images, job=job)
    told = re.sub("<bbox>(?=<bbox>)", "<bbox>, ", question)
    for n in range(num_boxes):
        told = told.replace("<bbox>", f"[{n}, {1000 - n}]", 1)
    for n in range(num_names):
        told = told.replace("<ref-object>", f"thing {n}", 1)
    assert record.turns[0].with_images("<image>" if in_place else "") == (
        told if in_place else told.removeprefix("<image>").strip()
    )


WIDE = {"bbox": [[1, 2, 30, 20]]}


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"bbox": [[0, 0, 41, 20]]}, r"objects\.bbox\[0\]: found \[0, 0, 41, 20\] .*x from 0 to 40 and y from 0 to 20"),
        ({"bbox": [[0, -0.5, 4, 20]]}, r"x from 0 to 40 and y from 0 to 20 \(real, of an image of 40x20 pixels\)"),
        ({"bbox": [[0, 0, 1, 1.5]], "bbox_type": "norm1"}, r"x from 0 to 1 and y from 0 to 1 \(norm1"),
        ({"bbox": [[30, 2, 1, 20]]}, r"left below right and top below bottom"),
        ({"bbox": [[1, 20, 30, 2]]}, r"left below right and top below bottom"),
        ({"bbox": [[1, 2, 1, 20]]}, r"left below right and top below bottom"),
        ({"bbox": [[41, 5]]}, r"x from 0 to 40"),
        ({"bbox": [[1, 2, 3]]}, r"wanted 4 numbers .*or 2 of a point"),
        ({"bbox": [[1, 2, 3, "4"]]}, r"wanted 4 numbers"),
        ({"bbox": [[1, 2, 3, True]]}, r"wanted 4 numbers"),
        ({"bbox": [[1, 2, 3, float("nan")]]}, r"wanted 4 numbers"),
        ({"bbox": [[1, 2, 3, 10**400]]}, r"x from 0 to 40"),
        ({"bbox": [1, 2, 30, 20]}, r"objects\.bbox\[0\]: found 1 \(type int\), wanted 4 numbers"),
        ({"bbox": "1 2 30 20"}, r"objects\.bbox: found '1 2 30 20', wanted a list"),
        ({"bbox": [[1, 2, 30, 20], [1, 2]]}, r"objects\.bbox: 2 are given for 1 <bbox> in the text"),
        ({"bbox": []}, r"objects\.bbox: 0 are given for 1 <bbox> in the text"),
        (None, r"objects\.bbox: 0 are given for 1 <bbox> in the text"),
        ({**WIDE, "ref": ["a dog"]}, r"objects\.ref: 1 are given for 0 <ref-object> in the text"),
        ({**WIDE, "bbox_type": "xywh"}, r"objects\.bbox_type: found 'xywh', wanted one of real, norm1"),
        ({**WIDE, "image_id": [1]}, r"objects\.image_id\[0\]: found 1 .*from 0 to 0"),
        ({**WIDE, "image_id": [0, 0]}, r"objects\.image_id: 2 are given for 1 boxes"),
        ({**WIDE, "category": ["dog"]}, r"objects\.category: is not known"),
        ([[1, 2, 30, 20]], r"objects: found .* wanted a struct of ref, bbox"),
    ],
)
def test_a_box_that_cannot_be_told_exactly_is_one_line(objects, said):
    with pytest.raises(ValueError, match=said) as error:
        packed(objects, "<image>Where?", "<bbox>", images=[picture(40, 20)])
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("r.jsonl row 0: objects")


def test_empty_lists_are_no_boxes_and_a_row_without_an_image_has_none():
    for objects in ({"ref": [], "bbox": []}, {}, None, {"bbox": None}):
        assert texts_of(packed(objects, "<image>What?", "Red.", images=[picture(4, 4)])) == ["What?", "Red."]
    with pytest.raises(ValueError, match=r"objects\.bbox: boxes of a row without an image"):
        packed({"bbox": [[0, 1]]}, "Where?", "<bbox>")


def test_of_several_images_each_box_says_which_and_is_measured_by_it():
    objects = {"ref": ["the cat"], "bbox": [[5, 5], [5, 5, 10, 20]], "image_id": [1, 0]}
    images = [picture(10, 20), picture(50, 5)]
    record = packed(objects, "<image><image><ref-object>?", "<bbox><bbox>", images=images)
    assert texts_of(record) == ["the cat?", "[100, 1000], [500, 250, 1000, 1000]"]
    del objects["image_id"]
    with pytest.raises(ValueError, match=r"objects\.image_id: 0 are given for 2 boxes on 2 images"):
        packed(objects, "<image><image><ref-object>?", "<bbox><bbox>", images=images)


@pytest.mark.parametrize("name", ["<|eot_id|>", "<image>", "<bbox>", "<|image_1|>"])
def test_a_name_is_words(name):
    with pytest.raises(ValueError, match=r"objects\.ref\[0\] (has|contains) "):
        packed({"ref": [name]}, "<image>Is it <ref-object>?", "Yes.", images=[picture(4, 4)])


def test_a_tag_around_an_image_is_no_tag():
    job = replace(JOB, options=replace(JOB.options, images_in_place=True))
    with pytest.raises(ValueError, match=r"objects\.bbox: 1 are given for 0 <bbox>"):
        packed({"bbox": [[0, 1]]}, "Is <bb<image>ox> it?", "Yes.", images=[picture(4, 4)], job=job)


def test_boxes_of_an_image_that_its_exif_turns_are_refused():
    turned = Image.Exif()
    turned[274] = 6
    with pytest.raises(ValueError, match=r"is turned by what its EXIF says, and its boxes do not say"):
        packed(WIDE, "<image>Where?", "<bbox>", images=[picture(40, 20, exif=turned)])
    assert texts_of(packed(None, "<image>What?", "Red.", images=[picture(40, 20, exif=turned)]))[1] == "Red."


def test_boxes_are_those_of_the_image_before_it_is_scaled_down():
    record = packed(WIDE, "<image>Where?", "<bbox>", images=[picture(40, 20)], job=replace(JOB, max_side=10))
    assert Image.open(BytesIO(record.images[0])).size == (10, 5)
    assert texts_of(record)[1] == "[25, 100, 750, 1000]"


def test_without_the_option_they_are_refused_with_the_way_out():
    job = replace(JOB, options=Options())
    for objects, answer in ((WIDE, "Here."), (None, "<bbox>")):
        with pytest.raises(ValueError, match=r"--boxes text writes boxes as words"):
            packed(objects, "<image>Where?", answer, images=[picture(40, 20)], job=job)


@pytest.mark.parametrize("form", ["llava", "messages", "parquet"])
def test_each_format_packs_them_and_bad_rows_are_listed(tmp_path, form, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture(40, 20))
    talk = [{"from": "human", "value": "<image>\nWhere is <ref-object>?"}, {"from": "gpt", "value": "At <bbox>."}]
    good, bad = ({"ref": ["the dog"], "bbox": [box]} for box in ([1, 2, 30, 20], [1, 2, 50, 20]))
    rows = [
        {"id": n, "image": "a.png", "conversations": talk, "objects": objects} for n, objects in enumerate((good, bad))
    ]
    path = tmp_path / ("r.parquet" if form == "parquet" else "r.jsonl")
    if form == "parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    command = ["pack", "--from", form, str(path), "--images", str(tmp_path / "images"), "--out", str(out)]
    command += ["--source", "s", "--licence", "L", "--workers", "1", "--boxes", "text", "--on-error", "skip"]
    assert main(command) == 0
    shards = open_dataset(out)
    assert [texts_of(shards[n]) for n in range(len(shards))] == [["Where is the dog?", "At [25, 100, 750, 1000]."]]
    assert "x from 0 to 40" in json.loads((out / "skipped.jsonl").read_text())["reason"]
    assert "never read" not in capsys.readouterr().out


@pytest.mark.parametrize(("form", "more"), [("captions", []), ("table", []), ("parquet", ["--share-image"])])
def test_a_format_without_boxes_says_so(tmp_path, form, more, capsys):
    path = tmp_path / ("r.parquet" if form == "parquet" else "r.csv")
    path.write_bytes(b"image,caption\n")
    if form == "parquet":
        pa.parquet.write_table(pa.table({"image": [b""], "question": ["?"], "answer": ["!"]}), path)
    command = ["pack", "--from", form, str(path), "--out", str(tmp_path / "out"), "--source", "s", "--licence", "L"]
    assert main([*command, "--boxes", "text", *more]) == 1
    assert "It is for llava, messages, parquet without --share-image." in capsys.readouterr().err
