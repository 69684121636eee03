"""Several draws a question, and every rotation of its choices: worked cases, and the same bytes after kills."""

import json
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import pytest
from test_runner_resume import SETTINGS, Words, asked, go, model, picture, predictions, timeless  # noqa: F401

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.asking import all_right, asks, majority, pass_at, rotated
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.metrics.base import Score
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.runner import score_predictions


@dataclass(frozen=True, kw_only=True)
class Choices(Words):
    metric_type: ClassVar = MultipleChoice

    def read(self, folder):
        for row, question in enumerate(super().read(folder)):
            yield replace(question, choices=("red", "blue", "green"), references=("ABC"[row % 3],))

    def metric(self, questions, judged=None):
        return MultipleChoice(questions)


def marked(*scores: float, parsed=None) -> list[Score]:
    said = parsed or [str(score) for score in scores]
    return [
        Score(parsed=read, score=score, lenient_parsed=read, lenient_score=score, values={"accuracy": score})
        for read, score in zip(said, scores, strict=True)
    ]


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_choices_of_k_draws_with_a_right_one(right, k):
    scores = marked(*[1.0] * right, *[0.0] * (5 - right))
    subsets = [any(score.score for score in subset) for subset in combinations(scores, k)]
    assert pass_at(k, scores) == pytest.approx(sum(subsets) / len(subsets))


def test_the_majority_is_of_what_was_read():
    assert majority(marked(0, 1, 1, parsed=["cat", "dog", "dog"])) == 1
    assert majority(marked(1, 0, parsed=["dog", "cat"])) == 1, "the first of equals"
    assert majority(marked(0, 0, 1, parsed=[None, None, "dog"])) == 1, "what could not be read has no vote"
    assert majority(marked(0, 0, parsed=[None, None])) == 0


def test_rotations_move_the_letter_of_the_answer():
    question = Question(id="q", task="t", text="?", choices=("w", "x", "y"), references=("B",))
    turned = [rotated(question, by) for by in range(3)]
    assert [one.choices for one in turned] == [("w", "x", "y"), ("x", "y", "w"), ("y", "w", "x")]
    assert [one.references for one in turned] == [("B",), ("A",), ("C",)]
    assert all(one.choices["ABC".index(one.references[0])] == "x" for one in turned)


def test_a_question_is_right_only_when_all_its_rotations_are():
    assert all_right(marked(1, 1, 0)).score == 0
    assert all_right(marked(1, 1, 1)).values == {"accuracy": 1}
    unread = replace(marked(0)[0], values={"accuracy": 0.0, "num_unparsed": 1.0})
    read = replace(marked(1)[0], values={"accuracy": 1.0, "num_unparsed": 0.0})
    assert all_right([read, unread]).values == {"accuracy": 0, "num_unparsed": 1}


def circular(tmp_path, said):
    benchmark = Choices(circular=True)
    wanted = asks(benchmark, benchmark.questions(tmp_path), SETTINGS)
    given = [{"id": a.question.id, "turn": a.turn, "prediction": said(a.question)} for a in wanted]
    path = predictions(tmp_path / "p.jsonl", given)
    return score_predictions(benchmark, path, tmp_path / "out", settings=SETTINGS)["benchmarks"]["words"]


def test_always_the_first_letter_gets_nothing_in_circular_evaluation(tmp_path):
    entry = circular(tmp_path, lambda question: "A")
    assert entry["scores"]["accuracy"] == 0
    assert entry["unparsed"]["official"] == 0
    assert entry["asked"] == {"draws": 1, "circular": True}
    entry = circular(tmp_path, lambda question: question.references[0])
    assert entry["scores"]["accuracy"] == 1
    assert len((tmp_path / "out/answers/words.jsonl").read_text().splitlines()) == 17 * 3


def test_draws_give_means_pass_at_k_and_the_vote(tmp_path):
    settings = replace(SETTINGS, temperature=0.7, draws=3)
    gold = {question.id: question.references[0] for question in Words().questions(tmp_path)}
    given = [
        {"id": key, "turn": turn, "prediction": answer if turn < (2 if key == "w0" else 1) else "maybe"}
        for key, answer in gold.items()
        for turn in range(3)
    ]
    path = predictions(tmp_path / "p.jsonl", given)
    entry = score_predictions(Words(), path, tmp_path / "out", settings=settings)["benchmarks"]["words"]
    assert entry["scores"]["accuracy"] == pytest.approx((16 / 3 + 2 / 3) / 17)
    assert entry["scores"]["pass@1"] == pytest.approx(entry["scores"]["accuracy"])
    assert entry["scores"]["pass@3"] == 1
    assert entry["scores"]["pass@2"] == pytest.approx((16 * 2 / 3 + 1) / 17)
    assert entry["scores"]["majority"] == 1 / 17
    assert entry["intervals"]["pass@3"][0] < 1
    assert "pass@3" in entry["wilson"]


@pytest.mark.parametrize("way", ["circular", "draws"])
def test_a_kill_changes_no_byte_whichever_way_is_asked(tmp_path, model, asked, monkeypatch, way):  # noqa: F811
    task = Choices(circular=True, num=7) if way == "circular" else Words(num=7)
    changes = {"task": task} | ({} if way == "circular" else {"temperature": 0.7, "draws": 3})
    go(tmp_path / "whole", model, **changes)
    assert len(asked) == 21
    real, left = store.append, [1]

    def dies(path, answers):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, answers)

    with monkeypatch.context() as patch:
        patch.setattr(store, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "killed", model, **changes, batch_tokens=900)
    asked.clear()
    go(tmp_path / "killed", model, **changes)
    assert 0 < len(asked) < 21
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")
    for file in ("answers/words.jsonl", "results.md"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_draws_differ_and_the_first_is_that_of_a_single_one(tmp_path, model, asked):  # noqa: F811
    go(tmp_path, model, temperature=3.0)
    alone = [a.output for a in store.read(tmp_path / "answers/words.jsonl").values()]
    asked.clear()
    go(tmp_path, model, temperature=3.0, draws=4)
    lines = [json.loads(line) for line in (tmp_path / "answers/words.jsonl").read_text().splitlines()]
    assert len(asked) == 17 * 3, "the first draw is there already"
    assert [line["output"] for line in lines if line["turn"] == 0] == alone
    assert len({line["output"] for line in lines if line["id"] == "w1"}) > 1


@pytest.mark.parametrize(
    ("benchmark", "changes", "message"),
    [
        (Words(circular=True), {}, "circular=true: the questions of words have no choices"),
        (Choices(circular=True), {"temperature": 1.0, "draws": 2}, r"sampling.n=2: words is asked in every rotation"),
        (BENCHMARKS["mm_vet"](), {"temperature": 1.0, "draws": 2}, r"sampling.n=2: a judge scores mm_vet"),
    ],
)
def test_what_cannot_be_asked_like_that_is_named(tmp_path, benchmark, changes, message):
    questions = [] if benchmark.judged else benchmark.questions(tmp_path)
    with pytest.raises(ValueError, match=message):
        asks(benchmark, questions, replace(SETTINGS, **changes))


def test_draws_need_a_temperature():
    with pytest.raises(ValueError, match=r"sampling\.n=3: the likeliest answer is always the same"):
        replace(SETTINGS, draws=3)
