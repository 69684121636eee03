import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.compare import compare, difference, main
from dragonfly_lit.evaluation.intervals import Resamples, interval

DRAW = np.random.default_rng(0)


def answers(scores, prefix="q", per_image=1) -> list[Answer]:
    return [
        Answer(
            key=f"k{i}",
            id=f"{prefix}{i}",
            task="t",
            prompt="?",
            output="x",
            score=float(s),
            images=[str(i // per_image)],
        )
        for i, s in enumerate(scores)
    ]


def write_run(folder: Path, marked: list[Answer], **changes) -> Path:
    (folder / "answers").mkdir(parents=True)
    store.replace(folder / "answers/t.jsonl", marked)
    accuracy = math.fsum(a.score or 0.0 for a in marked) / len(marked)
    entry = {
        "benchmark": "t",
        "split": "test",
        "headline": "accuracy",
        "scale": 100.0,
        "scores": {"accuracy": accuracy},
        "intervals": {"accuracy": [0.1, 0.9]},
        "answers": "answers/t.jsonl",
        "prompt": {"text": "{question}"},
        "parser": "exact",
        "data": "same",
        "published": [{"model": "Dragonfly v1", "metric": "accuracy", "value": 63.6, "source": "a post", "note": ""}],
    } | changes
    (folder / "results.json").write_text(json.dumps({"benchmarks": {entry["benchmark"]: entry}}))
    return folder


def test_a_difference_is_paired_by_id_and_not_by_place():
    first, second = answers([0, 1, 1, 0]), answers([1, 1, 1, 0])
    found = difference(first, second[::-1])
    assert found is not None
    assert (found["difference"], found["num_better"], found["num_worse"], found["num_shared"]) == (0.25, 1, 0, 4)


def test_only_shared_ids_count():
    found = difference(answers([0, 1, 1]), [*answers([1, 1]), *answers([1] * 9, prefix="other")])
    assert found is not None
    assert (found["num_shared"], found["difference"]) == (2, 0.5)
    assert difference(answers([1]), answers([1], prefix="other")) is None


def test_a_paired_interval_is_narrower_than_that_of_two_unpaired_runs():
    first = DRAW.random(400) < 0.5
    second = np.where(DRAW.random(400) < 0.05, ~first, first)
    found = difference(answers(first), answers(second))
    assert found is not None
    low, high = found["interval"]
    assert high - low < 0.06 < 4 * math.sqrt(2 * 0.25 / 400)
    assert low <= found["difference"] <= high


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = DRAW.random(2000)
    low, high = interval(Resamples(range(2000), num=4000).means(values)) or (0, 0)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_questions_about_one_image_are_drawn_together():
    values = np.repeat(DRAW.random(100), 10)
    alone = interval(Resamples(range(1000)).means(values)) or (0, 0)
    together = interval(Resamples([i // 10 for i in range(1000)]).means(values)) or (0, 0)
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])


def test_runs_stand_beside_published_rows(tmp_path, capsys):
    a = write_run(tmp_path / "runs/small/evaluation", answers(DRAW.random(50) < 0.3))
    b = write_run(tmp_path / "runs/large/evaluation", answers(np.ones(50)))
    main([str(a / "results.json"), str(b), "--json", str(tmp_path / "c.json")])
    said = capsys.readouterr().out
    for text in ("small", "large", "Dragonfly v1", "63.6", "100.00", "Paired differences"):
        assert text in said
    compared = json.loads((tmp_path / "c.json").read_text())
    assert compared["runs"] == ["small", "large"]
    (row,) = compared["differences"]
    assert row["difference"] > 0.5
    assert row["interval"][0] > 0


def test_what_keeps_runs_from_being_comparable_is_said(tmp_path):
    a = write_run(tmp_path / "a", answers([1, 0]))
    b = write_run(tmp_path / "b", answers([1, 1]), data="other", prompt={"text": "{question}\nShort."})
    notes = compare([a, b])["notes"]
    assert notes == ["t: the runs have different prompts.", "t: the runs have different questions, images or answers."]


def test_runs_that_cannot_be_compared_are_named(tmp_path):
    a = write_run(tmp_path / "a", answers([1, 0]))
    with pytest.raises(ValueError, match=r"b/results.json does not exist"):
        compare([a, tmp_path / "b/results.json"])
    other = write_run(tmp_path / "other", answers([1, 0]), benchmark="u")
    with pytest.raises(ValueError, match="no benchmark in common"):
        compare([a, other])
    with pytest.raises(ValueError, match="--names x: give 2 different names"):
        compare([a, a], names=["x"])
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(ValueError, match=r"bad.json is not a results file"):
        compare([tmp_path / "bad.json", a])
    (a / "answers/t.jsonl").unlink()
    b = write_run(tmp_path / "b", answers([1, 0]))
    with pytest.raises(ValueError, match=r"t.jsonl is missing; paired differences need the answers"):
        compare([a, b])


def test_an_answer_without_a_score_is_not_compared():
    first = answers([1, 0, 1])
    second = [replace(first[0], score=None), *first[1:]]
    found = difference(first, second)
    assert found is not None
    assert found["num_shared"] == 2
