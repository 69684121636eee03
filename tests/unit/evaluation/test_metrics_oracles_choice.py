"""The newer benchmarks' rules give what lmms-eval's own scoring files give, on random and adversarial outputs."""

import random
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.evaluation.metrics.highres import WIDE, OCRBench, ocr_match
from dragonfly_lit.evaluation.parsers_choice import letter_mme_realworld, letter_vlmevalkit, letter_vstar
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
