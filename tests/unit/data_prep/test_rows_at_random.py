"""Rows at random into every converter: what the row says exactly, or a refusal that names file and row."""

import math
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.job import Job
from data_prep.packing import pack_chunk
from data_prep.sources import SHARING, SOURCES, source
from data_prep.sources.conversations import Options
from dragonfly_lit.spec.cells import is_given
from dragonfly_lit.spec.records import Turn
from dragonfly_lit.spec.row_files import read_rows
from dragonfly_lit.spec.rows import Place, Row, RowError
from dragonfly_lit.spec.tokens import STRUCTURAL

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["<image>", "<image>\nWhat?", "What <image> is", "<image 1>", "<|eot_id|>", "a.jpg", "[1, 2]", "A", "test_x", "en"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | TEXTS
    | st.binary(max_size=6)
    | st.just("long " * 5000)
)
VALUES = st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXTS, x, max_size=3), max_leaves=6)
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "image", "video"]), "text": TEXTS})
TURNS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "from": st.sampled_from(["human", "gpt", "system"]) | LEAVES,
            "role": st.sampled_from(["user", "assistant", None]) | LEAVES,
            "value": TEXTS | VALUES,
            "content": TEXTS
            | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image"]), "text": TEXTS})),
            "user": TEXTS | LEAVES,
            "assistant": TEXTS | LEAVES,
            "weight": LEAVES,
        },
    ),
    max_size=3,
)
COLUMNS = [
    "id",
    "qid",
    "question_id",
    "image",
    "images",
    "image_1",
    "image_url",
    "image_name",
    "img_name",
    "file_name",
    "path",
    "name",
    "conversations",
    "messages",
    "texts",
    "text",
    "caption",
    "Caption",
    "question",
    "answer",
    "answers",
    "label",
    "choices",
    "options",
    "hint",
    "q_lang",
    "phrase_type",
    "answer_type",
    "source",
    "videos",
    "objects",
    "split",
    "patient",
]
CELLS = VALUES | TURNS | st.fixed_dictionaries({"bytes": LEAVES, "path": LEAVES}) | st.lists(TEXTS, max_size=3)
ROWS = st.fixed_dictionaries({}, optional={name: CELLS for name in COLUMNS}) | st.dictionaries(TEXTS, CELLS, max_size=4)


TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
PARTS_FIRST = [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image"}]}]
LLAMA = (
    "<|start_header_id|>user<|end_header_id|>\n\nWhat?<|start_header_id|>assistant<|end_header_id|>\n\nRed.<|eot_id|>"
)
SOUND = {
    "llava": {"id": "1", "image": "a.jpg", "conversations": TALK},
    "dragonfly": {"image_url": "a.jpg", "conversations": LLAMA, "source": "x"},
    "messages": {"messages": [*PARTS_FIRST, {"role": "assistant", "content": "Red."}], "images": ["a.jpg"]},
    "parquet": {"image": {"bytes": b"x"}, "question": "What?", "choices": ["a", "b"], "answer": 1, "hint": "h"},
    "captions": {"image": "a.jpg", "caption": "x"},
    "vqa_rad": {"image_name": "a.jpg", "question": "q", "answer": "a", "qid": 1, "answer_type": "OPEN"},
    "slake": {"img_name": "a.jpg", "question": "q", "answer": "a", "qid": 1, "q_lang": "en"},
    "path_vqa": {"image": b"x", "question": "q", "answer": "yes"},
    "roco": {"id": "ROCO", "caption": "x"},
    "table": {"image": "a.jpg", "question": "q", "answer": "a", "split": "train", "patient": "P1"},
}


def convert(form, values, **options):
    """What the converter of a format makes of a row, or its refusal."""
    row = Row(values=values, place=Place("file.jsonl", 17))
    grouped = form in SHARING
    try:
        made = source(form).conversation([row] if grouped else row, Options(**options))
    except RowError as error:
        made = error
    assert {state for _, state in row.columns()} <= {"read", "unread", "empty"}
    return made


@pytest.mark.parametrize("form", SOURCES)
@given(values=ROWS, images_first=st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_row_is_converted_or_refused_by_name(form, values, images_first):
    check(convert(form, values, images_first=images_first))


@pytest.mark.parametrize("form", SOURCES)
@given(data=st.data(), value=CELLS, images_first=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_sound_row_with_one_strange_cell_is_converted_or_refused(form, data, value, images_first):
    assert not isinstance(convert(form, SOUND[form]), RowError)
    name = data.draw(st.sampled_from(sorted(SOUND[form]) * 5 + COLUMNS))
    check(convert(form, {**SOUND[form], name: value}, images_first=images_first))


def check(made):
    """A conversation that can be trained on, or a refusal with the row's place."""
    if isinstance(made, RowError):
        assert str(made).startswith("file.jsonl row 17: ")
        assert str(made).isprintable()
        return
    assert sum(turn.num_images for turn in made.turns) == len(made.images)
    assert any(turn.role == "assistant" for turn in made.turns)
    for turn in made.turns:
        assert turn.text.encode().decode() == turn.text == turn.text.strip()
        assert turn.text or turn.role != "assistant"
        assert "<image>" not in turn.text
        assert not any(token in turn.text for token in STRUCTURAL)
    assert all(image for image in made.images)


GOOD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<"), min_size=1, max_size=30).filter(
    str.strip
)
EMPTY = st.sampled_from([None, "", " ", [], math.nan, {"bytes": None, "path": None}])
REFERENCES = st.one_of(
    st.sampled_from(["a.jpg", "x/b.png"]).map(lambda name: (name, name)),
    st.sampled_from(["a.jpg"]).map(lambda name: ([name], name)),
    st.just(b"\x89PNG").map(lambda data: (data, data)),
    st.just(b"\x89PNG").map(lambda data: ({"bytes": data, "path": "a.jpg"}, data)),
    st.just("a.jpg").map(lambda name: ({"bytes": None, "path": name}, name)),
)
LAYOUTS = {
    "llava": lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
    "messages": lambda q, a: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]},
    "parquet": lambda q, a: {"question": q, "answer": a},
    "path_vqa": lambda q, a: {"question": q, "answers": None, "answer": a},
}


@pytest.mark.parametrize("form", LAYOUTS)
@given(question=GOOD, answer=GOOD, reference=REFERENCES, empty=EMPTY, tag=st.sampled_from(["", "<image>", "<image>\n"]))
@settings(max_examples=100, deadline=None)
def test_a_good_row_is_exactly_what_it_says(form, question, answer, reference, empty, tag):
    cell, image = reference
    for names in (("image", "images"), ("images", "image")):
        row = {**dict(zip(names, (cell, empty), strict=True)), **LAYOUTS[form](tag + question, answer)}
        made = convert(form, row)
        assert not isinstance(made, RowError), made
        assert made.images == (image,)
        assert made.turns == (
            Turn(role="user", text=question.strip(), num_images=1),
            Turn(role="assistant", text=answer.strip()),
        )


@pytest.mark.parametrize("form", SOURCES)
@given(rows=st.lists(ROWS, max_size=3))
@settings(max_examples=25, deadline=None)
def test_under_skip_no_row_ends_the_packing(form, rows, tmp_path_factory):
    home = tmp_path_factory.mktemp("rows")
    (home / "images").mkdir()
    (home / "out" / ".pack").mkdir(parents=True)
    out = BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    (home / "images" / "a.jpg").write_bytes(out.getvalue())
    job = Job(form=form, path=home, images=home / "images", out=home / "out", source="s", licence="L", on_error="skip")
    grouped = form in SHARING
    made = [Row(values=values, place=Place("file.jsonl", number)) for number, values in enumerate(rows)]
    assert pack_chunk(job, 0, [[row] if grouped else row for row in made]) == len(rows)


@given(
    data=st.binary(max_size=200) | st.text(max_size=80).map(str.encode), kind=st.sampled_from(["csv", "tsv", "jsonl"])
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_rows_or_one_error_with_the_files_name(data, kind, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    path.write_bytes(b"image,caption\n" + data if kind == "csv" else data)
    rows = read(path)
    if isinstance(rows, ValueError):
        assert str(path) in str(rows)
        return
    for row in rows:
        assert row.place.file == path.name
        assert isinstance(row, RowError) or all(is_given(value) in (True, False) for value in row.values.values())


def read(path):
    try:
        return list(read_rows(path))
    except ValueError as error:
        return error
