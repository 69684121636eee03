"""`benchmark.show` prints questions as the model will get them, for every benchmark, and loads no model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_tasks_layouts import LAYOUTS, ids, picture, put

from dragonfly_lit.evaluation.benchmarks.base import Suite, check_shown
from dragonfly_lit.evaluation.benchmarks.manifest import manifest
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.prompts import PromptBook, Template
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.evaluation.show import printable, show
from dragonfly_lit.processing.prompts import question_text

ROOT = Path(__file__).resolve().parents[3]


def settings_of(folder) -> Settings:
    return Settings(prompts=PromptBook(name="released", default=Template(text="{question}")), data_root=folder)


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_every_layout_is_shown_as_it_will_be_asked(tmp_path, name, make):
    options, *_ = make(tmp_path / name)
    task, settings = BENCHMARKS[name](**options, show=1), settings_of(tmp_path)
    question = task.questions(tmp_path)[0]
    lines = list(show([task], settings))
    asked = question_text(task.template(settings.prompts).render(question))
    assert "\n".join(f"    {line}" for line in printable(asked).split("\n")) in "\n".join(lines)
    assert sum("8 x 6 pixels" in line for line in lines) == len(question.images)
    assert all(any(line.startswith(f"  accepted: {each}") for line in lines) for each in question.references)
    assert sum(line.startswith("  choice ") for line in lines) == len(question.choices or ())


def test_the_command_prints_and_needs_no_model(tmp_path):
    put(tmp_path / "a.png", picture())
    rows = [{"question": f"Which {i}?", "image": "a.png", "choices": ["x", "y"], "answer": "y"} for i in range(5)]
    put(tmp_path / "q.jsonl", "\n".join(map(json.dumps, rows)))
    asked = ("benchmark=my_set", "benchmark.manifest=q.jsonl", "benchmark.metric=multiple_choice", "benchmark.show=3")
    command = [sys.executable, str(ROOT / "evaluate.py"), *asked]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"RANK": "0"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "my_set: 3 of 5 questions, prompt set llava, MultipleChoice" in done.stdout
    assert "Which 2?\n    A. x\n    B. y\n    Answer with the option's letter" in done.stdout
    assert "Which 3?" not in done.stdout
    assert done.stdout.count("image 1: 8 x 6 pixels, a.png") == done.stdout.count("accepted: B") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "q.jsonl"], "nothing is written"


def test_a_suite_shows_its_members(tmp_path):
    (one, make), (other, make_other) = LAYOUTS[0], LAYOUTS[2]
    make(tmp_path / one)
    make_other(tmp_path / other)
    suite = Suite(name="both", members={name: BENCHMARKS[name]() for name in (one, other)}, show=1)
    heads = [
        line.split(":")[0] for line in show(suite.benchmarks, settings_of(tmp_path)) if " questions, prompt" in line
    ]
    assert heads == [one, other]


@pytest.mark.parametrize("value", ["abc", -1, 1.5, True])
def test_another_number_is_refused(value):
    with pytest.raises(ValueError, match=r"benchmark\.show="):
        check_shown(value)


def test_what_cannot_be_asked_is_named_before_a_model_is_loaded(tmp_path):
    put(tmp_path / "a.png", b"no image")
    put(tmp_path / "q.jsonl", json.dumps({"question": "q", "answer": "x", "image": "a.png"}))
    with pytest.raises(ValueError, match=r"question row-000001: image 1: .*cannot be opened"):
        list(show([manifest("mine", tmp_path / "q.jsonl", "anls", show=1)], settings_of(tmp_path)))


def test_escapes_of_a_data_set_do_not_reach_the_terminal():
    assert printable("a\x1b[31m\x07\u202e\nb é 漢") == "a\\x1b[31m\\x07\\u202e\nb é 漢"
