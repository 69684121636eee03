"""Worked cases of the published rules that no package on the index can execute, and of our lenient ones."""

import math
from dataclasses import replace

import pytest
import torch

from dragonfly_lit.evaluation.metrics.choice import MMMU, MultipleChoice, ScienceQA
from dragonfly_lit.evaluation.metrics.judged import JudgeScore
from dragonfly_lit.evaluation.metrics.medical import (
    MedicalVQA,
    closed_answer,
    closed_llava_med,
    token_scores_llava_med,
    token_scores_squad,
)
from dragonfly_lit.evaluation.metrics.short import ExactMatch, RelaxedAccuracy, exact_match, relaxed_match
from dragonfly_lit.evaluation.metrics.vqa import VQAAccuracy, vqa_accuracy
from dragonfly_lit.evaluation.metrics.yes_no import MME, POPE, binary_scores
from dragonfly_lit.evaluation.question import Question


def ask(key="q", **fields) -> Question:
    return Question(**{"id": key, "task": "rules", "text": "?", "references": ("yes",), **fields})


def scored(metric, predictions):
    for prediction, question in zip(predictions, metric.questions, strict=True):
        metric.update(prediction, question)
    return metric.compute()


def test_white_space_at_the_ends_of_an_output_is_no_part_of_it_whatever_the_rule():
    question = ask()
    metric = RelaxedAccuracy([question])
    assert metric.score(" yes", question).score == 0, "the rule alone takes it as it is"
    assert [metric.read(output, question).score for output in ("\u00a0yes\n", "  yes\u2003", "ye s")] == [1, 1, 0]


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_by_the_number_of_people_who_agree(matches, accuracy):
    assert vqa_accuracy("Soup.", ["soup"] * matches + ["can"] * (10 - matches)) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("prediction", "target", "right"),
    [
        ("10.5", "10", True),
        ("10.51", "10", False),
        ("0.0", "0", False),
        ("0", "0", True),
        ("5", "5%", False),
        ("0.05", "5%", True),
        ("1,000", "1000", False),
        ("Yes.", "Yes", False),
        (" yes", "yes", False),
        ("YES", "yes", True),
        ("2010", "2011", True),
        ("nan", "nan", False),
        ("inf", "inf", False),
        ("5%%", "5%", True),
    ],
)
def test_relaxed_accuracy_of_worked_cases(prediction, target, right):
    assert relaxed_match(prediction, target) == right


@pytest.mark.parametrize(
    ("prediction", "target", "right"),
    [
        ("The answer is 1,000.", "1000", True),
        ("$5.0", "5", True),
        ("5", "5%", True),
        ("Yes.", "Yes", True),
        (" yes", "yes", True),
        ("**Blue**", "blue", True),
        ("6", "5%", False),
        ("Red", "blue", False),
        ("", "5", False),
    ],
)
def test_relaxed_accuracy_read_leniently(prediction, target, right):
    scores = scored(RelaxedAccuracy([ask(references=(target,))]), [prediction])
    assert scores["accuracy_lenient"] == right
    assert scores["num_empty"] == (prediction == "")


def test_relaxed_accuracy_is_also_by_part():
    parts = [ask(str(i), references=("5",), split="human" if i < 3 else "augmented") for i in range(4)]
    scores = scored(RelaxedAccuracy(parts), ["5", "5", "9", "5"])
    assert (scores["accuracy"], scores["accuracy/human"], scores["accuracy/augmented"]) == (0.75, 2 / 3, 1.0)


@pytest.mark.parametrize(
    ("prediction", "answer", "right"), [("Cat..", "cat", True), ("a cat", "cat", False), (" cat", "cat", False)]
)
def test_exact_match_of_llava(prediction, answer, right):
    assert exact_match(prediction, answer) == right
    assert scored(ExactMatch([ask(references=(answer,))]), [prediction])["accuracy_lenient"] == 1


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B", "B"),
        ("B. left", "B"),
        ("The answer is B.", "B"),
        ("So The answer is B because", "B"),
        ("b", None),
        ("B.", None),
        ("B)", None),
        ("(B)", None),
        ("The answer is B", None),
        ("E", None),
        ("", None),
        ("B\n", None),
        ("The answer is A. The answer is B.", None),
        ("The answer is D.", None),
    ],
)
def test_scienceqa_letters_by_llava(output, letter):
    question = ask(choices=("up", "left", "down"), references=("B",))
    score = ScienceQA([question]).score(output, question)
    assert (score.parsed, score.score) == (letter, float(letter == "B"))
    assert score.values["num_unparsed"] == (letter is None)


