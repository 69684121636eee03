"""A benchmark and a metric of one's own, from a copy of `examples/`, through `evaluate.py` from end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from limits import patient
from users_folder import copy_examples

from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor

pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder: the examples, and a tiny model."""
    copied = copy_examples(tmp_path_factory.mktemp("user"))
    model = tiny_model(seed=3)
    model.save_pretrained(copied / "model")
    processor = DragonflyProcessor(DragonflyImageProcessor.of(model.config.layout), tiny_tokenizer())
    processor.save_pretrained(copied / "model")
    return copied


def evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "evaluate.py"), *arguments, "device=cpu", "resamples=20", "gallery=2"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=patient(300))


def entry(folder: Path, name: str) -> dict:
    return json.loads((folder / "results.json").read_text())["benchmarks"][name]


def test_a_benchmark_of_ones_own_is_one_python_file_and_one_yaml(folder):
    own = ("--config-dir", "conf", "benchmark=digits", "benchmark.limit=6")
    done = evaluate(folder, *own, "checkpoint=model", "out=scored")
    assert done.returncode == 0, done.stderr
    found = entry(folder / "scored", "digits")
    assert (found["num_questions"], found["headline"], found["metric"]) == (6, "accuracy", "ExactMatch")
    assert found["prompt"]["text"] == "{question}\nAnswer with one digit."
    assert set(found["groups"]["category"]) == {"even", "odd"}
    answers = [json.loads(line) for line in (folder / "scored/answers/digits.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [f"digit-{number:04d}" for number in range(6)]
    assert len({answer["images"][0] for answer in answers}) == 6

    rows = [{"id": answer["id"], "prediction": str(number)} for number, answer in enumerate(answers)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = evaluate(folder, *own, "predictions=p.jsonl", "out=alone")
    assert done.returncode == 0, done.stderr
    assert entry(folder / "alone", "digits")["scores"]["accuracy"] == 1, "the first ten digits come in order"


@pytest.mark.parametrize(
    ("metric", "closeness"),
    [("my_parts.metric.Closeness", 0.75), ("{_target_: my_parts.metric.Closeness, _partial_: true, width: 5}", 0.5)],
)
def test_a_metric_of_ones_own_scores_a_set_of_ones_own(folder, metric, closeness):
    rows = [{"id": i, "question": "How many birds?", "answer": 10, "split": "ab"[i % 2]} for i in range(2)]
    (folder / "birds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictions = [{"id": 0, "prediction": "I see 10."}, {"id": 1, "prediction": "5"}]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
    own = ("benchmark=my_set", "benchmark.manifest=birds.jsonl", f"benchmark.metric={metric}")
    done = evaluate(folder, *own, "predictions=b.jsonl", "out=birds")
    assert done.returncode == 0, done.stderr
    found = entry(folder / "birds", "my_set")
    assert (found["headline"], found["metric"]) == ("closeness", "Closeness")
    assert found["scores"]["closeness"] == closeness
    assert found["scores"]["distance"] == 2.5
    assert found["scores"]["closeness/a"] == 1


def test_a_metric_that_is_not_there_is_one_line(folder):
    own = ("benchmark=my_set", "benchmark.manifest=birds.jsonl", "predictions=b.jsonl", "out=gone")
    for metric, message in (
        ("my_parts.metric.Closenes", "my_parts.metric has no class Closenes"),
        ("my_parts.benchmark.Digits", "my_parts.benchmark.Digits is not a subclass of "),
    ):
        done = evaluate(folder, *own, f"benchmark.metric={metric}")
        assert done.returncode == 1
        assert done.stderr.startswith("error: benchmark.metric: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
