"""The gold answers as predictions give the top score of every accuracy of every benchmark, or a reason stands here."""

import pytest
from test_tasks_layouts import LAYOUTS, cell, ids, parquet, slake_original

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.metrics.medical import MedicalVQA
from dragonfly_lit.evaluation.prompts import PromptBook, Template
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.scores import Scorer
from dragonfly_lit.evaluation.settings import Settings

SETTINGS = Settings(prompts=PromptBook(name="none", default=Template(text="{question}")))
EXCEPTIONS = {
    ("mm_vet", "score"): "a judge scores it, so there is no rule that the gold answers could satisfy",
    ("slake", "closed_accuracy_llava_med"): "LLaVA-Med's released rule wants a yes or no in every output",
    ("vqa_rad", "closed_accuracy_llava_med"): "likewise",
}
"""By benchmark and score. People who disagree (VQA accuracy) are no exception here: the miniatures' people agree."""
DRAWN = "written by data_prep, whose own test scores them"
WITHOUT_MINIATURE = {"easy_vqa": "read whole below", "probes": DRAWN, "pages": DRAWN}


def gold_scores(name, root, options):
    benchmark = BENCHMARKS[name](**options)
    questions = benchmark.questions(root)
    metric = benchmark.metric(questions, {q.id: 0.5 for q in questions} if benchmark.judged else None)
    for question in questions:
        metric.update(question.references[0], question)
    return metric, metric.compute()


def check(name, metric, scores):
    tops = {score: metric.top(score) for score in scores}
    assert tops[metric.headline] is not None, "a headline claims to be an accuracy"
    for score, top in tops.items():
        if top is not None and (name, score.partition("/")[0]) not in EXCEPTIONS:
            assert scores[score] == pytest.approx(top), score


def test_every_benchmark_has_a_miniature():
    assert {name for name, _ in LAYOUTS} | set(WITHOUT_MINIATURE) == set(BENCHMARKS)


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_the_gold_answers_give_the_top_score(tmp_path, name, make):
    options, _, _ = make(tmp_path / name)
    check(name, *gold_scores(name, tmp_path, options))


def test_the_gold_answers_of_the_demo_give_the_top_score(tmp_path):
    check("easy_vqa", *gold_scores("easy_vqa", tmp_path, {}))


def closed(*golds: str) -> list[Question]:
    meta = {"answer_type": "closed"}
    return [Question(id=str(i), task="t", text="?", references=(gold,), meta=meta) for i, gold in enumerate(golds)]


def test_what_the_data_calls_closed_need_not_be_about_yes_and_no():
    golds = ["Yes", "no", "Lung", "T2", "Left", "Coronal plane", "是", "A"]
    metric = MedicalVQA(closed(*golds))
    for question in metric.questions:
        metric.update(question.references[0], question)
    scores = metric.compute()
    assert scores["closed_accuracy"] == scores["closed_accuracy_strict"] == 1
    assert scores["closed_accuracy_llava_med"] == 2 / 8, "the released rule, as it is"


@pytest.mark.parametrize(
    ("said", "gold", "right"),
    [
        ("It is the left lung.", "Left lung", True),
        ("lung, left", "Left lung", False),
        ("leftover", "left", False),
        ("不是", "是", False),
        ("", "A", False),
        ("normal", "no", True),
        ("The image shows no mass", "yes", False),
    ],
)
def test_a_closed_answer_is_among_the_words_of_the_output(said, gold, right):
    metric = MedicalVQA(closed(gold))
    metric.update(said, metric.questions[0])
    assert metric.compute()["closed_accuracy"] == right


def test_both_rules_of_slake_stand_beside_each_other(tmp_path):
    slake_original(tmp_path / "slake")
    benchmark = BENCHMARKS["slake"]()
    assert benchmark.headline == "closed_accuracy"
    shown = [row for row in benchmark.published if row.metric == "closed_accuracy"]
    assert {row.value for row in shown} == {83.2, 84.8, 91.6, 90.4}
    assert all("of all closed questions" in row.note and "85.34" in row.note for row in shown)


def test_the_answer_types_of_a_parquet_copy_are_read(tmp_path):
    rows = [
        {"image": cell(i), "question": f"q{i}?", "answer": answer, "answer_type": kind, "q_lang": language}
        for i, (answer, kind, language) in enumerate(
            [("Yes", "CLOSED", "en"), ("Left", "CLOSED", "en"), ("Lung", "OPEN", "en"), ("是", "CLOSED", "zh")]
        )
    ]
    parquet(tmp_path / "slake/data/test-00000-of-00001.parquet", rows)
    kinds = {
        language: [q.meta["answer_type"] for q in BENCHMARKS["slake"](language=language).questions(tmp_path)]
        for language in ("en", "zh", "all")
    }
    assert kinds == {
        "en": ["closed", "closed", "open"],
        "zh": ["closed"],
        "all": ["closed", "closed", "open", "closed"],
    }


@pytest.mark.parametrize("name", ["gqa", "chartqa", "ai2d", "textvqa", "mme", "pope", "slake", "mmmu", "scienceqa"])
def test_white_space_at_the_ends_goes_before_any_rule(tmp_path, name):
    make = next(make for other, make in LAYOUTS if other == name)
    options, _, _ = make(tmp_path / name)
    benchmark = BENCHMARKS[name](**options)
    questions = benchmark.questions(tmp_path)
    for question in questions:
        gold = question.references[0]
        marks = []
        for output in (gold, f"\u00a0{gold}\u2028 \n", f"\t {gold}\u00a0"):
            answer = Answer(key=output, id=question.id, task=name, prompt="", output=output)
            marks.append(Scorer.of(benchmark, questions, SETTINGS).scored([answer])[0])
        assert len({(one.answer, one.score, one.lenient_answer, one.lenient_score) for one in marks}) == 1, gold
