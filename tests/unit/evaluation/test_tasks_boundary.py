"""Whatever stands in a benchmark's files: questions, or one line that names the benchmark; nothing outside is read."""

import csv
import json
from dataclasses import replace
from io import StringIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tasks_layouts import LAYOUTS, ids, picture, pope_hub_full, put, slake_original

from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.images import EncodedImage

BAD = (None, 5, 1.5, True, "", [], {}, [None], {"a": 1}, ["x", 5], "../../../secret.png", "/", "a\0b")


def outcome(task, root) -> str:
    """`read`, or the line that it ends in."""
    try:
        questions = task.questions(root)
    except ValueError as error:
        return " ".join(str(error).split())
    for question in questions:
        assert question.text
        assert all(isinstance(text, str) for text in (question.text, *question.references, *(question.choices or ())))
        assert "None" not in (question.text, *question.references)
        for path in question.images:
            assert not hasattr(path, "resolve") or path.resolve().is_relative_to(root.resolve()), path
    return "read"


def changed_json(value, depth=0):
    """Copies of a JSON value, each with one cell of its first rows replaced by something else, or gone."""
    if depth > 3:
        return
    if isinstance(value, dict):
        for key in list(value)[:8]:
            yield {name: each for name, each in value.items() if name != key}
            yield from ({**value, key: bad} for bad in BAD)
            yield from ({**value, key: inner} for inner in changed_json(value[key], depth + 1))
    elif isinstance(value, list) and value:
        yield from ([bad, *value[1:]] for bad in BAD)
        yield from ([inner, *value[1:]] for inner in changed_json(value[0], depth + 1))


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_a_changed_cell_of_a_json_file_is_read_or_named(tmp_path, name, make):
    options, *_ = make(tmp_path / name)
    put(tmp_path / "secret.png", picture())
    task = BENCHMARKS[name](**options)
    for path in sorted(tmp_path.rglob("*.json")):
        text = path.read_text()
        by_line = text.lstrip().startswith("{") and "\n{" in text
        whole = [json.loads(line) for line in text.splitlines() if line] if by_line else json.loads(text)
        for changed in changed_json(whole):
            put(path, "\n".join(map(json.dumps, changed)) if by_line else json.dumps(changed))
            said = outcome(task, tmp_path)
            assert said == "read" or name in said, (changed, said)
        put(path, text)


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_a_changed_column_of_a_table_is_read_or_named(tmp_path, name, make):
    options, *_ = make(tmp_path / name)
    task = BENCHMARKS[name](**options)
    for path in sorted(tmp_path.rglob("*.parquet"))[:2]:
        rows = pq.read_table(path).to_pylist()
        for column in rows[0]:
            for bad in (each for each in BAD if each not in ({}, ["x", 5])):  # which Parquet cannot hold
                pq.write_table(pa.Table.from_pylist([{**row, column: bad} for row in rows]), path)
                said = outcome(task, tmp_path)
                assert said == "read" or name in said, (column, bad, said)
        pq.write_table(pa.Table.from_pylist(rows), path)
        path.write_bytes(path.read_bytes()[:40])
        assert name in outcome(task, tmp_path) or make is pope_hub_full, "whose other splits are not read"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le", "latin-1"])
@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_a_text_file_in_another_encoding_is_read_or_named(tmp_path, name, make, encoding):
    options, *_ = make(tmp_path / name)
    task = BENCHMARKS[name](**options)
    before = wherever_encoded(task.questions(tmp_path))
    files = [path for kind in ("json", "jsonl", "tsv", "csv", "txt") for path in sorted(tmp_path.rglob(f"*.{kind}"))]
    for path in files:
        text = path.read_text(encoding="utf-8")
        mark = "\ufeff" if encoding == "utf-32-le" else ""
        path.write_bytes((mark + text + ("é" if encoding == "latin-1" else "")).encode(encoding))
        if encoding == "latin-1":
            assert f"{path}: line" in outcome(task, tmp_path)
            put(path, text)
    assert wherever_encoded(task.questions(tmp_path)) == before


def wherever_encoded(questions):
    """Questions with the bytes of images that lie in a file of text: where they lie there depends on its encoding."""
    return [
        replace(one, images=tuple(i.read_bytes() if isinstance(i, EncodedImage) else i for i in one.images))
        for one in questions
    ]


def test_a_folder_of_images_may_be_a_link_that_the_user_made(tmp_path):
    slake_original(tmp_path / "slake")
    before = [question.read_images() for question in BENCHMARKS["slake"]().questions(tmp_path)]
    (tmp_path / "slake/imgs").rename(tmp_path / "elsewhere")
    (tmp_path / "slake/imgs").symlink_to("../elsewhere")
    assert [question.read_images() for question in BENCHMARKS["slake"]().questions(tmp_path)] == before


def test_slake_without_a_language_is_read(tmp_path):
    slake_original(tmp_path / "slake")
    path = tmp_path / "slake/test.json"
    rows = [row for row in json.loads(path.read_text()) if row["q_lang"] == "en"]
    expected = BENCHMARKS["slake"]().questions(tmp_path)
    put(path, [{key: value for key, value in row.items() if key != "q_lang"} for row in rows])
    assert BENCHMARKS["slake"]().questions(tmp_path) == expected


def test_a_csv_with_an_open_quote_is_named(tmp_path):
    base = tmp_path / "roco/data/test/radiology"
    put(base / "images/a.jpg", picture())
    put(base / "testdata.csv", "id,name,caption\n1,a.jpg,one, two\n")
    with pytest.raises(ValueError, match=r"testdata.csv: row 1 has more fields than columns"):
        BENCHMARKS["roco"]().questions(tmp_path)
    out = StringIO()
    csv.writer(out).writerows([("id", "name", "caption"), ("1", "a.jpg", 'said "one",\ntwo')])
    put(base / "testdata.csv", "\ufeff" + out.getvalue())
    assert BENCHMARKS["roco"]().questions(tmp_path)[0].references == ('said "one", two',)


@pytest.mark.parametrize("field", ["question", "choices", "hint"])
def test_a_structural_token_in_a_question_is_named(tmp_path, field):
    from dragonfly_lit.evaluation.benchmarks.manifest import manifest

    row = {"question": "q", "answer": "A", "choices": ["x", "y"]}
    row[field] = {"choices": ["x", "y<|eot_id|>"]}.get(field, "a<|eot_id|>")
    put(tmp_path / "q.jsonl", json.dumps(row))
    with pytest.raises(ValueError, match=r"question row-000001 holds the structural token <\|eot_id\|>"):
        manifest("mine", tmp_path / "q.jsonl", "multiple_choice").questions(tmp_path)
