"""The high-resolution benchmarks end to end on miniatures of both of their layouts."""

import io
import json

import pytest
from layouts_highres import (
    LAYOUTS,
    VSTAR_TEXT,
    hr_bench_original,
    hr_rows,
    mme_realworld_hub,
    vstar_hub,
    vstar_original,
)
from miniatures import cell, parquet, put, table, text_cell
from PIL import Image

from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.images import EncodedImage


def score(task, questions, answer):
    metric = task.metric(questions)
    for question in questions:
        metric.update(answer(question), question)
    return metric.compute()


@pytest.mark.parametrize("name", sorted({name for name, _ in LAYOUTS}))
def test_both_layouts_give_the_same_questions(tmp_path, name):
    read = {}
    for number, make in enumerate(make for other, make in LAYOUTS if other == name):
        options, *_ = make(tmp_path / str(number) / name)
        questions = BENCHMARKS[name](**options).questions(tmp_path / str(number))
        read[make.__name__] = {q.id: (q.text, q.choices, q.references[:1], q.category, q.split) for q in questions}
    (_, first), *others = read.items()
    for layout, questions in others:
        if "old" not in layout:
            assert questions.items() <= first.items(), layout


def test_the_boxes_of_vstar_are_corners_and_come_with_the_original_alone(tmp_path):
    vstar_original(tmp_path / "a/vstar")
    vstar_hub(tmp_path / "b/vstar")
    one, two = BENCHMARKS["vstar"]().questions(tmp_path / "a")
    assert one.meta["boxes"] == [[1, 2, 3, 3]]
    assert two.meta["boxes"] == [[1, 2, 3, 3], [5, 0, 8, 2]]
    assert all("boxes" not in question.meta for question in BENCHMARKS["vstar"]().questions(tmp_path / "b"))


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 0, 4], [1, 2, "3", 4]])
def test_a_box_of_another_form_is_named(tmp_path, box):
    vstar_original(tmp_path / "vstar")
    put(tmp_path / "vstar/direct_attributes/sa_0.json", {"bbox": [box]})
    with pytest.raises(ValueError, match=r"vstar: .*sa_0.json: bbox .* is not left, top, width and height"):
        BENCHMARKS["vstar"]().questions(tmp_path)


def test_a_question_of_vstar_shows_its_choices_once(tmp_path):
    vstar_hub(tmp_path / "vstar")
    question = BENCHMARKS["vstar"]().questions(tmp_path)[0]
    assert question.text == "What is the material of the glove?"
    assert question.choices == ("rubber", "cotton", "kevlar", "leather")
    template = BENCHMARKS["vstar"].prompts["llava"]
    assert template.render(question) == (
        "What is the material of the glove?\nA. rubber\nB. cotton\nC. kevlar\nD. leather\n"
        "Answer with the option's letter from the given choices directly."
    )


@pytest.mark.parametrize("text", ["What is it?", VSTAR_TEXT.replace("(B)", "(C)")])
def test_a_question_of_vstar_without_choices_is_named(tmp_path, text):
    row = {"text": text, "category": "direct_attributes", "label": "A", "question_id": "7", "image": cell()}
    parquet(tmp_path / "vstar/data/test-00000-of-00001.parquet", [row])
    with pytest.raises(ValueError, match="question 7: found no choices"):
        BENCHMARKS["vstar"]().questions(tmp_path)


def test_the_orders_of_a_question_belong_together(tmp_path):
    hr_bench_original(tmp_path / "hr_bench_4k")
    task = BENCHMARKS["hr_bench_4k"]()
    questions = task.questions(tmp_path)
    assert [question.meta["circle"] for question in questions] == [0] * 4 + [1] * 4
    # One wrong of eight: an eighth of the rows, and one question of two.
    scores = score(task, questions, lambda q: "D" if q.id == "0" else q.references[0])
    assert scores["accuracy"] == 7 / 8
    assert scores["accuracy_all_orders"] == 1 / 2
    assert scores["accuracy/single"] == 3 / 4
    assert scores["accuracy/cross"] == 1


