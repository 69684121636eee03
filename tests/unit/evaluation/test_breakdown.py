"""Scores by image size, and by the size and the crop of the asked object; selection recall on real questions."""

import math

import pytest

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.breakdown import groups
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.selection import crop_of, found, selection_recall


def pair(key, score, *, size=None, boxes=None, kept=None, category="c"):
    meta = {} if boxes is None else {"boxes": boxes}
    question = Question(id=key, task="t", text="?", references=("A",), category=category, meta=meta)
    zoom = None if kept is None else [{"medium": [1, 1], "high": [4, 2], "kept": kept, "scores": None}]
    sizes = None if size is None else [list(size)]
    answer = Answer(
        key=key, id=key, task="t", prompt="?", output="A", score=score, lenient_score=score, sizes=sizes, zoom=zoom
    )
    return question, answer


def broken(*pairs):
    questions, answers = zip(*pairs, strict=True)
    return groups(questions, answers)


def test_questions_are_grouped_by_the_size_of_their_image_smallest_first():
    found = broken(
        pair("a", 1.0, size=(8000, 4000)),
        pair("b", 0.0, size=(1000, 1000)),
        pair("c", 1.0, size=(1000, 1000)),
        pair("d", 1.0, size=(400, 400)),
        pair("e", 0.0),
    )
    sizes = found["image_size"]
    assert [*sizes] == ["under 0.25 MP", "1 to 2 MP", "32 MP and more", "(unknown)"]
    assert {name: (group["num_questions"], group["score"]) for name, group in sizes.items()} == {
        "under 0.25 MP": (1, 1.0),
        "1 to 2 MP": (2, 0.5),
        "32 MP and more": (1, 1.0),
        "(unknown)": (1, 0.0),
    }
    assert "category" not in found, "one category is no breakdown"
    assert "object_size" not in found, "no question has boxes"


def test_one_size_of_all_images_is_said_too():
    assert [*broken(pair("a", 1.0, size=(600, 600)))["image_size"]] == ["0.25 to 0.5 MP"]


def test_several_images_count_by_the_largest():
    question, answer = pair("a", 1.0)
    answer.__dict__["sizes"] = [[100, 100], [3000, 3000]]
    assert [*groups([question], [answer])["image_size"]] == ["8 to 16 MP"]


def test_questions_are_grouped_by_the_size_of_the_smallest_asked_object():
    big, small = [0, 0, 500, 500], [0, 0, 10, 10]
    found = broken(
        pair("a", 1.0, size=(1000, 1000), boxes=[big]),
        pair("b", 0.0, size=(1000, 1000), boxes=[big, small]),
        pair("c", 1.0, size=(2000, 500), boxes=[[0, 0, 30, 30]]),
        pair("d", 1.0, size=(2000, 500)),
    )
    assert {name: group["num_questions"] for name, group in found["object_size"].items()} == {
        "1 to 2%": 1,
        "2 to 4%": 1,
        "16% and more": 1,
        "(unknown)": 1,
    }


def test_an_object_lies_in_a_crop_of_the_stretched_image():
    # A canvas of 2000 x 500 as 4 x 2 crops: each is 500 x 250 pixels of it.
    assert crop_of([1600, 300, 1700, 400], (2000, 500), 4, 2) == 7
    assert crop_of([0, 0, 10, 10], (2000, 500), 4, 2) == 0
    assert crop_of([450, 0, 560, 100], (2000, 500), 4, 2) == 1, "most of it is in the second"
    assert crop_of([10, 10, 20, 20], 100.0, 2, 2) == crop_of([10, 10, 20, 20], (100, 100), 2, 2)


def test_the_recall_of_a_question_about_two_objects_is_the_share_that_was_found():
    first, last = [0, 0, 10, 10], [1600, 300, 1700, 400]
    for kept, share in (([0, 7], 1.0), ([0, 1], 0.5), ([2, 3], 0.0)):
        question, answer = pair("a", 1.0, size=(2000, 500), boxes=[first, last], kept=kept)
        assert found(question, answer) == (share, 2 / 8)
    assert all(map(math.isnan, found(*pair("a", 1.0, size=(2000, 500), kept=[0])))), "no boxes"
    assert all(map(math.isnan, found(*pair("a", 1.0, boxes=[first], kept=[0])))), "no size"
    assert all(map(math.isnan, found(*pair("a", 1.0, size=(9, 9), boxes=[first])))), "nothing selected"


def test_questions_are_grouped_by_whether_the_crops_of_their_objects_were_selected():
    first, last = [0, 0, 10, 10], [1600, 300, 1700, 400]
    pairs = [
        pair(str(number), float(kept == [0, 7]), size=(2000, 500), boxes=[first, last], kept=kept)
        for number, kept in enumerate([[0, 7], [0, 1], [2, 3], [7, 0]])
    ]
    found = broken(*pairs)["object_crop"]
    assert {name: (group["num_questions"], group["score"]) for name, group in found.items()} == {
        "all selected": (2, 0.5),
        "some selected": (1, 0.0),
        "none selected": (1, 0.0),
    }
    questions, answers = zip(*pairs, strict=True)
    recall = selection_recall(questions, answers, resamples=50)
    assert recall["recall"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert recall["random"] == 0.25
    assert recall["num_questions"] == 4


def test_probes_keep_their_square_canvas():
    meta = {"box": [90, 90, 95, 95], "side": 100, "size": 0.05}
    question = Question(id="p", task="probes", text="?", references=("A",), meta=meta)
    _, answer = pair("p", 1.0, size=(7, 9), kept=[7])
    assert found(question, answer) == (1.0, 1 / 8)
