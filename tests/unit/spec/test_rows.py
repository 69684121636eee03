"""A field of a row is one of the documented shapes, or refused by name with what was found."""

import base64
import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_lit.spec.cells import is_given
from dragonfly_lit.spec.rows import Place, Row, RowError

EMPTY = (None, "", " \n", [], {}, [None], {"bytes": None, "path": None}, math.nan)


def row(**values):
    return Row(values=values, place=Place("train.jsonl", 17))


def said(error) -> str:
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("train.jsonl row 17: ")
    return error.value.reason


@pytest.mark.parametrize("empty", EMPTY)
def test_an_empty_cell_never_hides_a_filled_one(empty):
    found = row(images=empty, image="a.jpg", question=empty, text="What?")
    assert found.images("images", "image") == ["a.jpg"]
    assert found.text("question", "text") == "What?"
    assert dict(found.columns()) == {"images": "empty", "image": "read", "question": "empty", "text": "read"}


@pytest.mark.parametrize("value", [*EMPTY, True, 3.0, 1.5, ["x"], {"text": "x"}, b"x", 2**70])
def test_what_is_not_a_text_is_refused_by_name(value):
    with pytest.raises(RowError) as error:
        row(answer=value).text("answer", numbers=True)
    assert said(error).startswith("answer: found ")


def test_a_whole_number_is_a_text_where_numbers_are_allowed():
    assert row(answer=3).text("answer", numbers=True) == "3"
    with pytest.raises(RowError, match=r"question: found 3 \(type int\), wanted a text\."):
        row(question=3).text("question")


def test_a_missing_cell_lists_the_columns():
    with pytest.raises(RowError) as error:
        row(headline="x").text("caption", "text")
    assert said(error) == "caption: is missing: looked for caption, text; the columns are headline."


def test_half_a_character_is_refused_with_its_place():
    with pytest.raises(RowError, match=r"text: holds half a character, '\\ud83d', at place 6"):
        row(text="smile \ud83d").text("text")
    with pytest.raises(RowError, match=r"text: holds the byte 0xE9, which is not UTF-8, at place 3\. Save the file as"):
        row(text=b"Caf\xe9".decode("utf-8", "surrogateescape")).text("text")


def test_an_empty_cell_is_said_to_be_empty():
    with pytest.raises(RowError, match=r"answer: is empty\."):
        row(answer=" ").texts("answer")


@pytest.mark.parametrize("value", ["[]", " [ ] ", '[""]', "['', ' ']"])
def test_the_text_of_a_list_of_nothing_is_no_text(value):
    with pytest.raises(RowError) as error:
        row(answers=value).texts("answers", numbers=True)
    assert said(error) == f"answers: found {value!r}, wanted a text."


def test_errors_name_the_users_own_columns():
    called = {"image": "File Name", "images": "Bilder"}
    made = Row(values={"image": "a.png", "images": "b.png"}, place=Place("train.jsonl", 17), called=called)
    with pytest.raises(RowError) as error:
        made.text("question")
    assert said(error) == "question: is missing: looked for question; the columns are File Name, Bilder."
    with pytest.raises(RowError) as error:
        made.images("image", "images")
    assert said(error).startswith("File Name: and Bilder are both given and differ")


def test_several_texts():
    assert row(answers=["red", "", "dark red"]).texts("answers") == ["red", "dark red"]
    assert row(answers=[{"answer": "red", "answer_id": 1}, {"answer": 2}]).texts("answers", numbers=True) == [
        "red",
        "2",
    ]
    assert row(answers="['red', 'dark red']").texts("answers") == ["red", "dark red"]
    assert row(answer="['red', 'dark red']").texts("answer") == ["['red', 'dark red']"]
    for answers in ({"text": ["red"]}, ["red", None], ["red", ["dark red"]], [0.5]):
        with pytest.raises(RowError) as error:
            row(answers=answers).texts("answers", numbers=True)
        assert said(error).startswith("answers")


DATA_URL = "data:image/png;base64," + base64.b64encode(b"png").decode()


@pytest.mark.parametrize(
    ("value", "images"),
    [
        ("a.jpg", ["a.jpg"]),
        (b"png", [b"png"]),
        (DATA_URL, [b"png"]),
        ({"bytes": b"png", "path": "a.jpg"}, [b"png"]),
        ({"bytes": None, "path": "a.jpg"}, ["a.jpg"]),
        ({"url": DATA_URL}, [b"png"]),
        (["a.jpg", {"path": "b.jpg"}], ["a.jpg", "b.jpg"]),
    ],
)
def test_shapes_of_an_image(value, images):
    assert row(image=value).images("image") == images


@pytest.mark.parametrize(
    "value",
    [5, 5.0, True, [33471], ["a.jpg", None], ["a.jpg", ""], b"", {"bytes": "text"}, {"id": 1}, [["a"]], "data:x"],
)
def test_what_is_not_an_image_is_refused_by_name(value):
    with pytest.raises(RowError) as error:
        row(image=value).images("image")
    assert said(error).startswith("image")


def test_two_names_of_the_same_image_are_one_and_of_two_images_are_refused():
    assert row(image="a.jpg", images=["a.jpg"]).images("image", "images") == ["a.jpg"]
    with pytest.raises(RowError, match=r"image: and images are both given and differ \(\['a\.jpg'\]"):
        row(image="a.jpg", images=["b.jpg"]).images("image", "images")


