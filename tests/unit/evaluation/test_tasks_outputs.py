"""Whatever a model says to a question of any benchmark is read, scored between 0 and 1, and read the same again."""

import math
import random

import pytest
from test_tasks_layouts import LAYOUTS

from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice

ODD = (
    "", " ", "\u00a0", "\n", "A", "a", "(A)", "((A))", "(((", ")A(", "[B]", "A.", "A:", "**B**", "$\\boxed{C}$",
    "A and B", "Both A and B", "The answer is A or B", "A, B", "None of the above", "not sure", "I don't know",
    "It is not clear", "Yes", "yes.", "No, yes", "yes/no", "Yes and no", "\u0661\u0662", "\u00bd", "\u2460", "\uff21",
    "1,000", "1e400", "-inf", "nan", "5%", "%", "0", "-0.0", "1/0", "answer:", "Answer: A", "The answer is",
    "A" * 5000, "(" * 3000, "a. " * 2000, "1" * 400, "\u4e2d\u6587", "\U0001f600", "\x00", "\u2028A\u2028", "I\u0307",
    "\u0130", "\u00df", "'", '"', "\\", "<image>", "{A}", "%s {0}", "Question: x? Answer: B",
)  # fmt: skip
PIECES = (
    "A", "B", "C", "D", "E", "(", ")", "[", "]", ".", ",", ":", ";", " the ", "answer", " is ", "option ", " or ",
    " and ", " not ", "yes", "no", "1", "2", "3.5", "%", "$", "\n", "*", "_", "\u00a0", "Both ", "neither",
)  # fmt: skip


def outputs(seed: int, golds: list[str]) -> list[str]:
    draw = random.Random(seed)
    mixed = ["".join(draw.choices([*PIECES, " ", *golds], k=draw.randint(1, 9))) for _ in range(60)]
    return [*ODD, *golds, *mixed]


SCORED_HERE = [(name, make) for name, make in LAYOUTS if not BENCHMARKS[name].judged]
ids = [f"{name}-{make.__name__}" for name, make in SCORED_HERE]


def opened(folder, name, make):
    options, _, _ = make(folder / name)
    benchmark = BENCHMARKS[name](**options)
    return benchmark, benchmark.questions(folder)


@pytest.mark.parametrize(("name", "make"), SCORED_HERE, ids=ids)
def test_anything_is_read_and_scored_between_nothing_and_all(tmp_path, name, make):
    benchmark, questions = opened(tmp_path, name, make)
    metric = benchmark.metric(questions)
    for number, question in enumerate(questions[:2]):
        for output in outputs(number, list(question.references)):
            said = metric.read(output, question)
            assert set(said.values) == set(metric.columns), output
            assert 0 <= said.score <= 1, output
            assert 0 <= said.lenient_score <= 1, output
            assert all(math.isfinite(value) or math.isnan(value) for value in said.values.values()), output
            if not output.strip():
                assert said.lenient_parsed is None
            if isinstance(metric, MultipleChoice) and question.choices and output in ("Both A and B", "A, B"):
                assert said.lenient_parsed is None, "two choices are not one"


@pytest.mark.parametrize(("name", "make"), SCORED_HERE, ids=ids)
def test_any_mix_of_outputs_has_scores(tmp_path, name, make):
    benchmark, questions = opened(tmp_path, name, make)
    for seed in range(6):
        draw = random.Random(seed)
        metric = benchmark.metric(questions)
        for question in questions:
            output = draw.choice(outputs(seed, list(question.references)))
            metric.update(metric.read(output, question), question)
        scores = metric.compute()
        for score, value in scores.items():
            top = metric.top(score)
            assert math.isnan(value) or value >= 0, score
            assert top is None or math.isnan(value) or value <= top + 1e-9, score