@pytest.mark.parametrize(("output", "right"), [("B", 1), ("B.", 1), ("B. x", 1), ("(B)", 1), ("The answer is B", 0)])
def test_ai2d_letters_by_lmms_eval(output, right):
    question = ask(choices=("up", "left"), references=("B",))
    assert MultipleChoice([question]).score(output, question).score == right


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no.", "no"),
        ("There is not", "no"),
        ("NO", "yes"),
        ("Yes. No", "yes"),
        ("", "yes"),
        ("No, there is", "no"),
        ("nothing", "yes"),
        ("isn't", "yes"),
        ("no\nyes", "yes"),
    ],
)
def test_pope_answers_by_its_own_rule(output, label):
    question = ask(references=(label,))
    assert POPE([question]).score(output, question).parsed == label


def test_pope_is_the_mean_of_its_splits_and_pooled_beside_it():
    golds = ["yes", "yes", "no", "no", "yes", "no"]
    splits = ["random"] * 4 + ["popular"] * 2
    questions = [ask(str(i), references=(g,), split=s) for i, (g, s) in enumerate(zip(golds, splits, strict=True))]
    scores = scored(POPE(questions), ["yes", "no", "yes", "no", "yes", "no"])
    assert scores["f1/random"] == pytest.approx(0.5)
    assert scores["f1/popular"] == 1
    assert scores["f1"] == pytest.approx(0.75)
    assert scores["f1_pooled"] == pytest.approx(2 / 3)
    assert scores["accuracy_pooled"] == pytest.approx(4 / 6)
    assert scores["yes_ratio"] == pytest.approx(0.5), "of the predictions"


@pytest.mark.parametrize("predictions", [[0.0] * 4, [1.0] * 4, [-1.0] * 4])
def test_no_ratio_of_pope_divides_by_zero(predictions):
    for golds in ([0.0] * 4, [1.0] * 4):
        assert all(math.isfinite(value) for value in binary_scores(predictions, golds).values())
    assert binary_scores([], []) == {"f1": 0, "accuracy": 0, "precision": 0, "recall": 0, "yes_ratio": 0}


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("Yes", "yes"),
        ("no way", "no"),
        ("Not sure", "no"),
        ("None", "no"),
        ("The answer is yes", None),
        ("y", None),
        (" yes", "yes"),
        ("    yes", None),
        ("", None),
        ("eyes", "yes"),
    ],
)
def test_mme_answers_by_its_own_rule(output, parsed):
    questions = [ask(str(i), category="count", meta={"pair": "1"}) for i in range(2)]
    assert MME(questions).score(output, questions[0]).parsed == parsed


def test_mme_points_of_worked_pairs():
    pairs = [("count", 0), ("count", 1), ("code_reasoning", 0)]
    questions = [
        ask(f"{task}{image}{i}", references=("Yes", "No")[i : i + 1], category=task, meta={"pair": str(image)})
        for task, image in pairs
        for i in range(2)
    ]
    scores = scored(MME(questions), ["yes", "no", "yes", "yes", "no", "no"])
    assert scores["score/count"] == pytest.approx(75 + 50)
    assert (scores["accuracy/count"], scores["accuracy_plus/count"]) == (0.75, 0.5)
    assert scores["score/code_reasoning"] == pytest.approx(50)
    assert (scores["perception"], scores["cognition"], scores["total"]) == (125, 50, 175)


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("(B)", "B"),
        ("A or rather (C).", "C"),
        ("It is B or C", "C"),
        ("B", "B"),
        ("DNA is the answer because", None),
        ("it must surely be the red fox here", "C"),
        ("red fox", None),
        ("none", None),
        ("", None),
        ("b", None),
    ],
)
def test_mmmu_letters_by_its_own_rule(output, letter):
    question = ask(choices=("dog", "cat", "red fox", "RNA"), references=("C",))
    score = MMMU([question]).score(output, question)
    assert score.parsed == letter
    assert score.values["num_unparsed"] == (letter is None), "no letter is drawn at random"


@pytest.mark.parametrize(
    ("output", "answer", "right"),
    [
        ("The answer is 0.333", "0.33", True),
        ("x = 1,000", "1000", True),
        ("so it is red", "red", True),
        ("it is blue", "red", False),
        ("12", "1", False),
        ("3.14159", "3.14", True),
        ("", "5", False),
    ],
)
def test_mmmu_open_answers_of_worked_cases(output, answer, right):
    question = ask(references=(answer,))
    assert MMMU([question]).score(output, question).score == right


@pytest.mark.parametrize(
    ("prediction", "answer", "llava_med", "strict"),
    [
        ("normal", "no", True, False),
        ("left", "left", False, True),
        ("yes and no", "no", True, False),
        ("Yes, it is.", "yes", True, True),
        ("it is, yes", "yes", True, False),
        ("No", "yes", False, False),
        ("", "no", False, False),
        ("the left", "Left", False, True),
    ],
)
def test_closed_answers_by_both_rules(prediction, answer, llava_med, strict):
    assert closed_llava_med(prediction, answer) == llava_med
    assert (closed_answer(prediction, answer) == answer.lower()) == strict