@pytest.mark.parametrize(
    "choices",
    [
        ["red", "blue", 3],
        "['red', 'blue', '3']",
        '["red", "blue", 3]',
        {"A": "red", "B": "blue", "C": 3},
        {"b": "blue", "a": "red", "c": "3", "d": None},
        {"text": ["red", "blue", "3"], "label": ["A", "B", "C"]},
    ],
)
def test_shapes_of_choices(choices):
    assert row(options=choices).choices("choices", "options") == ("red", "blue", "3")


def test_choices_in_columns_of_their_own_and_none_at_all():
    assert row(A="red", B="blue", C=None).choices("choices") == ("red", "blue")
    assert row(choices=None, A="a lonely letter").choices("choices") is None


@pytest.mark.parametrize(
    "choices",
    ["red, blue", "[red]", 3, {"A": "red", "C": "blue"}, {"red": 1, "blue": 2}, ["x", None], ["x"] * 27, [["x"]]],
)
def test_what_is_not_a_list_of_choices_is_refused(choices):
    with pytest.raises(RowError) as error:
        row(choices=choices).choices("choices")
    assert said(error).startswith("choices")


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        (1, ("red", "blue"), "B"),
        ("blue", ("red", "blue"), "B"),
        ("b", ("red", "blue"), "B"),
        ("(B)", ("red", "blue"), "B"),
        ("1", ("red", "blue"), "B"),
        ("A", ("B", "A"), "B"),
        ("3", ("1", "2", "3"), "C"),
        (3, ("1", "2", "3"), "C"),
    ],
)
def test_the_answer_of_a_multiple_choice_question(answer, choices, letter):
    assert row().letter("answer", answer, choices) == letter


@pytest.mark.parametrize("answer", ["green", "C", 2, -1, True, 1.0, None, ["B"], "٣"])
def test_an_answer_that_is_not_a_choice_is_refused(answer):
    with pytest.raises(RowError, match="answer: found"):
        row().letter("answer", answer, ("red", "blue"))


def test_a_number_that_is_one_choice_and_the_place_of_another_is_refused():
    with pytest.raises(RowError, match="Write its letter"):
        row().letter("answer", 2, ("1", "2", "3"))


def test_inner_rows_say_where_they_stand_and_what_of_them_was_not_read():
    found = row(turns=[{"from": "human", "weight": 0, "note": None}, {"from": 7}])
    assert [turn.place for turn in found.rows("turns")] == [found.place] * 2
    with pytest.raises(RowError, match=r"row 17: turns\[1\]\.from: found 7"):
        [turn.text("from") for turn in found.inner["turns"]]
    states = [("turns", "read"), ("turns[].from", "read"), ("turns[].weight", "unread"), ("turns[].note", "empty")]
    assert list(found.columns()) == [*states, ("turns[].from", "read")]
    for turns in ("text", {"from": "human"}, [], ["text"], [None, {"from": "human"}]):
        with pytest.raises(RowError):
            row(turns=turns).rows("turns")


def test_an_error_crosses_processes():
    error = pickle.loads(pickle.dumps(row().wrong("image", 5, "a name")))
    assert str(error) == "train.jsonl row 17: image: found 5 (type int), wanted a name."
    assert str(Place("a.csv", 3, line=5)) == "a.csv line 5, row 3"


@pytest.mark.parametrize(
    "value", [10**5000, [10**5000], "x" * 10**6, [[[[[["deep"]]]]]]], ids=["digits", "digits inside", "long", "deep"]
)
def test_a_message_stays_one_short_line(value):
    with pytest.raises(RowError) as error:
        row(image=value).choices("image")
    assert len(said(error)) < 300


TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
LEAVES = st.none() | st.booleans() | st.integers() | st.just(2**70) | st.floats() | TEXTS | st.binary(max_size=8)
VALUES = st.recursive(
    LEAVES, lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXTS, inside, max_size=4), max_leaves=8
)
STRUCTS = st.fixed_dictionaries({}, optional={name: VALUES for name in ("bytes", "path", "url", "answer", "A", "B")})


@given(VALUES | STRUCTS | st.lists(STRUCTS, max_size=3) | VALUES.map(lambda value: as_text(value)))
def test_any_value_is_one_of_the_shapes_or_refused_with_its_row(value):
    reads = [
        lambda r: [r.text("x", numbers=True)],
        lambda r: r.texts("x", "answers", numbers=True),
        lambda r: r.images("x", "answers"),
        lambda r: r.choices("x", "answers") or (),
        lambda r: [r.letter("x", value, ("red", "2", "1"))],
        lambda r: [turn.text("answer") for turn in r.rows("x")],
    ]
    for read in reads:
        found = row(x=None, answers=value) if read in reads[1:4] else row(x=value)
        texts = outcome(read, found)
        if isinstance(texts, RowError):
            assert str(texts).startswith("train.jsonl row 17: ")
            assert str(texts).isprintable()
        else:
            assert all(isinstance(text, bytes) or (text.strip() and text.encode()) for text in texts)
        assert {state for _, state in found.columns()} <= {"read", "unread", "empty"}
    assert is_given(value) in (True, False)


def outcome(read, row):
    try:
        return read(row)
    except RowError as error:
        return error


def as_text(value) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return "[" * 50
