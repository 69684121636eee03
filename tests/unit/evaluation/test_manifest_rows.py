"""What a manifest says is asked and scored exactly, or its row is refused by file and number."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_tasks_layouts import cell, picture, put

from dragonfly_lit.evaluation.benchmarks.manifest import Manifest, manifest
from dragonfly_lit.evaluation.prompts import LETTER, PromptBook, Template

CASES = Path(__file__).resolve().parents[2] / "cases"
BOOK = PromptBook(name="plain", default=Template(text="{question}"))


def of(path, metric="exact_match", **options) -> Manifest:
    return manifest("my_set", path, metric, **options)


def written(folder, *rows, name="q.jsonl") -> Path:
    put(folder / name, "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return folder / name


def stored(folder, rows, **types) -> Path:
    table = pa.Table.from_pylist(rows, schema=pa.schema(types) if types else None)
    pq.write_table(table, folder / "q.parquet", row_group_size=2)
    return folder / "q.parquet"


@pytest.mark.parametrize(
    ("case", "choices", "answers"),
    [
        ("02_mcq_list.jsonl", [("blue", "red")] * 2, [("B",), ("A",)]),
        ("03_mcq_string_and_dict_options.jsonl", [("red", "blue")] * 2, [("A",), ("B",)]),
    ],
)
def test_choices_in_every_form_are_shown_with_their_letters(case, choices, answers):
    task = of(CASES / case, "multiple_choice")
    questions = task.questions(CASES)
    assert [question.choices for question in questions] == choices
    assert [question.references for question in questions] == answers
    first, second = choices[0]
    shown = f"What color is the shape?\nA. {first}\nB. {second}\n{LETTER}"
    assert task.template(BOOK).render(questions[0]) == shown


def test_null_beside_an_image_does_not_hide_it_and_a_null_question_is_refused(tmp_path):
    path = CASES / "04_images_null_question_null_vqav2_answers.jsonl"
    with pytest.raises(ValueError, match=r"null_vqav2_answers.jsonl line 2, row 2: question: found nothing \(null\)"):
        of(path).questions(CASES)
    whole = path.read_text().splitlines()
    (tmp_path / "imgs").symlink_to(CASES / "imgs")
    task = of(written(tmp_path, whole[0], *whole[2:]), images=CASES / "imgs")
    assert [len(question.images) for question in task.questions(tmp_path)] == [1, 1, 1]
    assert [question.references for question in task.questions(tmp_path)] == [("red",), ("red", "red"), ("red",)]


def test_a_struct_with_a_path_is_an_image_and_a_number_is_not():
    (question,) = of(CASES / "ev_imagedict.jsonl").questions(CASES)
    assert question.images == (CASES / "imgs/a.jpg",)
    with pytest.raises(ValueError, match=r"ev_imageint.jsonl line 1, row 1: image: found 5 .*wanted a file"):
        of(CASES / "ev_imageint.jsonl").questions(CASES)


def test_the_answers_of_vqav2_count_with_their_blanks(tmp_path):
    answers = [{"answer": text, "answer_confidence": "yes"} for text in ["red"] * 8 + ["", "dark red"]]
    (question,) = of(written(tmp_path, {"question": "q", "answers": answers}), "vqa_accuracy").questions(tmp_path)
    assert sorted(question.references) == ["", "dark red"] + ["red"] * 8


@pytest.mark.parametrize(
    ("value", "metric", "expected"),
    [
        ("2.50", "exact_match", "2.50"),
        ("3.0", "relaxed_accuracy", "3.0"),
        ("7", "exact_match", "7"),
        ("1e3", "anls", "1e3"),
    ],
)
def test_a_number_of_json_is_as_it_is_written(tmp_path, value, metric, expected):
    (question,) = of(written(tmp_path, f'{{"question": "q", "answer": {value}}}'), metric).questions(tmp_path)
    assert question.references == (expected,)


def test_a_number_of_a_table_that_may_have_been_a_whole_one_is_refused(tmp_path):
    path = stored(tmp_path, [{"question": "q", "answer": 2.5}, {"question": "q", "answer": 3.0}])
    with pytest.raises(ValueError, match=r"q.parquet row 2: answer: found 3.0 \(type float\)"):
        of(path).questions(tmp_path)
    assert [q.references for q in of(path, "relaxed_accuracy").questions(tmp_path)] == [("2.5",), ("3.0",)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": None}, "answer: question row-000001 has no answer"),
        ({"answer": ""}, "has no answer"),
        ({"answer": True}, "answer: found True"),
        ({"answer": {"text": "x"}}, "answer: found {'text': 'x'}"),
        ({"answer": math.nan}, "has no answer"),
        ({"answers": [["x"]]}, r"answers\[0\]: found \['x'\]"),
        ({"question": 5}, "question: found 5"),
        ({"question": ["q"]}, "question: found"),
        ({"question": "half \ud83d"}, "question: holds half a character"),
        ({"choices": [], "metric": "multiple_choice"}, r"choices: found \[\]"),
        ({"choices": "red, blue"}, "choices: found 'red, blue'"),
        ({"choices": {"x": "red"}}, "choices: found {'x': 'red'}"),
        ({"choices": ["a", None]}, r"choices\[1\]: found nothing"),
        ({"choices": ["a", "b"], "answer": 2}, "answer: found 2"),
        ({"choices": ["a", "b"], "answer": -1}, "answer: found -1"),
        ({"choices": ["x"] * 27, "answer": 0}, "choices: found"),
        ({"image": {"name": "a.png"}}, "image: found {'name': 'a.png'}"),
        ({"images": [5]}, r"images\[0\]: found 5"),
        ({"images": ["a.png", None]}, r"images\[1\]: found nothing"),
        ({"image": "a.png", "images": ["b.png"]}, "differ"),
        ({"image": "http://example.org/a.png"}, "is an address"),
        ({"image": "data:image/png;base64,%%"}, "is a data: URL whose base64 is damaged"),
        ({"question": "<image>\nWhat?"}, "says <image>, and the row has no image"),
        ({"question": "Is <image> or <image> red?", "image": "a.png"}, "has 2 <image>, .* and the row has 1 images"),
        ({"question": "<image> Is <image> red?", "image": "a.png"}, "has 2 <image>, .* and the row has 1 images"),
        ({"question": "Is <image> red, as <image 1>?", "image": "a.png"}, "has <image> and `<image N>`"),
        ({"question": "<image> <image>", "image": "a.png"}, "is nothing but <image>"),
        ({"category": {"a": 1}}, "category: found"),
        ({"hint": 5}, "hint: found 5"),
        ({"id": [1]}, "id: found"),
    ],
)
def test_a_field_of_another_form_is_refused_by_file_and_row(tmp_path, row, message):
    put(tmp_path / "a.png", picture())
    metric = row.pop("metric", "exact_match")
    path = written(tmp_path, {"question": "q", "answer": "x"} | row)
    with pytest.raises(ValueError, match=rf"q\.jsonl line 1, row 1: .*{message}"):
        of(path, metric).questions(tmp_path)


def test_the_tag_of_an_image_is_not_part_of_the_question(tmp_path):
    put(tmp_path / "a.png", picture())
    rows = [
        {"question": f"{a}What?{b}", "answer": "x", "image": "a.png"} for a, b in (("<image>\n", ""), ("", " <image>"))
    ]
    assert [q.text for q in of(written(tmp_path, *rows)).questions(tmp_path)] == ["What?", "What?"]


def test_a_tag_between_words_is_the_name_of_its_image(tmp_path):
    for name in ("a.png", "b.png"):
        put(tmp_path / name, picture())
    both = {"answer": "x", "images": ["a.png", "b.png"]}
    rows = [
        {"question": "Is <image> as red as <image>?", **both},
        {"question": "<image> and <image>: which is red?", **both},
        {"question": "Which is red, <image 2> or <image 1>?", **both},
    ]
    found = of(written(tmp_path, *rows))
    assert found.numbers_images
    assert [q.text for q in found.questions(tmp_path)] == [
        "Is <image 1> as red as <image 2>?",
        "<image 1> and <image 2>: which is red?",
        "Which is red, <image 2> or <image 1>?",
    ]


@pytest.fixture
def home(tmp_path):
    """A folder `set` for a manifest, an image beside it and a secret outside, to which a link leads."""
    put(tmp_path / "set/a.png", picture(1))
    put(tmp_path / "secret.png", picture(2))
    put(tmp_path / "pictures/b.png", picture(3))
    (tmp_path / "set/link.png").symlink_to("../secret.png")
    (tmp_path / "set/pictures").symlink_to("../pictures")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["../secret.png", "{home}/secret.png", "link.png", "pictures/b.png", "pictures/../secret.png"]
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "struct"])
def test_a_name_that_leads_out_of_the_folder_is_refused(home, name, kind):
    image = name.format(home=home)
    row = {"question": "q", "answer": "x", "image": {"path": image, "bytes": None} if kind == "struct" else image}
    path = written(home / "set", row) if kind == "jsonl" else stored(home / "set", [row])
    with pytest.raises(ValueError, match=r"row 1: image: .* outside of .*benchmark.images=FOLDER"):
        of(path).questions(home)


def test_a_folder_of_images_may_be_given(home):
    names = ["b.png", "../pictures/b.png", "pictures/b.png", f"{home}/pictures/b.png"]
    path = written(home / "set", *({"question": "q", "answer": "x", "image": name} for name in names))
    questions = of(path, images=home / "pictures").questions(home)
    assert [question.read_images() for question in questions] == [(picture(3),)] * 4
    path = written(home / "set", {"question": "q", "answer": "x", "image": "a.png"})
    assert of(path, images=home / "pictures").questions(home)[0].read_images() == (picture(1),), "beside the manifest"
    path = written(home / "set", {"question": "q", "answer": "x", "image": "../secret.png"})
    with pytest.raises(ValueError, match="outside of"):
        of(path, images=home / "pictures").questions(home)
    with pytest.raises(ValueError, match=r"benchmark.images=.*gone: there is no such folder"):
        of(path, images=home / "gone")


def test_a_table_may_hold_images_in_every_form(tmp_path):
    forms = {
        "struct": cell(1),
        "bytes": picture(1),
        "name": "a.png",
        "path": {"bytes": None, "path": "a.png"},
        "list": [cell(1), cell(2)],
        "bytes list": [picture(1), picture(2)],
        "paths": [{"bytes": None, "path": "a.png"}],
    }
    expected = {
        "name": (picture(9),),
        "path": (picture(9),),
        "paths": (picture(9),),
        "list": (picture(1), picture(2)),
        "bytes list": (picture(1), picture(2)),
    }
    for form, image in forms.items():
        rows = [{"question": "q", "answer": "x", "image": each} for each in (image, image, image, None)]
        folder = tmp_path / form
        put(folder / "a.png", picture(9))
        questions = of(stored(folder, rows)).questions(folder)
        assert [q.read_images() for q in questions] == [expected.get(form, (picture(1),))] * 3 + [()], form
        assert len({key for q in questions for key in q.image_keys}) in (1, 3, 6), form


def test_an_image_beside_an_empty_list_is_asked_about(tmp_path):
    rows = [{"question": "q", "answer": "x", "image": cell(1), "images": []}]
    types = {"question": pa.string(), "answer": pa.string(), "images": pa.list_(pa.string())}
    types["image"] = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert of(stored(tmp_path, rows, **types)).questions(tmp_path)[0].read_images() == (picture(1),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("name", ["q.jsonl", "q.json"])
def test_a_manifest_in_unicode_is_read(tmp_path, encoding, name):
    (tmp_path / name).write_bytes('{"question": "Größe \u2028 😀?", "answer": "drei"}\n'.encode(encoding))
    assert of(tmp_path / name).questions(tmp_path)[0].text == "Größe \u2028 😀?"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_a_manifest_in_another_encoding_is_named(tmp_path, encoding):
    text = '{"question": "What?", "answer": "x"}\n{"question": "Größe?", "answer": "drei"}\n'
    (tmp_path / "q.jsonl").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=r"q.jsonl line 2, row 2: question: holds .*not UTF-8.*Save the file as UTF-8"):
        of(tmp_path / "q.jsonl").questions(tmp_path)
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe" + text.encode(encoding) + b"x")
    with pytest.raises(ValueError, match=r"q.jsonl .*(UTF-16|not JSON)"):
        of(tmp_path / "q.jsonl").questions(tmp_path)


@pytest.mark.parametrize("content", ["{", '{"question": "q"', "[1, 2", "nonsense", "[" * 100_000, "9" * 5000])
@pytest.mark.parametrize("name", ["q.jsonl", "q.json"])
def test_broken_json_is_named_with_its_line(tmp_path, content, name):
    put(tmp_path / name, content)
    whole = name == "q.json" and content.startswith("[")  # a list has no lines of its own
    where = rf"{name}: cannot be read as json: " if whole else rf"{name} line 1, row 1: is not JSON"
    with pytest.raises(ValueError, match=where) as error:
        of(tmp_path / name).questions(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_a_broken_table_is_named(tmp_path, content):
    (tmp_path / "q.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"q\.parquet: cannot be read as parquet"):
        of(tmp_path / "q.parquet").questions(tmp_path)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
SCALARS = st.none() | st.booleans() | st.integers(-3, 30) | st.floats(width=16) | TEXTS | st.just("\ud83d")
CELLS = st.recursive(
    SCALARS,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.sampled_from(["answer", "A", "B", "path"]), inside, max_size=2)
    ),
    max_leaves=4,
)
NAMES = ("id", "question", "image", "images", "answer", "answers", "choices", "options", "category", "hint", "split")
IMAGE_CELLS = st.sampled_from(
    [None, "", [], "a.png", ["a.png"], {"path": "a.png"}, "../a.png", 5, {"x": 1}, ["a.png", 5]]
)
ROWS = st.fixed_dictionaries(
    {"question": st.just("Which?") | CELLS, "answer": st.sampled_from(["A", "x", 1]) | CELLS},
    optional={
        "choices": st.sampled_from([["x", "y"], "['x', 'y']", {"A": "x", "B": "y"}]) | CELLS,
        "image": IMAGE_CELLS | CELLS,
        "images": IMAGE_CELLS,
        **{name: CELLS for name in NAMES[5:] if name not in ("answer", "choices")},
    },
)


def empty(value) -> bool:
    """Whether a cell says nothing, worked out apart from the reader."""
    if isinstance(value, dict | list):
        return all(map(empty, value.values() if isinstance(value, dict) else value))
    return value is None or value != value or (isinstance(value, str) and not value.strip())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=ROWS, metric=st.sampled_from(["exact_match", "multiple_choice", "vqa_accuracy"]))
def test_any_row_is_asked_as_it_says_or_refused_by_name(tmp_path_factory, row, metric):
    folder = tmp_path_factory.getbasetemp() / "rows"
    if not (folder / "a.png").is_file():
        put(folder / "a.png", picture())
    path = written(folder, row)
    task = of(path, metric)
    try:
        (question,) = task.questions(folder)
    except ValueError as error:
        refused = str(error)
    else:
        refused = None
    if refused is not None:
        assert "q.jsonl line 1, row 1: " in refused
        assert "\n" not in refused
        return
    assert question.text == row["question"].strip() or question.text == row["question"]
    given_images = [row[name] for name in ("images", "image") if not empty(row.get(name))]
    assert len(question.images) == (1 if given_images else 0), "every image of this test is a.png"
    answers = next(row[name] for name in ("answers", "answer") if not empty(row.get(name)))
    answers = answers if isinstance(answers, list) else [answers]
    said = [each["answer"] if isinstance(each, dict) else each for each in answers]
    if question.choices is None:
        assert all(empty(row.get(name)) for name in ("choices", "options"))
        assert {text for text in question.references if text} <= {str(each) for each in said} | {"x", "y"}
        prompt = task.template(BOOK).render(question)
        assert row["question"].strip() in prompt
    else:
        assert all("A" <= letter <= "Z" and ord(letter) - 65 < len(question.choices) for letter in question.references)
        choices = next(row[name] for name in ("choices", "options") if not empty(row.get(name)))
        if isinstance(choices, list):
            assert question.choices == tuple(str(each).strip() for each in choices)
        lines = task.template(BOOK).render(question)
        assert all(f"{letter}. {text}\n" in lines for letter, text in zip("ABC", question.choices, strict=False))
    assert not any(text in ("None", "nan") for text in (question.text, *question.references))
