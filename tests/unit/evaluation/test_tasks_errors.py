"""What is wrong with a benchmark's files is named: which question, which file, and the way out."""

import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tasks_layouts import (
    ai2d_hub,
    cell,
    gqa_original,
    mme_hub,
    mmmu_row,
    parquet,
    pope_hub,
    pope_original,
    put,
    scienceqa_hub,
    vizwiz_original,
)

from dragonfly_lit.evaluation.benchmarks.base import Suite
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS


def rewrite(path, change) -> None:
    """Change the rows of a parquet file."""
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist(change(rows)), path)


def test_a_question_that_stands_twice_is_named(tmp_path):
    pope_hub(tmp_path / "pope")
    rewrite(tmp_path / "pope/data/test-00000-of-00001.parquet", lambda rows: [*rows, rows[0]])
    with pytest.raises(ValueError, match=r"question id 'adversarial-1' appears more than once"):
        BENCHMARKS["pope"]().questions(tmp_path)


def test_an_image_file_that_is_missing_is_named(tmp_path):
    pope_original(tmp_path / "pope")
    (tmp_path / "pope/val2014/COCO_val2014_1.jpg").unlink()
    with pytest.raises(ValueError, match=r"question random-1: there is no image .*COCO_val2014_1.jpg"):
        BENCHMARKS["pope"]().questions(tmp_path)


def test_an_image_cell_that_is_empty_is_named(tmp_path):
    ai2d_hub(tmp_path / "ai2d")
    path = tmp_path / "ai2d/data/test-00000-of-00001.parquet"
    rewrite(path, lambda rows: [{**row, "image": {"bytes": None, "path": None}} for row in rows[:1]] + rows[1:])
    question = BENCHMARKS["ai2d"]().questions(tmp_path)[0]
    with pytest.raises(
        ValueError, match=r"question test-00000: its image cannot be read: .*row 1 of .* holds no image"
    ):
        question.read_images()
    rewrite(path, lambda rows: [{**rows[0], "image": None}, *rows[1:]])
    with pytest.raises(ValueError, match=r"question test-00000: row 1 of .* has no image"):
        BENCHMARKS["ai2d"]().questions(tmp_path)


@pytest.mark.parametrize("answers", [[], None])
def test_an_answer_that_is_missing_is_named(tmp_path, answers):
    vizwiz_original(tmp_path / "vizwiz")
    path = tmp_path / "vizwiz/Annotations/val.json"
    put(path, [{**row, "answers": answers} for row in json.loads(path.read_text())])
    with pytest.raises(ValueError, match="question VizWiz_val_00000000 has no answer"):
        BENCHMARKS["vizwiz"]().questions(tmp_path)


@pytest.mark.parametrize("keep", [slice(0, 7), slice(0, 9)])
def test_an_image_without_two_mme_questions_is_named(tmp_path, keep):
    mme_hub(tmp_path / "mme")
    for path in sorted((tmp_path / "mme/data").glob("*.parquet"))[1:]:
        rewrite(path, lambda rows: [*rows, {**rows[-1], "question": "again?"}][: keep.stop - 3])
    number = 1 if keep.stop == 7 else 3
    with pytest.raises(ValueError, match=f"image 1.png of code_reasoning has {number} questions; MME asks two"):
        BENCHMARKS["mme"]().questions(tmp_path)


def test_an_unknown_mme_subtask_is_named(tmp_path):
    mme_hub(tmp_path / "mme")
    for path in (tmp_path / "mme/data").glob("*.parquet"):
        rewrite(path, lambda rows: [{**row, "category": "weather"} for row in rows])
    with pytest.raises(ValueError, match="subtask 'weather'; MME has existence"):
        BENCHMARKS["mme"]().questions(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    ai2d_hub(tmp_path / "ai2d")
    rewrite(
        tmp_path / "ai2d/data/test-00000-of-00001.parquet",
        lambda rows: [{k: v for k, v in row.items() if k != "options"} for row in rows],
    )
    with pytest.raises(ValueError, match=r"has no column 'options'; it has question, answer, image. Expected"):
        BENCHMARKS["ai2d"]().questions(tmp_path)


def test_an_answer_beyond_the_choices_is_named(tmp_path):
    scienceqa_hub(tmp_path / "scienceqa")
    path = tmp_path / "scienceqa/ScienceQA-FULL/test-00000-of-00001.parquet"
    rewrite(path, lambda rows: [{**rows[0], "answer": 2}, *rows[1:]])
    with pytest.raises(ValueError, match="question test-00000 has 2 choices, and the answer is number 2 from 0"):
        BENCHMARKS["scienceqa"]().questions(tmp_path)


def test_a_pickle_is_refused_with_a_way_out(tmp_path):
    put(tmp_path / "path_vqa/qas/test/test_qa.pkl", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"test_qa.pkl is a pickle.*can run code.*flaviagiammarino/path-vqa"):
        BENCHMARKS["path_vqa"]().questions(tmp_path)


@pytest.mark.parametrize("options", ["__import__('os').system('true')", "['a', ", "5", "{'a': 1}"])
def test_options_that_are_no_list_are_named_and_never_run(tmp_path, options):
    row = mmmu_row("validation_Math_1", options=options)
    parquet(tmp_path / "mmmu/data/validation-00000-of-00001.parquet", [row])
    with pytest.raises(ValueError, match=r"question validation_Math_1: options .* are not the text of a list"):
        BENCHMARKS["mmmu"]().questions(tmp_path)


def test_a_named_image_that_is_empty_is_named(tmp_path):
    row = mmmu_row("validation_Math_1", question="Compare <image 1> and <image 4>.", image_2=cell())
    parquet(tmp_path / "mmmu/data/validation-00000-of-00001.parquet", [row])
    with pytest.raises(ValueError, match="question validation_Math_1 names <image 4>, and its image_4 is empty"):
        BENCHMARKS["mmmu"]().questions(tmp_path)


def test_broken_json_is_named(tmp_path):
    put(tmp_path / "gqa/testdev_balanced_questions.json", '{"1": ')
    with pytest.raises(ValueError, match=r"gqa: .*testdev_balanced_questions.json is not JSON"):
        BENCHMARKS["gqa"]().questions(tmp_path)


def test_options_are_checked():
    for name, options, message in (
        ("vizwiz", {"split": "dev"}, "benchmark.split='dev': vizwiz has val, train"),
        ("pope", {"limit": 0}, "benchmark.limit=0: give at least 1"),
        ("slake", {"language": "fr"}, "benchmark.language='fr': slake has en, zh and all"),
        ("scienceqa", {"subset": "text"}, "benchmark.subset='text': scienceqa has full and img"),
    ):
        with pytest.raises(ValueError, match=message):
            BENCHMARKS[name](**options)


def test_a_set_of_another_size_is_told_but_read(tmp_path, caplog):
    gqa_original(tmp_path / "gqa")
    with caplog.at_level(logging.WARNING):
        assert len(BENCHMARKS["gqa"]().questions(tmp_path)) == 1
    assert "gqa testdev: 1 questions; the published split has 12,578." in caplog.text
    assert BENCHMARKS["gqa"](limit=1).count_note(1) is None
    assert BENCHMARKS["pope"]().count_note(8910) is None, "the first release of POPE had 90 questions fewer"


def test_the_limit_of_a_suite_is_that_of_its_members():
    members = {name: BENCHMARKS[name](limit=9) for name in ("gqa", "pope")}
    assert [task.limit for task in Suite(name="two", members=members).benchmarks] == [9, 9]
    assert [task.limit for task in Suite(name="two", members=members, limit=4).benchmarks] == [4, 4]