def test_token_scores_by_both_conventions():
    f1, _, recall = token_scores_llava_med("left left left", "left lung")
    assert (f1, recall) == pytest.approx((6 / 7, 3 / 4))
    f1, precision, recall = token_scores_squad("left left left", "left lung")
    assert (f1, precision, recall) == pytest.approx((0.4, 1 / 3, 1 / 2))
    assert token_scores_llava_med("no", "none") == (0, 0, 0), "none is the number 0"
    assert token_scores_squad("The left lung!", "left lung") == (1, 1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_token_f1_is_that_of_torchmetrics_squad(seed):
    import random

    from torchmetrics.functional.text import squad

    draw = random.Random(seed)
    vocabulary = ["left", "the", "Lung,", "lobe", "a", "of", "no", "mass.", "x-ray", ""]
    for _ in range(60):
        prediction, answer = (" ".join(draw.choices(vocabulary, k=draw.randint(0, 6))) for _ in range(2))
        theirs = squad(
            [{"prediction_text": prediction, "id": "1"}],
            [{"answers": {"answer_start": [0], "text": [answer]}, "id": "1"}],
        )
        assert 100 * token_scores_squad(prediction, answer)[0] == pytest.approx(float(theirs["f1"]), abs=1e-4)


def test_medical_scores_keep_closed_and_open_apart():
    questions = [
        ask("c", references=("no",), meta={"answer_type": "closed"}),
        ask("o", references=("left lung",), meta={"answer_type": "open"}),
    ]
    scores = scored(MedicalVQA(questions), ["No.", "left"])
    assert scores["closed_accuracy_llava_med"] == 1
    assert scores["open_f1_squad"] == pytest.approx(2 / 3)
    assert scores["open_recall_llava_med"] == pytest.approx(1 / 2)
    assert "accuracy_lmms_eval" not in scores, "only SLAKE has that rule"


def test_where_no_question_is_closed_a_table_shows_the_score_of_the_open_ones():
    opened = ask("o", references=("nein",), meta={"answer_type": "open"})
    assert MedicalVQA([opened]).headline == "open_f1_squad"
    assert MedicalVQA([opened, replace(opened, id="c", meta={"answer_type": "closed"})]).headline == "closed_accuracy"


def test_judged_scores_are_by_capability_and_by_combination():
    needs = ["math+ocr", "ocr", "ocr"]
    questions = [ask(str(i), category=need) for i, need in enumerate(needs)]
    scores = scored(JudgeScore(questions, {"0": 1.0, "1": 0.5, "2": 0}), ["a", "b", ""])
    assert scores["score"] == 0.5
    assert scores["score/ocr"] == 0.5
    assert scores["score/math"] == scores["score/math+ocr"] == 1
    with pytest.raises(ValueError, match="1 of 3 answers have no judge's score: '2'"):
        JudgeScore(questions, {"0": 1.0, "1": 0.5})
    with pytest.raises(ValueError, match=r"score of question '2' is 7; it must lie in 0\.\.1"):
        JudgeScore(questions, {"0": 1.0, "1": 0.5, "2": 7})


def test_ranks_add_up_to_one_process_exactly():
    questions = [ask(str(i), references=("a",) * 5 + ("b",) * 5, split="even" if i % 2 else "odd") for i in range(11)]
    predictions = [["a", "b", "c", ""][i % 4] for i in range(11)]
    whole = scored(VQAAccuracy(questions), predictions)
    ranks = [VQAAccuracy(questions) for _ in range(3)]
    for i in (7, 3, 10, 0, 5, 1, 9, 2, 8, 4, 6):
        ranks[i % 3].update(predictions[i], questions[i])
    merged = VQAAccuracy(questions)
    merged.seen = torch.stack([rank.seen for rank in ranks]).sum(0)
    merged.values = torch.stack([rank.values for rank in ranks]).sum(0)
    assert merged.compute() == whole


def test_a_question_is_scored_once_and_none_is_left_out():
    questions = [ask("first"), ask("second")]
    metric = ExactMatch(questions)
    metric.update("yes", questions[0])
    with pytest.raises(ValueError, match="'first' was scored before"):
        metric.update("no", questions[0])
    with pytest.raises(ValueError, match="1 of 2 questions have no answer: 'second'"):
        metric.compute()
    with pytest.raises(ValueError, match="'third' is not one of the 2 questions"):
        metric.update("no", ask("third"))


@pytest.mark.parametrize("prediction", ["", " ", "\n"])
def test_an_empty_prediction_is_wrong_and_counted(prediction):
    for metric, count in (
        (ExactMatch([ask()]), "num_empty"),
        (VQAAccuracy([ask(references=("yes",) * 10)]), "num_empty"),
    ):
        scores = scored(metric, [prediction])
        assert scores["accuracy"] == 0
        assert scores[count] == 1


def test_an_answer_that_is_not_a_letter_needs_its_choices():
    with pytest.raises(ValueError, match=r"the answer \('red',\) and no choices; letters are scored here"):
        MultipleChoice([ask("1", references=("red",))])
    MultipleChoice([ask("1", references=("B",))])  # the question's own text has them
