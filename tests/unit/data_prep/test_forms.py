"""The forms: deterministic, nothing shared by the splits, the number where the record says, all scored as written."""

import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mlxtend")
from data_prep.drawn import JITTER, SIZES
from data_prep.form_pages import DOCUMENTS, PENS, TYPEFACES, handwriting, words
from data_prep.forms import EDGE, QUESTIONS, TRAIN_SIZES, form, make_forms, written
from dragonfly_lit.evaluation.benchmarks.forms import Forms
from dragonfly_lit.evaluation.question import Question

SIDE = 512


@pytest.fixture(scope="module")
def records():
    return [form("test", number, seed=0, side=SIDE) for number in range(70)]


def test_a_form_is_a_function_of_its_number_and_seed(records):
    assert form("test", 5, seed=0, side=SIDE) == records[5]
    assert form("test", 5, seed=1, side=SIDE) != records[5]
    assert form("train", 5, seed=0, side=SIDE) != records[5]


def test_no_written_digit_text_or_typeface_is_in_both_splits():
    train, test = (written(split) for split in ("train", "test"))
    for digit in range(10):
        assert set(train[digit]).isdisjoint(test[digit])
        assert len(train[digit]) + len(test[digit]) == int((handwriting()[1] == digit).sum()) > 400
    ink = [{handwriting()[0][row].tobytes() for rows in split.values() for row in rows} for split in (train, test)]
    assert ink[0].isdisjoint(ink[1])
    assert set(DOCUMENTS["train"]).isdisjoint(DOCUMENTS["test"])
    families = [{name[:4] for name in TYPEFACES[split]} for split in ("train", "test")]
    assert families[0].isdisjoint(families[1])
    assert min(len(words("train")), len(words("test"))) > 1000


def test_a_split_uses_its_own_handwriting_and_the_answer_is_what_was_written(records):
    for record in records:
        assert [turn.text for turn in record.turns[0::2]] == list(QUESTIONS.values())
        assert record.turns[1].text in PENS
        digit = int(record.turns[3].text)
        assert record.meta["written"] in written("test")[digit]
        assert handwriting()[1][record.meta["written"]] == digit


def test_boxes_have_the_size_that_the_record_says_and_lie_on_the_page(records):
    for record in records:
        assert record.meta["boxes"][0] == record.meta["boxes"][1]
        left, top, right, bottom = record.meta["boxes"][0]
        assert right - left == bottom - top
        assert abs((right - left) / SIDE - record.meta["size"]) <= JITTER * record.meta["size"] + 1 / SIDE
        assert min(left, top) >= EDGE
        assert max(right, bottom) <= SIDE - EDGE
    assert {record.meta["size"] for record in records} == set(SIZES)
    assert {form("train", number, seed=0, side=SIDE).meta["size"] for number in range(13)} == set(TRAIN_SIZES)


def test_boxes_lie_uniformly_over_the_page():
    middles = []
    for number in range(0, 700, 7):  # the smallest, which may lie nearly everywhere
        left, top, right, bottom = form("test", number, seed=0, side=128).meta["boxes"][0]
        middles.append(((left + right) / 256, (top + bottom) / 256))
    quarters = np.histogram2d(*np.transpose(middles), bins=2, range=[[0, 1], [0, 1]])[0]
    assert quarters.sum() == 100
    assert quarters.min() >= 12


def test_what_is_written_is_in_the_box_and_text_is_around_it_only(records):
    large = [record for record in records if record.meta["size"] == max(SIZES)]
    for record in large:
        page = np.asarray(Image.open(io.BytesIO(record.images[0])), dtype=float)
        assert page.shape == (SIDE, SIDE, 3)
        left, top, right, bottom = record.meta["boxes"][0]
        rule = (right - left) // 8
        inside = page[top + rule : bottom - rule, left + rule : right - rule]
        ink = handwriting()[0][record.meta["written"]][2:26, 2:26]
        hand = Image.fromarray((255 * (1 - ink)).astype(np.uint8)).resize((right - left, bottom - top))
        wanted = np.asarray(hand, dtype=float)[rule : bottom - top - rule, rule : right - left - rule]
        assert np.corrcoef(inside.mean(-1).ravel(), wanted.ravel())[0, 1] > 0.9
        nearest = {name: np.abs(inside - pen).sum(-1).min() for name, pen in PENS.items()}
        assert min(nearest, key=nearest.__getitem__) == record.turns[1].text
        assert page.std() > 20  # there is text


def test_forms_are_drawn_once_read_as_a_benchmark_and_other_settings_are_refused(tmp_path):
    home = make_forms(tmp_path, num_train=3, num_test=7, side=128)
    first = (home / "test" / "forms-test-00000.tar").read_bytes()
    assert make_forms(tmp_path, num_train=3, num_test=7, side=128) == home
    with pytest.raises(ValueError, match="was made with"):
        make_forms(tmp_path, num_train=3, num_test=7, side=128, seed=1)
    again = make_forms(tmp_path / "again", num_train=3, num_test=7, side=128)
    assert (again / "test" / "forms-test-00000.tar").read_bytes() == first
    for split in ("train", "test"):
        licence = json.loads((home / split / "dataset.json").read_text())["licence"]
        assert all(name in licence for name in ("MNIST", "scikit-learn", "matplotlib"))

    questions = Forms().questions(tmp_path)
    assert [question.split for question in questions] == [f"{round(100 * size):02d}%" for size in SIZES for _ in QUESTIONS]
    assert _score(questions, [question.references[0] for question in questions]) == 1.0
    assert _score(questions, ["ten"] * 14) == 0.0


def _score(questions: list[Question], answers: list[str]) -> float:
    metric = Forms().metric(questions, None)
    for question, answer in zip(questions, answers, strict=True):
        metric.update(answer, question)
    return metric.compute()["accuracy"]
