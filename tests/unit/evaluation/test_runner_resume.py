import io
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.benchmarks.base import Benchmark, Question
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.metrics.short import ExactMatch
from dragonfly_lit.evaluation.prompts import PromptBook, Template
from dragonfly_lit.evaluation.runner import Settings, run, score_predictions, weights_fingerprint
from dragonfly_lit.models.tiny import tiny_config, tiny_model, tiny_tokenizer
from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor

PROCESSOR = DragonflyProcessor(DragonflyImageProcessor.of(tiny_config().layout), tiny_tokenizer())
BOOK = PromptBook(name="released", default=Template(text="{question}"), templates={})
SETTINGS = Settings(prompts=BOOK, batch_tokens=1500, resamples=50, gallery=6, progress=False)


@dataclass(frozen=True, kw_only=True)
class Words(Benchmark):
    name: ClassVar[str] = "words"
    num: int = 17
    max_new_tokens: int = 3

    def locate(self, data_root) -> Path:
        return Path(data_root)

    def read(self, folder):
        draw = random.Random(0)
        for i in range(self.num):
            text = "".join(draw.choices("abcd", k=draw.randint(2, 12)))
            images = () if i % 5 == 4 else (picture(i // 3),)
            answers = ("yes",) if i % 2 else ("no",)
            yield Question(
                id=f"w{i}",
                task=self.name,
                text=text,
                images=images,
                references=answers,
                category=("even", "odd")[i % 2],
            )

    def metric(self, questions, judged=None):
        return ExactMatch(questions)


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3)


@pytest.fixture
def asked(monkeypatch):
    """Ids of the questions that reach the model."""
    seen: list[str] = []
    real = BatchGenerator.answer_batch

    def spy(self, batch, crops):
        seen.extend(item.request.id for item in batch.items)
        return real(self, batch, crops)

    monkeypatch.setattr(BatchGenerator, "answer_batch", spy)
    return seen


def go(out: Path, model, *, task: Benchmark | None = None, **changes):
    return run([task or Words()], model=model, processor=PROCESSOR, out=out, settings=replace(SETTINGS, **changes))


def timeless(out: Path) -> dict:
    results = json.loads((out / "results.json").read_text())
    return {name: value for name, value in results.items() if name != "times"}


def test_a_second_run_asks_nothing(tmp_path, model, asked):
    first = go(tmp_path, model)
    assert sorted(asked) == sorted(f"w{i}" for i in range(17))
    asked.clear()
    second = go(tmp_path, model)
    assert asked == []
    assert {**first, "times": None} == {**second, "times": None}


def test_a_run_whose_answers_are_all_there_says_so_and_draws_no_bar(tmp_path, model, capsys, caplog):
    go(tmp_path, model, progress=True)
    assert "17/17" in capsys.readouterr().out
    go(tmp_path, model, progress=True)
    assert "/0" not in capsys.readouterr().out
    assert "words: 17 answers are there, 0 to go." in caplog.text


@pytest.mark.parametrize("batches", [1, 2])
def test_a_run_that_was_killed_goes_on_and_ends_the_same(tmp_path, model, asked, batches, monkeypatch):
    go(tmp_path / "whole", model)
    asked.clear()
    real, left = store.append, [batches]

    def dies(path, answers):
        if not left[0]:
            with open(path, "a") as file:
                file.write('{"key": "torn", "outp')
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, answers)

    with monkeypatch.context() as patch:
        patch.setattr(store, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "killed", model)
    written = [a.id for a in store.read(tmp_path / "killed/answers/words.jsonl").values()]
    assert 0 < len(written) < 17
    asked.clear()
    go(tmp_path / "killed", model)
    assert sorted(asked + written) == sorted(f"w{i}" for i in range(17))
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")
    for file in ("answers/words.jsonl", "results.md"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_an_answer_torn_in_the_file_is_asked_again(tmp_path, model, asked):
    go(tmp_path, model)
    path = tmp_path / "answers/words.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    asked.clear()
    go(tmp_path, model)
    assert asked == ["w16"]


def test_a_broken_line_in_the_middle_is_named(tmp_path, model):
    go(tmp_path, model)
    path = tmp_path / "answers/words.jsonl"
    lines = path.read_text().split("\n")
    path.write_text("\n".join(["{", *lines]))
    with pytest.raises(ValueError, match=r"words.jsonl: line 1 is not an answer .* afresh"):
        go(tmp_path, model)


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": PromptBook(name="released", default=Template(text="{question} Answer:"), templates={})},
        {"max_new_tokens": 2},
        {"temperature": 0.5},
    ],
)
def test_a_changed_prompt_or_setting_starts_afresh(tmp_path, model, asked, change):
    go(tmp_path, model)
    asked.clear()
    go(tmp_path, model, **change)
    assert len(asked) == 17
    assert len(store.read(tmp_path / "answers/words.jsonl")) == 17


