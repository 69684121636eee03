"""The newer benchmarks' rules give what lmms-eval's own scoring files give, on random and adversarial outputs."""

import contextlib
import random
import string
import sys
import types
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.evaluation.metrics.hallusion import HallusionBench
from dragonfly_lit.evaluation.metrics.highres import WIDE, OCRBench, ocr_match
from dragonfly_lit.evaluation.metrics.mathvista import extracted, normalised
from dragonfly_lit.evaluation.metrics.perception import CVBench, MMBench, MMStar, RealWorldQA
from dragonfly_lit.evaluation.metrics.vqa import normalise_vqav2, vqa_accuracy
from dragonfly_lit.evaluation.parsers_choice import (
    letter_blink,
    letter_cv_bench,
    letter_first,
    letter_mcq,
    letter_mme_realworld,
    letter_vlmevalkit,
    letter_vstar,
)
from dragonfly_lit.evaluation.question import Question

PIECES = [
    "A", "B", "C", "D", "E", "F", "Z", "a", "b", "c", "d", "e", "(A)", "(B)", "(c)", "( D )", "A.", "B. ", "C)", "D]",
    "[E]", "A:", "B,", "answer", "Answer: ", "The answer is ", "the correct answer is", "The best answer is",
    "The best option is", "The correct option is", "Best answer:", "Best option:", "ANSWER IS ", "option", "Option B",
    "choice ", "choice is A", "I pick ", "Both", "Cat", "dog", "red", "red car", "blue", "27B", "37E", "none", "None",
    "yes", "Yes", "no", "No", "I don't know", "Sorry, I can't help with images of people yet.",
    "Cannot determine the answer", "Failed to obtain answer via API", "x", "X ^ { 2 }", "x ^ {2}", "1/8/93", "\uff21",
    "\uff11", "\u3000", "\u6c34", " ", "  ", "\n", "\t", ".", ",", "!", "?", ";", ":", "'", '"', "*", "#", "{", "}",
    "-", "\u00df", "\u0130", "\u0131", "\u017f", "\u00a0", "\u2028", "\u212a", "one two three four five six seven",
]  # fmt: skip
CHOICES = [("red", "red car", "blue", "27B"), ("A", "B", "both", "none"), ("dog", "Cat"), ("1", "11", "x", "Red", "e")]


def composed(draw: random.Random) -> str:
    if draw.random() < 0.15:
        return "".join(draw.choices(string.printable, k=draw.randint(0, 12)))
    return draw.choice(["", " "]).join(draw.choices(PIECES, k=draw.randint(0, 6)))


def batch(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [composed(draw) for _ in range(20)]


# Each example is twenty composed outputs and one of hypothesis' own: 3,000 cases a rule.
many = st.builds(lambda composed, text: [*composed, text], st.integers(0, 2**32).map(batch), st.text(max_size=8))
cases = settings(max_examples=150, deadline=None)
choices = st.sampled_from(CHOICES)


def lettered(texts) -> dict[str, str]:
    return dict(zip(string.ascii_uppercase, texts, strict=False))


@cases
@given(outputs=many)
def test_vstar_is_that_of_lmms_eval(lmms_eval, outputs):
    theirs = lmms_eval("tasks/vstar_bench/utils.py").extract_answer_letter
    for output in [*outputs, *"abcdef"]:
        assert letter_vstar(output) == theirs(output), repr(output)


@cases
@given(outputs=many, texts=choices)
def test_hr_bench_is_that_of_lmms_eval(lmms_eval, outputs, texts):
    theirs = lmms_eval("tasks/hrbench/hrbench_evals.py").HRBenchEval("no key")
    for output in [*outputs, *texts]:
        letter = theirs.can_infer(output, lettered(texts))
        # False asks a language model, and Z says that nothing was chosen: neither is an answer.
        assert letter_vlmevalkit(output, texts) == (letter if letter in lettered(texts) else None), repr(output)


@cases
@given(outputs=many, texts=choices)
def test_mme_realworld_is_that_of_lmms_eval(lmms_eval, outputs, texts):
    theirs = lmms_eval("tasks/mme_realworld/utils.py").extract_characters_regex
    for output in [*outputs, *texts, "", "a", "(b"]:
        assert letter_mme_realworld(output, texts, "lmms_eval") == (theirs(output) or None), repr(output)


def test_mme_realworld_s_own_script_reads_another_letter_where_its_list_lacks_commas():
    texts = ("red", "blue", "green", "grey", "none")
    for output, official, theirs in (
        ("Best option: C", "B", "C"),
        ("Best answer: D", "B", "D"),
        ("The best option is C", "C", "C"),
        ("Blue", "B", "B"),
        ("blue", "B", None),
        ("", "A", "A"),
        ("nothing of all that can be seen in this one image here", None, None),
    ):
        assert letter_mme_realworld(output, texts) == official
        assert letter_mme_realworld(output, texts, "lmms_eval") == theirs


@cases
@given(outputs=many, answers=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), formula=st.booleans())
def test_ocrbench_is_that_of_lmms_eval(lmms_eval, outputs, answers, formula):
    theirs = lmms_eval("tasks/ocrbench/utils.py").ocrbench_process_results
    questions = [
        Question(id=str(i), task="o", text="?", references=tuple(answers), meta={"formula": formula})
        for i in range(len(outputs) + len(answers))
    ]
    metric = OCRBench(questions)
    for output, question in zip([*outputs, *answers], questions, strict=True):
        doc = {"answer": answers, "dataset": "HME100k" if formula else "svt", "question_type": "x"}
        expected = theirs(doc, [output])["ocrbench_accuracy"]["score"]
        assert metric.score(output.strip(), question).values["accuracy_lmms_eval"] == expected, repr(output)


