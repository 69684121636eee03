"""Answers to hidden questions in the exact form that each challenge's server takes."""

import json
import zipfile
from io import BytesIO
from xml.etree import ElementTree

import pytest
from layouts_choice import mmbench_rows
from miniatures import cell, parquet, picture, put

from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.prompts import PromptBook, Template
from dragonfly_lit.evaluation.runner import score_predictions
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.evaluation.submission import check_servers
from dragonfly_lit.evaluation.workbook import LONGEST, workbook

BOOK = PromptBook(name="none", default=Template(text="{question}"))


def submitted(tmp_path, name, outputs, **options):
    """What `predict=true` writes for these outputs, and what the results say."""
    settings = Settings(prompts=BOOK, data_root=tmp_path, predict=True)
    benchmark = BENCHMARKS[name](**options)
    questions = benchmark.questions(tmp_path, hidden=True)
    rows = [{"id": question.id, "prediction": output} for question, output in zip(questions, outputs, strict=True)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    results = score_predictions(benchmark, tmp_path / "p.jsonl", tmp_path / "out", settings=settings)
    (path,) = (tmp_path / "out/submission").iterdir()
    return path, results["benchmarks"][name]


def test_vqav2_textvqa_and_vizwiz_have_answers_in_the_form_of_their_servers(tmp_path):
    rows = [{"question_id": 11 + i, "image_id": 4, "question": "What?", "image": cell(i)} for i in range(2)]
    parquet(tmp_path / "vqav2/data/testdev-00000-of-00001.parquet", rows)
    path, entry = submitted(tmp_path, "vqav2", ["The Two, dogs", "1,000?"], split="testdev")
    assert path.name == "vqav2_testdev.json"
    assert json.loads(path.read_text()) == [
        {"question_id": 11, "answer": "2 dogs"},
        {"question_id": 12, "answer": "1000"},
    ]
    assert entry["scores"] == {}
    assert entry["waits_for"] == "a server"
    assert "submission/vqav2_testdev.json is for the VQA challenge of EvalAI" in entry["waiting"]


def test_textvqa_is_numbered(tmp_path):
    rows = [{"image_id": "i", "question_id": 39602, "question": "what brand?", "image": cell(), "answers": None}]
    parquet(tmp_path / "textvqa/data/test-00000-of-00001.parquet", rows)
    path, _ = submitted(tmp_path, "textvqa", ["A Nokia."], split="test")
    assert json.loads(path.read_text()) == [{"question_id": 39602, "answer": "nokia"}]


def test_vizwiz_goes_by_the_names_of_images(tmp_path):
    put(tmp_path / "vizwiz/test.json", [{"image": "VizWiz_test_00000000.jpg", "question": "What?"}])
    put(tmp_path / "vizwiz/test/VizWiz_test_00000000.jpg", picture())
    path, _ = submitted(tmp_path, "vizwiz", [" Unanswerable "], split="test")
    assert json.loads(path.read_text()) == [{"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"}]


@pytest.mark.parametrize(("name", "config"), [("docvqa", "DocVQA"), ("infographicvqa", "InfographicVQA")])
def test_docvqa_and_infographicvqa_have_outputs_as_they_are(tmp_path, name, config):
    rows = [{"questionId": "57344", "question": "Who?", "image": cell(), "answers": None}]
    parquet(tmp_path / f"{name}/{config}/test-00000-of-00001.parquet", rows)
    path, _ = submitted(tmp_path, name, ["Dr. Smith, M.D.\n"], split="test")
    assert json.loads(path.read_text()) == [{"questionId": 57344, "answer": "Dr. Smith, M.D."}]


def test_mmmu_maps_ids_to_letters_and_words(tmp_path):
    images = {f"image_{i}": None for i in range(1, 8)} | {"image_1": cell()}
    shared = {"question": "What is <image 1>?", **images}
    rows = [
        {"id": "test_Math_1", "options": "['x', 'y']", "question_type": "multiple-choice", **shared, "answer": "A"},
        {"id": "test_Math_2", "options": "['x', 'y']", "question_type": "multiple-choice", **shared, "answer": "A"},
        {"id": "test_Math_3", "options": "[]", "question_type": "open", **shared, "answer": "5"},
    ]
    # The validation split has answers, and takes the same form.
    parquet(tmp_path / "mmmu/Math/validation-00000-of-00001.parquet", rows)
    path, _ = submitted(tmp_path, "mmmu", ["(B)", "?", "The answer is 5 cm."])
    assert json.loads(path.read_text()) == {"test_Math_1": "B", "test_Math_2": "", "test_Math_3": "5 cm"}


def test_mmbench_is_a_workbook_of_every_row(tmp_path):
    rows = mmbench_rows(lambda q, turn: cell(q))
    for row in rows:
        row["answer"] = "nan"
    parquet(tmp_path / "mmbench/en/test-00000-of-00001.parquet", rows)
    path, _ = submitted(tmp_path, "mmbench", ["A", "B <&>", "C", "A", "B"], split="test")
    assert path.name == "mmbench_test.xlsx"
    found = read(path.read_bytes())
    assert found[0] == ["index", "question", "A", "B", "C", "D", "prediction"]
    assert found[1] == ["241", "Which one is it?\n(0)", "red", "blue", "green", None, "A"]
    assert found[2] == ["1000241", "Which one is it?\n(0)", "blue", "green", "red", None, "B <&>"]
    assert found[4] == ["242", "Which one is it?\n(1)", "cat", "dog", None, None, "A"]
    assert len(found) == 6


def read(data: bytes) -> list[list[str | None]]:
    """The cells of a workbook, by its XML."""
    main = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for name in archive.namelist():
            ElementTree.fromstring(archive.read(name))
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    return [["".join(cell.itertext()) or None for cell in row] for row in sheet.iter(f"{main}row")]


def test_a_workbook_holds_any_text_and_is_the_same_twice():
    rows = [{"a": "\x00x\ufffe \U0001f600 <b>&amp;", "b": 7}, {"a": "y" * (LONGEST + 5)}]
    data = workbook(["a", "b"], rows)
    assert data == workbook(["a", "b"], rows)
    assert read(data) == [["a", "b"], ["x \U0001f600 <b>&amp;", "7"], ["y" * LONGEST, None]]


def test_a_benchmark_without_a_server_is_named_before_anything_is_asked():
    with pytest.raises(ValueError, match="predict=true: no server takes answers to vstar"):
        check_servers([BENCHMARKS["docvqa"](), BENCHMARKS["vstar"]()])


def test_every_server_has_its_form():
    with_server = {name for name, benchmark in BENCHMARKS.items() if benchmark.server}
    assert with_server == {"vqav2", "textvqa", "vizwiz", "docvqa", "infographicvqa", "mmbench", "mmmu"}


def test_a_hidden_split_that_is_to_be_scored_says_what_to_do(tmp_path):
    rows = [{"questionId": "1", "question": "Who?", "image": cell(), "answers": None}]
    parquet(tmp_path / "docvqa/DocVQA/test-00000-of-00001.parquet", rows)
    with pytest.raises(ValueError, match=r"question 1 has no answer.*predict=true for the file that the Document VQA"):
        BENCHMARKS["docvqa"](split="test").questions(tmp_path)


@pytest.mark.parametrize("name", ["hr_bench_4k", "mmbench", "blink", "cv_bench", "mmstar", "medxpertqa"])
def test_choices_that_stand_in_the_data_are_not_rotated(name):
    with pytest.raises(ValueError, match=f"benchmark.circular=true: {name} is not asked like that"):
        BENCHMARKS[name](circular=True)