def test_a_changed_model_starts_afresh_and_a_changed_batch_does_not(tmp_path, model, asked):
    go(tmp_path, model)
    asked.clear()
    go(tmp_path, model, batch_tokens=400, resamples=60)
    assert asked == []
    go(tmp_path, tiny_model(seed=4))
    assert len(asked) == 17


def test_more_questions_ask_only_the_new_ones(tmp_path, model, asked):
    go(tmp_path, model, limit=10, task=Words(num=10))
    asked.clear()
    go(tmp_path, model)
    assert sorted(asked) == sorted(f"w{i}" for i in range(10, 17))


def test_the_fingerprint_is_of_the_weights(model):
    assert weights_fingerprint(model) == weights_fingerprint(tiny_model(seed=3))
    assert weights_fingerprint(model) != weights_fingerprint(tiny_model(seed=4))
    assert weights_fingerprint(model) != weights_fingerprint(tiny_model(seed=3, zoom={"top_k": 2}))


def test_scoring_the_answers_alone_gives_the_same_scores(tmp_path, model):
    whole = go(tmp_path / "run", model)
    alone = score_predictions(
        Words(), tmp_path / "run/answers/words.jsonl", tmp_path / "alone", settings=replace(SETTINGS)
    )
    assert alone["benchmarks"] == whole["benchmarks"]
    assert (tmp_path / "alone/report.html").is_file()


def predictions(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(**changes) -> list[dict]:
    return [{"id": f"w{i}", "prediction": "yes", **changes} for i in range(17)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (rows()[:-2], r"2 of 17 questions of words have no prediction, e.g. 'w15'"),
        ([*rows(), rows()[3]], r"id 'w3' appears twice"),
        ([*rows(), {"id": "x", "prediction": ""}], r"1 ids are not questions of words, e.g. 'x'"),
        ([{**row, "id": f"other{row['id']}"} for row in rows()], r"none of its 17 ids .* another benchmark"),
        (rows(task="pope"), r"prediction 'w0' is of the benchmark pope, not of words"),
        ([*rows()[:-1], {"id": "w16"}], r"prediction for 'w16' has no text"),
        ([*rows()[:-1], {"prediction": "yes"}], r"prediction 17 has no id"),
        ([], r"holds no prediction; words has 17 questions"),
    ],
)
def test_predictions_that_do_not_fit_are_named(tmp_path, given, message):
    path = predictions(tmp_path / "p.jsonl", given)
    with pytest.raises(ValueError, match=message):
        score_predictions(Words(), path, tmp_path / "out", settings=SETTINGS)


def test_an_empty_prediction_counts_and_is_said(tmp_path, caplog):
    given = [{**row, "prediction": ""} if i == 4 else row for i, row in enumerate(rows())]
    results = score_predictions(Words(), predictions(tmp_path / "p.jsonl", given), tmp_path / "out", settings=SETTINGS)
    assert results["benchmarks"]["words"]["num_empty"] == 1
    assert results["benchmarks"]["words"]["scores"]["accuracy"] == 8 / 17
    assert "1 predictions are empty" in caplog.text
    assert "'w4'" in caplog.text


def test_predictions_of_other_toolkits_are_read(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"question_id": f"w{i}", "text": "no"} for i in range(17)]))
    results = score_predictions(Words(), path, tmp_path / "out", settings=SETTINGS)
    assert results["benchmarks"]["words"]["scores"]["accuracy"] == 9 / 17


def test_results_name_prompt_parser_versions_and_model(tmp_path, model):
    results = go(tmp_path, model)
    entry = results["benchmarks"]["words"]
    assert entry["prompt"]["set"] == "released"
    assert entry["prompt"]["text"] == "{question}"
    assert entry["parser"] == "exact"
    assert {"dragonfly_lit", "torch", "transformers"} <= results["versions"].keys()
    assert results["model"] == weights_fingerprint(model)
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_a_setting_below_its_least_value_is_named():
    with pytest.raises(ValueError, match="batch_tokens=0: give at least 1"):
        replace(SETTINGS, batch_tokens=0)


@pytest.fixture
def scored(monkeypatch):
    """Ids of the questions whose outputs are scored."""
    seen: list[str] = []
    real = ExactMatch.score

    def spy(self, prediction, question):
        seen.append(question.id)
        return real(self, prediction, question)

    monkeypatch.setattr(ExactMatch, "score", spy)
    return seen


def test_each_output_is_scored_once(tmp_path, model, scored):
    everything = sorted(f"w{i}" for i in range(17))
    go(tmp_path / "run", model)
    assert sorted(scored) == everything
    scored.clear()
    go(tmp_path / "run", model)
    assert sorted(scored) == everything, "what an earlier run generated is scored once by this one"
    scored.clear()
    score_predictions(Words(), tmp_path / "run/answers/words.jsonl", tmp_path / "alone", settings=SETTINGS)
    assert sorted(scored) == everything
