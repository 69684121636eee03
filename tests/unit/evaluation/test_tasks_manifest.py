"""A set of one's own, prompts, origins and published rows."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from test_tasks_layouts import cell, parquet, picture, put, scienceqa_hub, textvqa_hub

from data_prep.benchmark import describe, main
from dragonfly_lit.evaluation.benchmarks.captions import METEORS
from dragonfly_lit.evaluation.benchmarks.manifest import manifest
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.metrics.by_name import METRICS
from dragonfly_lit.evaluation.prompts import Template, prompt_book
from dragonfly_lit.evaluation.question import Question

CONF = Path(__file__).resolve().parents[3] / "conf"


def lines(path, rows) -> None:
    put(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("evaluate", overrides=list(overrides))


def test_a_manifest_of_lines_is_read_and_scored(tmp_path):
    put(tmp_path / "images/a.png", picture())
    rows = [
        {"id": 7, "question": "What is it?", "image": "images/a.png", "answers": ["soup"] * 10},
        {"question": "And this?\u2028", "images": ["images/a.png"] * 2, "answer": "can"},
        {"question": "Two and two?", "answer": 4, "category": "sums"},
    ]
    lines(tmp_path / "questions.jsonl", rows)
    cfg = composed(
        "benchmark=my_set", f"benchmark.manifest={tmp_path}/questions.jsonl", "benchmark.metric=vqa_accuracy"
    )
    task = instantiate(cfg.benchmark, _convert_="all")
    questions = task.questions(tmp_path)
    assert [(q.id, len(q.images), len(q.references)) for q in questions] == [
        ("7", 1, 10),
        ("row-000002", 2, 10),
        ("row-000003", 0, 10),
    ]
    metric = task.metric(questions)
    for question, prediction in zip(questions, ("Soup.", "The can", "four"), strict=True):
        metric.update(prediction, question)
    assert metric.compute()["accuracy"] == 1
    assert (task.name, task.headline, task.published) == ("my_set", "accuracy", ())


@pytest.mark.parametrize("stored", [True, False])
def test_a_manifest_of_parquet_may_hold_its_images(tmp_path, stored):
    put(tmp_path / "a.png", picture())
    rows = [
        {"question": "Which?", "image": cell() if stored else "a.png", "options": ["up", "down"], "answer": answer}
        for answer in ("B", "1", "down")
    ]
    parquet(tmp_path / "questions.parquet", rows)
    questions = manifest("mine", tmp_path / "questions.parquet", "multiple_choice").questions(tmp_path)
    assert [question.references for question in questions] == [("B",)] * 3
    assert questions[2].read_images() == (picture(),)


def test_every_metric_scores_a_manifest(tmp_path):
    for name in METRICS:
        row = {"question": "Is it?", "answer": "yes"}
        lines(tmp_path / f"{name}.jsonl", [row | ({"choices": ["yes", "no"]} if name == "multiple_choice" else {})])
        task = manifest("mine", tmp_path / f"{name}.jsonl", name)
        questions = task.questions(tmp_path)
        metric = task.metric(questions)
        metric.update("A" if name == "multiple_choice" else "yes", questions[0])
        assert metric.compute()[task.headline] == pytest.approx(1), name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "a.png", "answer": "x"}], r"row 1: question: is missing.*the columns are image, answer"),
        ([{"question": "q", "answr": "x"}], "row 1: answr: is not a field of a manifest; use id,"),
        ([{"question": "q"}], "question row-000001 has no answer"),
        ([{"question": "q", "answer": "x", "image": "gone.png"}], r"row 1: image: there is no image .*gone.png\.$"),
        (
            [{"question": "q", "answer": "x", "image": "Questions.png"}],
            r"there is no image .*Questions.png\. questions.bmp is there: write the name as the file has it\.$",
        ),
        ([{"id": 1, "question": "q", "answer": "x"}] * 2, "question id '1' appears more than once; answers"),
        (
            [{"question": "q", "answer": "z", "choices": ["x", "y"]}],
            "row 1: answer: found 'z', wanted a choice, its letter or its number from 0 to 1",
        ),
        ([["q"]], r"row 1: found \['q'\] .*wanted a struct with named fields"),
        ([], "questions.jsonl: there is no row in it"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named(tmp_path, rows, message):
    (tmp_path / "questions.bmp").write_bytes(b"")
    lines(tmp_path / "questions.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        manifest("mine", tmp_path / "questions.jsonl", "exact_match").questions(tmp_path)


def test_a_manifest_or_a_metric_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"benchmark.manifest=gone.jsonl: there is no such file"):
        manifest("mine", "gone.jsonl", "exact_match").questions(tmp_path)
    with pytest.raises(ValueError, match=r"benchmark.metric='bleu': use one of exact_match, vqa_accuracy"):
        manifest("mine", "gone.jsonl", "bleu")
    with pytest.raises(ValueError, match=r"benchmark.manifest is empty"):
        manifest("mine", "", "exact_match")


def test_prompts_are_those_of_their_toolkits(tmp_path):
    scienceqa_hub(tmp_path / "scienceqa")
    textvqa_hub(tmp_path / "textvqa")
    books = {name: instantiate(composed(f"prompt={name}").prompt, _convert_="all") for name in ("llava", "lmms_eval")}
    science = BENCHMARKS["scienceqa"]().questions(tmp_path)[0]
    for book in books.values():
        assert BENCHMARKS["scienceqa"]().template(book).render(science) == (
            "Context: It falls.\nq0\nA. up\nB. down\nAnswer with the option's letter from the given choices directly."
        )
    text = BENCHMARKS["textvqa"](ocr=True).questions(tmp_path)[0]
    suffix = "\nReference OCR token: NOKIA, 2310\nAnswer the question using a single word or phrase."
    assert BENCHMARKS["textvqa"]().template(books["llava"]).render(text) == "what is the brand?" + suffix
    assert BENCHMARKS["textvqa"]().template(books["lmms_eval"]).render(text) == "What is the brand?" + suffix
    mme = Question(id="1", task="mme", text="Is it red? Please answer yes or no.", references=("Yes",))
    short = "Is it red?\nAnswer the question using a single word or phrase."
    assert BENCHMARKS["mme"]().template(books["lmms_eval"]).render(mme) == short
    chart = Question(id="1", task="chartqa", text="How {much}?", references=("5",))
    assert (
        BENCHMARKS["chartqa"]().template(books["lmms_eval"]).render(chart)
        == "How {much}?\nAnswer the question with a single word."
    )
    choice = Question(id="1", task="mmmu", text="<image 1>?", references=("A",), choices=("x", "y"))
    letter = "Answer with the option's letter from the given choices directly."
    assert BENCHMARKS["mmmu"]().template(books["llava"]).render(choice) == f"<image 1>?\n(A) x\n(B) y\n{letter}"
    assert BENCHMARKS["mmmu"]().template(books["lmms_eval"]).render(choice) == f"<image 1>?\nA. x\nB. y\n\n{letter}"


def test_every_benchmark_has_a_prompt_in_every_book_and_a_config():
    for name in ("llava", "lmms_eval", "released"):
        book = instantiate(composed(f"prompt={name}").prompt, _convert_="all")
        for task in BENCHMARKS:
            choices = ("x", "y") if task in ("ai2d", "scienceqa", "mmmu") else None
            prompt = BENCHMARKS[task]().template(book).render(Question(id="1", task=task, text="Who?", choices=choices))
            assert "Who?" in prompt
            assert ("A. x" in prompt or "(A) x" in prompt) == (choices is not None)
    for name, task in BENCHMARKS.items():
        assert isinstance(instantiate(composed(f"benchmark={name}").benchmark, _convert_="all"), task)


LETTER = "Answer with the option's letter from the given choices directly."
BOOKS = ("default", "llava", "lmms_eval", "released", "mine")


def book_of(name):
    """A set of prompts of `conf/prompt`, or one of a user that says nothing of choices."""
    if name == "mine":
        return prompt_book("mine", {"text": "Look. {question}"})
    return instantiate(composed(f"prompt={name}").prompt, _convert_="all")


@pytest.mark.parametrize("name", BOOKS)
@pytest.mark.parametrize("task", [*BENCHMARKS, "my_set"])
def test_choices_are_shown_under_every_set_of_prompts_or_refused(name, task):
    made = manifest("my_set", "q.jsonl", "multiple_choice") if task == "my_set" else BENCHMARKS[task]()
    question = Question(id="1", task=task, text="Who?", choices=("Ann", "Bob"), meta={"hint": "A girl."})
    template = made.template(book_of(name))
    if "{options}" not in template.text:
        assert task not in ("ai2d", "scienceqa", "mmmu", "my_set"), "their questions have choices"
        with pytest.raises(ValueError, match=r"has no \{options\}"):
            template.render(question)
        return
    prompt = template.render(question)
    assert "Who?" in prompt
    assert re.search(r"\(?A[).] Ann\n\(?B[).] Bob\n", prompt)
    if task == "my_set":
        assert prompt == f"Context: A girl.\nWho?\nA. Ann\nB. Bob\n{LETTER}"


@pytest.mark.parametrize("name", BOOKS)
def test_a_question_without_choices_is_asked_as_before(name):
    prompt = (
        manifest("my_set", "q.jsonl", "exact_match")
        .template(book_of(name))
        .render(Question(id="1", task="my_set", text="Who?"))
    )
    short = "Who?\nAnswer the question using a single word or phrase."
    assert prompt == {"released": "Who?", "mine": "Look. Who?"}.get(name, short)


@pytest.mark.parametrize("name", ["llava", "lmms_eval", "released"])
def test_the_words_of_the_ocr_system_are_shown_under_every_set_of_prompts(name):
    question = Question(id="1", task="textvqa", text="Brand?", meta={"ocr_tokens": ("NOKIA", "2310")})
    assert "NOKIA, 2310" in BENCHMARKS["textvqa"](ocr=True).template(book_of(name)).render(question)


def test_a_template_that_would_hide_what_is_scored_is_named():
    question = Question(id="7", task="mine", text="Who?", choices=("Ann", "a"))
    with pytest.raises(ValueError, match=r"template of mine has no {options}.*choices of question 7"):
        Template(text="{question} What a day.").render(question)
    assert Template(text="{question} Ann or a?").render(question) == "Who? Ann or a?", "the template shows them itself"
    with pytest.raises(ValueError, match=r"has no \{ocr\}"):
        Template(text="{question}").render(Question(id="1", task="textvqa", text="?", meta={"ocr_tokens": ("x",)}))


def test_suites_hold_their_members():
    for suite, number in (("general", 8), ("general10", 10), ("biomed", 7)):
        built = instantiate(composed(f"benchmark={suite}", "benchmark.limit=2").benchmark, _convert_="all")
        assert [task.limit for task in built.benchmarks] == [2] * number
        assert list(built.members) == [task.name for task in built.benchmarks]


def test_a_mistyped_template_is_named():
    with pytest.raises(ValueError, match=r"text has the field {qestion}; use {context}, {question}"):
        Template(text="{qestion}")
    with pytest.raises(ValueError, match=r"prompt=mine: pope has the key 'txt'"):
        prompt_book("mine", {"text": "{question}"}, {"pope": {"txt": "x"}})


def test_every_benchmark_has_an_origin(capsys):
    for name in BENCHMARKS:
        text = describe(name)
        assert all(word in text for word in ("original", "licence", "layout", f"benchmark={name}"))
    assert main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(BENCHMARKS)
    with pytest.raises(ValueError, match="there is no benchmark 'popes'; use one of ai2d"):
        main(["popes"])


def test_published_rows_stand_beside_a_number_that_the_benchmark_reports():
    rows = {name: benchmark.published for name, benchmark in BENCHMARKS.items()}
    assert sum(map(len, rows.values())) == 21 + 21 + 2 + 48 + 12  # a METEOR stands beside each of ours
    for name, members in rows.items():
        for row in members:
            assert row.source
            assert row.metric in (BENCHMARKS[name]().headline, "open_f1_squad", *METEORS, "cider_d")
    ours = {
        name: [row for row in members if row.model == "Dragonfly v1 (Llama-3-8B)"] for name, members in rows.items()
    }
    assert [(row.metric, row.value) for row in ours["ai2d"]] == [("accuracy", 63.6)]
    assert [(row.metric, row.value) for row in ours["pope"]] == [("f1", 91.2)]
    assert rows["chartqa"] == (), "no verified number: nothing is printed"


def test_parquet_without_a_struct_holds_images_too(tmp_path):
    pq.write_table(
        pa.table({"question": ["q"], "answer": ["x"], "image": pa.array([picture()], pa.binary())}),
        tmp_path / "q.parquet",
    )
    assert manifest("mine", tmp_path / "q.parquet", "anls").questions(tmp_path)[0].read_images() == (picture(),)


def test_a_column_that_no_field_stands_for_is_named(tmp_path):
    parquet(tmp_path / "q.parquet", [{"question": "q", "answer": "x", "scan_place": "a.png"}])
    with pytest.raises(ValueError, match="row 1: scan_place: is not a field of a manifest; use id, question_id"):
        manifest("mine", tmp_path / "q.parquet", "exact_match").questions(tmp_path)


@pytest.mark.parametrize("task", [*BENCHMARKS])
def test_the_default_set_asks_as_the_published_rows_were_made(task):
    book, benchmark = book_of("default"), BENCHMARKS[task]()
    name = benchmark.prompt_set(book)
    assert name == ("released" if task in ("easy_vqa", "probes", "pages") else benchmark.asked_with)
    assert benchmark.template(book) == benchmark.template(book_of(name))


def test_a_hint_is_shown_under_every_template():
    question = Question(id="1", task="mine", text="Who?", meta={"hint": "A girl."})
    for name in BOOKS:
        for metric in ("exact_match", "captions"):
            assert "A girl." in manifest("mine", "q.jsonl", metric).template(book_of(name)).render(question)


@pytest.mark.parametrize(("output", "right"), [("Red.", True), ("red", True), ("RED", True), ("blue", False)])
def test_gold_answers_with_capitals_can_be_met(output, right):
    question = Question(id="1", task="mine", text="?", references=("Red.",))
    metric = manifest("mine", "q.jsonl", "exact_match").metric([question])
    metric.update(output, question)
    assert metric.compute()["accuracy"] == right


def test_the_prompt_of_the_default_set_is_named():
    assert manifest("mine", "q.jsonl", "exact_match").prompt_set(book_of("default")) == "llava"
    assert manifest("mine", "q.jsonl", "captions").prompt_set(book_of("default")) == "released"
    assert manifest("mine", "q.jsonl", "exact_match").prompt_set(book_of("mine")) == "mine"


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("Bild,question,answer\na.png,q,x\n", None, "row 1: Bild: looks like an image, and would be left out. Say"),
        ("question,answer,option_a,option_b\nq,A,x,y\n", None, "row 1: option_a: looks like choices of the question"),
        ("question,answer,split\nq,x,train\nq,x,tset\n", "test", "questions.csv line 3, row 2: split: found 'tset'"),
        ("question,answer,patient\nq,x,1\n", "test", "questions.csv: patient has 1 value, too few .*column split.$"),
        ("question,answer\n", None, "questions.csv: there is no row in it.$"),
        ("question,answer\nq,x\n", "tset", "benchmark.split='tset': mine has train, validation, test, all.$"),
    ],
)
def test_what_a_table_seems_to_say_is_asked_about(tmp_path, text, split, message):
    put(tmp_path / "questions.csv", text)
    with pytest.raises(ValueError, match=message):
        manifest("mine", tmp_path / "questions.csv", "exact_match", split=split).questions(tmp_path)


def test_questions_without_an_image_are_counted(tmp_path, caplog):
    put(tmp_path / "a.png", picture())
    put(tmp_path / "questions.csv", "image,question,answer\na.png,q,x\n,q,x\n")
    manifest("mine", tmp_path / "questions.csv", "exact_match").questions(tmp_path)
    assert "mine: 1 of 2 questions have no image; the first is row-000002." in caplog.text