def test_ocrbench_s_own_script_leaves_wide_letters():
    assert not ocr_match("\uff21\uff22", ["ab"], formula=False)
    assert ocr_match("\uff21\uff22", ["ab"], formula=False, wide=WIDE)
    assert ocr_match("It says CENTRE.", ["centre"], formula=False)
    assert not ocr_match("X^2", ["x ^ 2"], formula=True)
    assert ocr_match("the formula x^2 is", ["x ^ 2"], formula=True)


@contextlib.contextmanager
def importable(lmms_eval):
    """lmms-eval's shared rule under the name that its tasks import it by while they score."""
    shared = lmms_eval("tasks/_task_utils/mcq_extract.py")
    parents = ("lmms_eval", "lmms_eval.tasks", "lmms_eval.tasks._task_utils")
    modules = {name: types.ModuleType(name) for name in parents} | {f"{parents[-1]}.mcq_extract": shared}
    with mock.patch.dict(sys.modules, modules):
        yield


@cases
@given(outputs=many, letters=st.sampled_from(["AB", "ABCD", "ABCDE", "ABCDEFGH"]))
def test_the_shared_rule_is_that_of_lmms_eval(lmms_eval, outputs, letters):
    theirs = lmms_eval("tasks/_task_utils/mcq_extract.py").extract_mcq_answer
    for output in [*outputs, *letters, "so, I select D", "the answer is B or C", "\u9009 C"]:
        assert letter_mcq(output, letters) == (theirs(output, list(letters)) or None), repr(output)


@settings(max_examples=40, deadline=None)
@given(outputs=many)
def test_mmstar_is_that_of_lmms_eval(lmms_eval, outputs):
    module = lmms_eval("tasks/mmstar/utils.py")
    kinds = ["geometry", "localization", "recognition"]
    questions = [
        Question(id=str(i), task="m", text="?", references=("ABCD"[i % 4],), category=kinds[i * i % 3])
        for i in range(len(outputs))
    ]
    metric, rows = MMStar(questions), []
    with importable(lmms_eval):
        for output, question in zip(outputs, questions, strict=True):
            metric.update(metric.read(output, question), question)
            doc = {"answer": question.references[0], "category": "c", "l2_category": question.category, "index": 0}
            rows.append(module.mmstar_process_results(doc, [output])["average"])
    assert metric.column("accuracy") == [row["score"] for row in rows]
    assert metric.compute()["average_lmms_eval"] == pytest.approx(module.mmstar_aggregate_results(rows))