def test_images_of_a_table_of_text_stay_in_it_whatever_stands_around_them(tmp_path):
    rows = hr_rows(text_cell)
    rows[0]["question"] = 'Two\nlines with a "quote"\tand a tab é?'
    table(tmp_path / "hr_bench_4k/hr_bench_4k.tsv", rows)
    questions = BENCHMARKS["hr_bench_4k"]().questions(tmp_path)
    assert questions[0].text == rows[0]["question"]
    for question, row in zip(questions, rows, strict=True):
        (image,) = question.images
        assert isinstance(image, EncodedImage)
        assert Image.open(io.BytesIO(image.read_bytes())).getpixel((0, 0))[0] == int(row["index"]) // 4


def test_a_table_of_text_that_is_none_names_the_row(tmp_path):
    path = tmp_path / "hr_bench_4k/hr_bench_4k.tsv"
    table(path, hr_rows(text_cell)[:2])
    path.write_text(path.read_text(encoding="utf-8") + "1\ttoo short\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"hr_bench_4k.tsv: row 3 has 2 cells; its first line names 10"):
        BENCHMARKS["hr_bench_4k"]().questions(tmp_path)
    path.write_text("index\tquestion\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has no column 'answer'.*it has index, question"):
        BENCHMARKS["hr_bench_4k"]().questions(tmp_path)


def test_a_cell_that_is_no_image_is_named_when_it_is_read(tmp_path):
    rows = [{**row, "image": "no base64! " * 20} for row in hr_rows(text_cell)]
    for name, write in (("a", table), ("b", parquet)):
        write(tmp_path / name / f"hr_bench_4k/hr_bench_4k.{'tsv' if name == 'a' else 'parquet'}", rows)
        question = BENCHMARKS["hr_bench_4k"]().questions(tmp_path / name)[1]
        with pytest.raises(ValueError, match=r"question 1: its image cannot be read: .*not an image in base64"):
            question.read_images()


def test_letters_in_the_texts_of_choices_are_not_shown_twice(tmp_path):
    mme_realworld_hub(tmp_path / "mme_realworld")
    question = BENCHMARKS["mme_realworld"]().questions(tmp_path)[0]
    prompt = BENCHMARKS["mme_realworld"].prompts["llava"].render(question)
    assert prompt.startswith("How many buses? The choices are listed below:\n(A) 13\n(B) 90\n(C) 77\n(D) 6\n(E) None\n")
    assert prompt.endswith("of the correct option.\nThe best answer is:")


def test_the_hidden_answers_of_a_test_split_are_an_error_with_a_way_out(tmp_path):
    row = {"questionId": 1, "question": "who?", "image": "documents/a.png", "data_split": "test"}
    put(tmp_path / "docvqa/test_v1.0.json", {"data": [row]})
    put(tmp_path / "docvqa/documents/a.png", b"")
    with pytest.raises(ValueError, match="question 1 has no answer"):
        BENCHMARKS["docvqa"](split="test").questions(tmp_path)


def test_every_benchmark_says_what_was_verified():
    from data_prep.benchmark import describe

    for name, benchmark in BENCHMARKS.items():
        assert benchmark.verified, name
        assert benchmark.licence, name
        # A set whose size is unknown says so itself.
        assert benchmark.counts or "not verified" in benchmark.verified or name in ("probes", "pages"), name
        lines = {line[:11].strip(): line[11:] for line in describe(name).split("\n")}
        assert {"benchmark", "licence", "folder", "questions", "verified", "run"} <= set(lines), name
        assert lines["questions"], name
        assert "original" in lines or "hub" in lines or name in ("easy_vqa", "probes", "pages"), name
    assert "verified   " in describe("docvqa")
    assert json.dumps(describe("docvqa")).count("5,349") == 1
