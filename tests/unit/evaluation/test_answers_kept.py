"""Answers are expensive: none is lost, whatever is asked next; limited runs say so; no interval is a point."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console
from test_runner_resume import PROCESSOR, SETTINGS, Words, asked, go, model, picture, predictions, rows  # noqa: F401

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation.benchmarks.base import Suite
from dragonfly_lit.evaluation.benchmarks.manifest import manifest
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.compare import compare, difference, scores_table
from dragonfly_lit.evaluation.folders import other_answers, results_name
from dragonfly_lit.evaluation.intervals import Resamples, intervals, wilson
from dragonfly_lit.evaluation.judge import Judge
from dragonfly_lit.evaluation.metrics.base import Scoring
from dragonfly_lit.evaluation.metrics.yes_no import MME, PERCEPTION, POPE
from dragonfly_lit.evaluation.prompts import SETS, PromptBook, Template
from dragonfly_lit.evaluation.published import PublishedRow
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.report import markdown, table
from dragonfly_lit.evaluation.runner import run, score_predictions

OTHER = PromptBook(name="other", default=Template(text="Say: {question}"), templates={})
NAMED = replace(SETTINGS, prompts=PromptBook(name="released", default=SETS["released"]))


def everything(folder: Path) -> int:
    return len(store.known(folder / "answers", "words"))


def test_a_limit_another_prompt_and_the_way_back_ask_nothing_twice(tmp_path, model, asked):  # noqa: F811
    go(tmp_path, model)
    whole = (tmp_path / "answers/words.jsonl").read_bytes()
    asked.clear()
    go(tmp_path, model, limit=5)
    assert asked == []
    assert len(store.read(tmp_path / "answers/words.jsonl")) == 5
    assert everything(tmp_path) == 17
    go(tmp_path, model, prompts=OTHER)
    assert len(asked) == 17
    assert everything(tmp_path) == 34
    asked.clear()
    go(tmp_path, model)
    go(tmp_path, model, prompts=OTHER)
    go(tmp_path, model)
    assert asked == []
    assert everything(tmp_path) == 34
    assert (tmp_path / "answers/words.jsonl").read_bytes() == whole


def test_a_kill_while_answers_are_put_in_order_loses_none(tmp_path, model, asked, monkeypatch):  # noqa: F811
    go(tmp_path, model)
    for number in (1, 2):
        real, left = store.replace, [number]

        def dies(path, answers, real=real, left=left):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            real(path, answers)

        with monkeypatch.context() as patch:
            patch.setattr(store, "replace", dies)
            with pytest.raises(KeyboardInterrupt):
                go(tmp_path, model, prompts=OTHER)
        assert everything(tmp_path) == 34
    asked.clear()
    go(tmp_path, model, prompts=OTHER)
    go(tmp_path, model)
    assert asked == []


def test_evaluations_beside_each_other_share_their_answers(tmp_path, model, asked):  # noqa: F811
    def into(name, **changes):
        run(
            [Words()],
            model=model,
            processor=PROCESSOR,
            out=tmp_path / name,
            settings=replace(SETTINGS, **changes),
            beside=other_answers(tmp_path),
        )

    into("words-full")
    asked.clear()
    into("words-limit5", limit=5)
    assert asked == []
    assert len(store.read(tmp_path / "words-full/answers/words.jsonl")) == 17
    (tmp_path / "words-full/answers/words.jsonl").write_text("{\n{}\n")
    into("words-limit6", limit=6)
    assert len(asked) == 1, "a broken file of another evaluation is passed over"


def test_a_folder_of_an_earlier_version_is_read(tmp_path, model, asked):  # noqa: F811
    go(tmp_path, model)
    new = ("turn", "question", "choices", "references", "category", "split")
    path = tmp_path / "answers/words.jsonl"
    whole = path.read_bytes()
    old = [{k: v for k, v in json.loads(line).items() if k not in new} for line in whole.decode().splitlines()]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in old))
    asked.clear()
    go(tmp_path, model)
    assert asked == []
    assert path.read_bytes() == whole


def test_an_answer_can_be_read_alone(tmp_path, model):  # noqa: F811
    go(tmp_path, model)
    line = json.loads((tmp_path / "answers/words.jsonl").read_text().splitlines()[1])
    question = Words().questions(tmp_path)[1]
    assert (line["question"], line["references"], line["category"]) == (question.text, ["yes"], "odd")
    assert line["choices"] is None


@pytest.mark.parametrize(
    ("name", "options", "changes", "folder"),
    [
        ("gqa", {}, {}, "gqa-testdev-released"),
        ("gqa", {"limit": 30}, {}, "gqa-testdev-released-limit30"),
        ("slake", {"language": "zh"}, {}, "slake-test-zh-released"),
        ("textvqa", {"ocr": True}, {}, "textvqa-validation-ocr-released"),
        ("ai2d", {"circular": True}, {}, "ai2d-test-released-circular"),
        ("ai2d", {}, {"temperature": 0.7, "draws": 5}, "ai2d-test-released-t0.7-n5"),
        ("mm_vet", {}, {"judge": Judge()}, "mm_vet-test-released"),
        (
            "mm_vet",
            {},
            {"judge": Judge(base_url="http://localhost", model="org/judge-7b")},
            "mm_vet-test-released-judge_org_judge_7b",
        ),
        (
            "mm_vet",
            {},
            {"judge": Judge(base_url="http://localhost", model="a", template="{question}{accepted}{answer}")},
            "mm_vet-test-released-judge_a_prompt_27cd02dc",
        ),
        ("ai2d", {}, {"judge": Judge(base_url="http://localhost", model="a")}, "ai2d-test-released"),
        ("ai2d", {}, {"prompts": replace(OTHER, name="my/own")}, "ai2d-test-my_own"),
        ("gqa", {"max_new_tokens": 16}, {}, "gqa-testdev-released"),
        ("gqa", {"max_new_tokens": 8}, {}, "gqa-testdev-released-tokens8"),
        ("gqa", {"max_new_tokens": 8}, {"max_new_tokens": 4}, "gqa-testdev-released-tokens4"),
        ("gqa", {"folder": "gqa_of_2019"}, {}, "gqa-testdev-gqa_of_2019-released"),
    ],
)
def test_a_folder_is_named_by_what_was_asked(name, options, changes, folder):
    assert results_name(BENCHMARKS[name](**options), replace(NAMED, **changes)) == folder


def test_scores_of_two_judges_and_of_two_types_of_weights_lie_apart(tmp_path):
    files = [tmp_path / name for name in ("one.jsonl", "two.jsonl")]
    for score, file in enumerate(files):
        file.write_text(json.dumps({"id": "v1_0", "score": score}) + "\n")
    mm_vet = BENCHMARKS["mm_vet"]()
    names = [results_name(mm_vet, replace(NAMED, judge=Judge(scores_file=file))) for file in files]
    ways = [(None, None), (None, "float32"), (None, "bfloat16"), ("nf4", None), ("int8", "bfloat16")]
    names += [results_name(mm_vet, NAMED, held=held) for held in ways]
    assert len(set(names)) == 7
    told = ("", "-float32", "-bfloat16", "-nf4", "-int8-bfloat16")
    assert names[2:] == [f"mm_vet-test-released{more}" for more in told]
    assert results_name(mm_vet, replace(NAMED, judge=Judge(scores_file=files[0]), predict=True)) == names[2]


def test_two_values_of_whatever_changes_answers_or_rows_have_two_folders():
    both = {"gqa": BENCHMARKS["gqa"](), "slake": BENCHMARKS["slake"]()}
    released = SETS["released"]
    books = [
        PromptBook(name="released", default=released),
        PromptBook(name="released", default=replace(released, open="{question} Briefly.")),
        *(
            PromptBook(name="released", default=released, templates={"gqa": Template(text=text)})
            for text in ("{question} Now.", "{question} Then.")
        ),
        PromptBook(name="default", default=SETS["llava"]),
    ]
    benchmarks = [
        *(BENCHMARKS["gqa"](folder=folder) for folder in (None, "a/gqa", "b/gqa", "gqa", "a_gqa")),
        *(BENCHMARKS["gqa"](max_new_tokens=number) for number in (1, 2, 16, 17) if number != 16),
        *(
            Suite(name="both", members=both | changed)
            for changed in (
                {},
                {"gqa": BENCHMARKS["gqa"](max_new_tokens=3)},
                {"gqa": BENCHMARKS["gqa"](folder="a")},
                {"gqa": BENCHMARKS["gqa"](limit=3)},
                {"slake": BENCHMARKS["slake"](limit=3)},
                {"slake": BENCHMARKS["slake"](language="all")},
                {"slake": BENCHMARKS["slake"](split="train")},
            )
        ),
    ]
    names = [results_name(one, replace(NAMED, prompts=book)) for one in benchmarks for book in books]
    assert len(set(names)) == len(benchmarks) * len(books)
    assert all(re.fullmatch(r"[\w.+=-]+", name) and len(name) < 255 for name in names)
    assert {"gqa-testdev-released", "gqa-testdev-default", "both-released"} < set(names)


def test_whatever_changes_questions_or_scores_of_a_set_changes_its_folder(tmp_path):
    long = tmp_path / f"{'a_table_of_many_hospitals_' * 2}north.csv"
    options = [
        {},
        {"split": "all"},
        {"split_by": "ward"},
        {"split_by": "study"},
        {"split_shares": (60, 20, 20)},
        {"split_shares": (60, 30, 10)},
        {"frames": "all"},
        {"frames": 3},
        {"window": (0, 100)},
        {"window": (0, 400)},
        {"columns": {"question": "Frage"}},
        {"columns": {"question": "English"}},
        {"metric": "anls"},
        {"manifest": "other.csv"},
        {"manifest": "t.jsonl"},
        {"manifest": "north/t.csv"},
        {"manifest": "south/t.csv"},
        {"max_new_tokens": 8},
        {"images": tmp_path},
        {"manifest": long},
        {"manifest": long.with_stem(long.stem + "_south")},
    ]
    metrics = [
        {},
        {"bertscore_model": "models/bert"},
        {"bertscore_model": "models/roberta"},
        {"bertscore_model": "models/bert", "bertscore_layer": 9},
    ]
    names = [
        results_name(manifest("mine", **{"manifest": "t.csv", "metric": "exact_match"} | one), settings)
        for one in options
        for settings in (replace(NAMED, metrics=Scoring(**each)) for each in metrics)
    ]
    assert len(set(names)) == len(options) * len(metrics)
    assert all(re.fullmatch(r"[\w.+=-]+", name) and len(name) < 255 for name in names)
    assert names[8] == "mine-t-by_ward-released"
    assert names[9] == "mine-t-by_ward-released-bertscore_bert"


# Limited runs


@dataclass(frozen=True, kw_only=True)
class Known(Words):
    counts: ClassVar = {"test": (17,)}
    published: ClassVar = (PublishedRow(metric="accuracy", model="Theirs", value=63.6, source="a post"),)


def test_a_limited_run_says_so_everywhere_and_has_no_published_rows(tmp_path):
    path = predictions(tmp_path / "p.jsonl", rows()[:5])
    results = score_predictions(Known(limit=5), path, tmp_path / "few", settings=SETTINGS)
    entry = results["benchmarks"]["words"]
    assert (entry["limit"], entry["limited"], entry["published"]) == (5, True, [])
    assert results["generation"]["limit"] == 5
    console = Console(width=200, record=True)
    console.print(table(results))
    assert "5, limited" in console.export_text()
    assert "limited to the first 5 questions" in markdown(results)
    assert "| 5, limited |" in markdown(results)
    assert "Theirs" not in markdown(results)
    whole = predictions(tmp_path / "q.jsonl", rows())
    results = score_predictions(Known(limit=17), whole, tmp_path / "all", settings=SETTINGS)
    assert results["benchmarks"]["words"]["limited"] is False
    assert "Theirs" in markdown(results)
    console.print(scores_table(compare([tmp_path / "few", tmp_path / "all"])))
    assert "of 5, limited" in console.export_text()


# Intervals


def test_where_all_are_right_or_all_wrong_the_interval_is_wilsons(tmp_path):
    least = 17 / (17 + 1.959964**2)
    for said, bounds in (("yes", (least, 1)), ("no", (0, 1 - least))):
        path = predictions(tmp_path / "p.jsonl", [{"id": f"w{i}", "prediction": said} for i in range(17)])
        results = score_predictions(OneAnswer(), path, tmp_path / said, settings=SETTINGS)
        entry = results["benchmarks"]["words"]
        assert entry["intervals"]["accuracy"] == pytest.approx(bounds, abs=2e-6)
        assert "accuracy" in entry["wilson"]
        assert "(Wilson)" in markdown(results)


@dataclass(frozen=True, kw_only=True)
class OneAnswer(Words):
    def read(self, folder):
        for question in super().read(folder):
            yield replace(question, references=("yes",))


def test_wilson_of_worked_cases():
    assert wilson(1.0, 60) == pytest.approx([0.939829, 1.0], abs=2e-6)
    assert wilson(0.0, 60) == pytest.approx([0.0, 0.060171], abs=2e-6)
    assert wilson(0.5, 10) == pytest.approx([0.236593, 0.763407], abs=2e-6)


def test_one_image_has_wilsons_interval_and_several_the_bootstraps():
    questions = [Question(id=str(i), task="t", text="?", references=("yes" if i % 2 else "no",)) for i in range(10)]
    metric = POPE(questions)
    for question in questions:
        metric.update("yes", question)
    scores = metric.compute()
    one, named = intervals([metric], scores, Resamples(["a"] * 10, num=50))
    assert one["accuracy"] == wilson(0.5, 10)
    assert "accuracy" in named
    assert "yes_ratio" not in named, "it is no accuracy, and its top is not known"
    several, named = intervals([metric], scores, Resamples([*range(10)], num=200))
    assert several["accuracy"] != one["accuracy"]
    assert "accuracy" not in named


def test_points_have_wilsons_interval_too():
    questions = [
        Question(id=str(i), task="mme", text="?", references=("yes",), category=PERCEPTION[0], meta={"pair": i // 2})
        for i in range(8)
    ]
    metric = MME(questions)
    for question in questions:
        metric.update("yes", question)
    found, named = intervals([metric], metric.compute(), Resamples([i // 2 for i in range(8)], num=50))
    low, high = found["perception"]
    assert high == 200
    assert low == pytest.approx(200 * wilson(1.0, 8)[0])
    assert "perception" in named


def test_a_difference_of_nothing_has_an_interval():
    answers = [
        store.Answer(key=str(i), id=str(i), task="t", prompt="", output="", score=1.0, images=[str(i)])
        for i in range(60)
    ]
    found = difference(answers, answers)
    assert found["interval"] == pytest.approx([-0.060171, 0.060171], abs=2e-6)
    wrong = [replace(answer, score=0.0) for answer in answers]
    assert difference(wrong, answers)["interval"] == pytest.approx([0.939829, 1.0], abs=2e-6)


# Samples of lmms-eval


def sample(number: int, text: str, **doc) -> dict:
    return {"doc_id": number, "doc": doc, "target": "yes", "resps": [[text]], "filtered_resps": [text.lower()]}


def test_sample_files_of_lmms_eval_are_predictions(tmp_path):
    questions = Words().questions(tmp_path)
    given = [sample(i, "No", question=question.text) for i, question in enumerate(questions)]
    path = predictions(tmp_path / "samples.jsonl", given)
    results = score_predictions(Words(), path, tmp_path / "out", settings=SETTINGS)
    assert results["benchmarks"]["words"]["scores"]["accuracy"] == 9 / 17
    by_id = [sample(99, "No", question_id=question.id) for question in reversed(questions)]
    results = score_predictions(Words(), predictions(path, by_id), tmp_path / "out", settings=SETTINGS)
    assert results["benchmarks"]["words"]["scores"]["accuracy"] == 9 / 17


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doc": {"question": "What else?"}}, r"doc_id 3 asks 'What else\?', and question 3 of words asks"),
        ({"doc_id": 40}, "doc_id 40 is none of the 17 questions of words"),
        ({"resps": [], "filtered_resps": []}, "the prediction for 'w3' has no text"),
    ],
)
def test_samples_of_another_set_are_named(tmp_path, change, message):
    questions = Words().questions(tmp_path)
    given = [sample(i, "No", question=question.text) for i, question in enumerate(questions)]
    given[3] = {**given[3], **change}
    with pytest.raises(ValueError, match=message):
        score_predictions(Words(), predictions(tmp_path / "s.jsonl", given), tmp_path / "out", settings=SETTINGS)


def test_a_difference_that_every_image_shows_alike_has_newcombes_interval():
    answers = [
        store.Answer(
            key=str(i), id=str(i), task="t", prompt="", output="", score=float(i % 3 == 0), images=[str(i // 3)]
        )
        for i in range(60)
    ]
    better = [replace(answer, score=float(int(answer.id) % 3 < 2)) for answer in answers]
    found = difference(answers, better)
    low, high = found["interval"]
    assert low < 1 / 3 < high
    assert (low, high) == pytest.approx((0.208, 0.46), abs=0.01)