@cases
@given(outputs=many, gold=st.sampled_from(["A", "d", "B ", "3", "Downhill", "27B", "Yes"]))
def test_realworldqa_is_that_of_lmms_eval(lmms_eval, outputs, gold):
    theirs = lmms_eval("tasks/realworldqa/utils.py").realworldqa_process_results
    question = Question(id="q", task="r", text="?", references=(gold,))
    metric = RealWorldQA([question])
    with importable(lmms_eval):
        for output in [*outputs, gold, f"{gold}."]:
            expected = theirs({"answer": gold}, [output])["exact_match"]
            assert metric.read(output, question).score == expected, repr(output)


class Rows(list):
    """A list of rows as far as lmms-eval's MMBench looks at a table of pandas."""

    @property
    def iloc(self):
        return self


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_mmbench_s_circles_are_scored_as_by_lmms_eval(lmms_eval, seed):
    theirs = lmms_eval("tasks/mmbench/mmbench_evals.py").MMBench_Evaluator()
    draw, questions, circles = random.Random(seed), [], []
    for number in range(12):
        texts = draw.choice(CHOICES)[:4]
        circle = Rows()
        for turn in range(len(texts)):
            order = texts[turn:] + texts[:turn]
            gold = "ABCD"[order.index(texts[0])]
            # Often right, or hardly a circle would be.
            output = draw.choice([gold, f"{gold}.", f"({gold})", order["ABCD".index(gold)], gold, composed(draw)])
            cells = dict(zip("ABCD", [*order, None, None, None], strict=False))
            circle.append({"index": number + 1_000_000 * turn, "prediction": output.strip(), "gold": gold, **cells})
            key, meta, kind = str(circle[-1]["index"]), {"circle": number}, "xy"[number % 2]
            more = {"choices": order, "references": (gold,), "category": kind, "meta": meta}
            questions.append(Question(id=key, task="m", text="?", **more))
        circles.append(circle)
    metric = MMBench(questions)
    for row, question in zip((row for circle in circles for row in circle), questions, strict=True):
        metric.update(metric.read(row["prediction"], question), question)
    with importable(lmms_eval):
        golds = {row["index"]: row["gold"] for circle in circles for row in circle}
        hits = [theirs.eval_sub_data(circle, golds, static_only=True) for circle in circles]
    scores = metric.compute()
    assert scores["accuracy"] == pytest.approx(sum(hits) / len(hits))
    assert scores["accuracy/x"] == pytest.approx(sum(hits[::2]) / len(hits[::2]))


@cases
@given(outputs=many)
def test_seedbench_is_that_of_lmms_eval(lmms_eval, outputs):
    module = lmms_eval("tasks/seedbench/utils.py")
    for output in outputs:
        for gold in "ABCD":
            doc = {"answer": gold, "data_type": "image", "question_id": "1"}
            row = module.seed_process_result(doc, [output])["seed_image"]
            assert (letter_first(output) == gold) == bool(module.seed_aggregation_result([row])), repr(output)


@cases
@given(outputs=many, number=st.integers(2, 5))
def test_blink_is_that_of_lmms_eval(lmms_eval, outputs, number):
    theirs = lmms_eval("tasks/blink/utils.py")._extract_answer_letter
    for output in outputs:
        assert letter_blink(output, number) == (theirs(output, string.ascii_uppercase[:number]) or None), repr(output)


@cases
@given(outputs=many)
def test_cv_bench_is_that_of_lmms_eval(lmms_eval, outputs):
    theirs = lmms_eval("tasks/cv_bench/utils.py")._extract_answer_letter
    for output in outputs:
        letter = theirs(output)
        # Case is ignored, so that a few letters beyond ASCII are read; they are no choice's.
        assert letter_cv_bench(output) == (letter or None), repr(output)


def test_cv_bench_s_average_is_the_authors(lmms_eval):
    draw, module = random.Random(0), lmms_eval("tasks/cv_bench/utils.py")
    sources = [draw.choice(["ADE20K", "COCO", "Omni3D"]) for _ in range(60)]
    questions = [
        Question(
            id=str(i),
            task="c",
            text="?",
            choices=("x", "y"),
            references=(draw.choice("AB"),),
            split="3D" if source == "Omni3D" else "2D",
            meta={"source": source},
        )
        for i, source in enumerate(sources)
    ]
    metric, rows = CVBench(questions), []
    for question in questions:
        output = draw.choice(["A", "(B)", "b) y"])
        metric.update(output, question)
        right = bool(metric.score(output, question).score)
        rows.append({"source": question.meta["source"], "is_correct": right})
    assert metric.compute()["average"] == pytest.approx(module.cv_bench_default_aggregate_results(rows))


@settings(max_examples=40, deadline=None)
@given(outputs=many, seed=st.integers(0, 2**32))
def test_hallusion_bench_without_a_judge_is_that_of_lmms_eval(lmms_eval, outputs, seed):
    module, draw = lmms_eval("tasks/hallusion_bench/evaluate_hb.py"), random.Random(seed)
    rows, questions = [], []
    for i, output in enumerate(outputs):
        figure, asked = str(draw.randint(0, 2)), str(i)
        gold = draw.choice("01")
        rows.append(
            {
                "category": "VD",
                "subcategory": "x",
                "set_id": "0",
                "figure_id": figure,
                "question_id": asked,
                "gt_answer": gold,
                "model_prediction": draw.choice([output, "yes", "no"]),
            }
        )
        meta = {"figure": f"VD_x_0_{figure}", "question": f"VD_x_0_{asked}"}
        gold_word = "yes" if gold == "1" else "no"
        questions.append(Question(id=str(i), task="h", text="?", references=(gold_word,), meta=meta))
    metric = HallusionBench(questions)
    for row, question in zip(rows, questions, strict=True):
        metric.update(metric.read(row["model_prediction"], question), question)
    scores = metric.compute()
    for theirs, ours_name in (
        ("aAcc", "accuracy_lmms_eval"),
        ("fAcc", "accuracy_figures_lmms_eval"),
        ("qAcc", "accuracy_questions_lmms_eval"),
    ):
        expected = module.hb_aggregation_result_intern([dict(row) for row in rows], theirs)
        assert scores[ours_name] == pytest.approx(expected)


def test_hallusion_bench_reads_a_yes_or_a_no_that_is_a_word():
    question = Question(id="q", task="h", text="?", references=("no",), meta={"figure": "f", "question": "q"})
    metric = HallusionBench([question])
    for output, official in (("No.", 1), ("It is not.", 0), ("no, not yes", 0), ("Yes", 0), ("None", 0), ("NO!", 1)):
        assert metric.score(output, question).score == official, output


@cases
@given(
    outputs=many,
    kind=st.sampled_from(["integer", "float", "list", "text"]),
    precision=st.integers(0, 2),
    texts=choices,
    number=st.one_of(st.integers(-99, 99), st.floats(-9, 9), st.sampled_from(["nan", "inf", "1e3", "1_0", " 7 "])),
)
def test_mathvista_is_that_of_lmms_eval(lmms_eval, outputs, kind, precision, texts, number):
    theirs = lmms_eval("tasks/mathvista/mathvista_evals.py").MathVistaEvaluator()
    theirs.get_chat_response = lambda prompt, **options: prompt.split("\n\n")[-2]  # what a model repeats of the output
    offered = list(texts) if kind == "text" else []
    question_type = "multi_choice" if kind == "text" else "free_form"
    problem = {"question_type": question_type, "answer_type": kind, "choices": offered, "query": "?"}
    for output in [*outputs, str(number), f"({texts[0]})", *texts]:
        output = output.strip()
        if not output or "\n\n" in output:
            continue
        theirs_extracted = theirs.extract_answer(output, problem, True)
        ours = extracted(output, kind=kind, choices=offered)
        assert ours == theirs_extracted, repr(output)
        expected = theirs.normalize_extracted_answer(ours, offered, question_type, kind, precision)
        assert normalised(ours, kind=kind, choices=offered, precision=precision) == expected, repr(output)


@cases
@given(outputs=many, answers=st.lists(st.sampled_from(PIECES), min_size=2, max_size=6))
def test_vqav2_is_that_of_lmms_eval(lmms_eval, outputs, answers):
    theirs = lmms_eval("tasks/vqav2/utils.py").vqav2_process_results
    for number, output in enumerate([*outputs, *answers]):
        people = [*answers, *[output] * (number % 4)]
        doc = {"question_id": 7, "answers": [{"answer": text, "answer_id": i} for i, text in enumerate(people)]}
        expected = theirs(doc, [output])
        assert vqa_accuracy(output, people, normalise_vqav2) == pytest.approx(expected["exact_match"]), repr(output)
        assert normalise_vqav2(output) == expected["submission"]["answer"]
