"""Every rule that lmms-eval also has gives what its own scoring file gives, on random and adversarial outputs."""

import copy
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.evaluation.metrics.choice import MMMU, MultipleChoice, ScienceQA
from dragonfly_lit.evaluation.metrics.medical import normalise_slake
from dragonfly_lit.evaluation.metrics.short import anls, exact_match_lmms_eval, relaxed_match
from dragonfly_lit.evaluation.metrics.vqa import normalise, vqa_accuracy
from dragonfly_lit.evaluation.metrics.yes_no import COGNITION, MME, PERCEPTION, POPE
from dragonfly_lit.evaluation.parsers import letter_lmms_ai2d, letter_lmms_scienceqa, yes_no_mme_lmms_eval
from dragonfly_lit.evaluation.parsers_mmmu import mmmu_candidates, mmmu_letter, mmmu_open_match
from dragonfly_lit.evaluation.question import Question

PIECES = [
    "yes", "Yes", "YES.", "no", "No", "No,", "not", "none", "None", "nothing", "noon", "y", "n", "unknown",
    "The answer is ", "the answer is", "Answer: ", "answer ", "is ", "so ", "thus ", "=", "could be ", "A",
    "B", "C", "D", "E", "a", "b", "(A)", "(B)", "(C)", "A.", "B. ", "C)", " D ", "DNA", "a cat", "the dog",
    "an apple", "cat", "dog", "red", "two", "ten", "zero", "2", "10", "0", "-5", "3.14", ".5", "1,000", "1,00",
    "12,345.6", "5%", "50 %", "1e5", "1E-3", "1_0", "nan", "inf", "Infinity", "$5", "#5", " ", "  ", "\n",
    "\t", ".", ",", ", ", " ,", "...", "?", "!", "'", "'s", "dog's", '"', ";", ":", "-", " - ", "/", "(", ")",
    "[", "]", "{", "}", "_", "@", "don't", "dont", "cant", "whats", "'twas", "somebody'd", "oclock", "x ray",
    "x-ray", "(left)", "\uff08left\uff09", "是", "没有", "。", "é", "İ", "ß", "\u00a0", "\u2028", "\u212a",
    "unanswerable",
]  # fmt: skip


def composed(draw: random.Random) -> str:
    """An output put together from the pieces, or from any printable characters."""
    if draw.random() < 0.15:
        return "".join(draw.choices(string.printable, k=draw.randint(0, 12)))
    return draw.choice(["", " "]).join(draw.choices(PIECES, k=draw.randint(0, 6)))


def batch(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [composed(draw) for _ in range(20)]


words = st.integers(0, 2**32).map(lambda seed: composed(random.Random(seed)))
outputs = st.one_of(words, words, st.text(max_size=8))
# Each example is twenty composed outputs and one of hypothesis' own: 3,000 cases a rule.
many = st.builds(lambda composed, text: [*composed, text], st.integers(0, 2**32).map(batch), st.text(max_size=8))
cases = settings(max_examples=150, deadline=None)


def ask(key="q", **fields) -> Question:
    return Question(**{"id": key, "task": "oracle", "text": "?", "references": ("yes",), **fields})


@cases
@given(predictions=many, answers=st.lists(outputs, max_size=6))
def test_vqa_accuracy_is_that_of_lmms_eval(lmms_eval, predictions, answers):
    processor = lmms_eval("tasks/_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor()
    for number, prediction in enumerate(predictions):
        number = number % 5
        # Some of the answers are the prediction, or no case would ever match.
        humans = answers + [prediction] * number
        assert normalise(prediction) == processor(prediction)
        task = "textvqa" if humans and number % 2 else "vizwiz_vqa"
        scorer = getattr(lmms_eval(f"tasks/{task}/utils.py"), f"{task}_process_results")
        theirs = scorer({"question_id": 0, "answers": copy.copy(humans)}, [prediction])
        assert vqa_accuracy(prediction, humans) == theirs["exact_match"]


def test_only_the_first_32_full_stops_are_dropped_as_in_lmms_eval(lmms_eval):
    processor = lmms_eval("tasks/_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor()
    dotted = "x." * 45
    assert normalise(dotted) == processor(dotted)
    assert normalise(dotted).count(".") == 13


@cases
@given(predictions=many, target=outputs)
def test_relaxed_accuracy_is_that_of_lmms_eval(lmms_eval, predictions, target):
    theirs = lmms_eval("tasks/chartqa/utils.py").relaxed_correctness
    for prediction in [*predictions, target]:
        assert relaxed_match(prediction, target) == theirs(prediction, target)


@cases
@given(
    target=st.floats(allow_nan=True, width=32),
    factor=st.sampled_from([0.9, 0.94999, 0.95, 1.0, 1.05, 1.05001, 1.1, -1]),
    percent=st.booleans(),
)
def test_relaxed_accuracy_of_numbers_is_that_of_lmms_eval(lmms_eval, target, factor, percent):
    theirs = lmms_eval("tasks/chartqa/utils.py").relaxed_correctness
    prediction = f"{target * factor}{'%' if percent else ''}"
    assert relaxed_match(prediction, f"{target}") == theirs(prediction, f"{target}")


@cases
@given(prediction=outputs, answers=st.lists(outputs, min_size=1, max_size=4))
def test_anls_is_that_of_lmms_eval(lmms_eval, prediction, answers):
    theirs = lmms_eval("api/metrics.py").anls
    for truth in (answers, [*answers, prediction + "x"], [prediction * 2]):
        assert anls(prediction, truth) == theirs(truth, [prediction])["anls"]


@cases
@given(predictions=many, answer=outputs)
def test_exact_match_is_that_of_lmms_eval(lmms_eval, predictions, answer):
    theirs = lmms_eval("api/metrics.py").exact_match_hf_evaluate
    for prediction in [*predictions, answer.upper(), f"{answer}.", f" {answer}"]:
        if "İ" in prediction + answer:
            continue  # its lower case has two characters, and numpy, which lmms-eval compares in, cuts one off
        score = theirs([prediction], [answer], ignore_case=True, ignore_punctuation=True)["exact_match"]
        assert exact_match_lmms_eval(prediction, answer) == bool(score)


@cases
@given(predictions=many, gold=st.sampled_from("ABCDE"))
def test_ai2d_is_that_of_lmms_eval(lmms_eval, predictions, gold):
    rule = lmms_eval("tasks/ai2d/utils.py").MultiChoiceRegexFilter()
    equal = lmms_eval("api/metrics.py").exact_match_hf_evaluate
    metric = MultipleChoice([ask(str(i), choices=tuple("vwxyz"), references=(gold,)) for i in range(len(predictions))])
    total = 0
    for prediction, question in zip(predictions, metric.questions, strict=True):
        prediction = prediction.replace("İ", "I")  # see the exact match above
        read = rule.apply([[prediction]], [{}])
        hit = bool(equal(read, [gold], ignore_case=True, ignore_punctuation=True)["exact_match"])
        assert (letter_lmms_ai2d(prediction) == gold) == hit
        metric.update(prediction, question)
        total += hit
    assert metric.compute()["accuracy"] == total / len(predictions)


@cases
@given(predictions=many, gold=st.integers(0, 4))
def test_scienceqa_is_that_of_lmms_eval(lmms_eval, predictions, gold):
    theirs = lmms_eval("tasks/scienceqa/utils.py").sqa_process_results
    metric = ScienceQA(
        [ask(str(i), choices=tuple("vwxyz"), references=("ABCDE"[gold],)) for i in range(len(predictions))]
    )
    for prediction, question in zip(predictions, metric.questions, strict=True):
        hit = theirs({"choices": list("vwxyz"), "answer": gold}, [prediction])["exact_match"]
        assert float(letter_lmms_scienceqa(prediction) == "ABCDE"[gold]) == hit
        assert metric.score(prediction, question).values["accuracy_lmms_eval"] == hit


@settings(max_examples=50, deadline=None)
@given(predictions=many, golds=st.lists(st.booleans(), min_size=21, max_size=21))
def test_pope_is_that_of_lmms_eval(lmms_eval, predictions, golds):
    theirs = lmms_eval("tasks/pope/utils.py")
    metric = POPE([ask(str(i), references=("yes" if gold else "no",)) for i, gold in enumerate(golds)])
    rows = []
    for prediction, question in zip(predictions, metric.questions, strict=True):
        metric.update(prediction, question)
        doc = {"answer": question.references[0], "question_id": question.id}
        rows.append(theirs.pope_process_results(doc, [prediction])["pope_accuracy"])
    scores = metric.compute()
    for ours, function in {
        "accuracy": "accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1": "f1_score",
    }.items():
        assert scores[f"{ours}_lmms_eval"] == getattr(theirs, f"pope_aggregate_{function}")(rows)


@cases
@given(predictions=many)
def test_mme_answers_are_read_as_by_lmms_eval(lmms_eval, predictions):
    theirs = lmms_eval("tasks/mme/utils.py").parse_pred_ans
    for prediction in predictions:
        assert (yes_no_mme_lmms_eval(prediction) or "other") == theirs(prediction)


@pytest.mark.parametrize("seed", range(30))
def test_mme_points_are_those_of_lmms_eval(lmms_eval, seed):
    theirs = lmms_eval("tasks/mme/utils.py")
    draw = random.Random(seed)
    subtasks = draw.sample((*PERCEPTION, *COGNITION), draw.randint(1, 14))
    questions = [
        ask(f"{subtask}/{image}#{i}", category=subtask, meta={"pair": image}, references=(draw.choice(["Yes", "No"]),))
        for subtask in subtasks
        for image in range(draw.randint(1, 9))
        for i in range(2)
    ]
    draw.shuffle(questions)
    metric, rows = MME(questions), {"mme_perception_score": [], "mme_cognition_score": []}
    for question in questions:
        prediction = draw.choice(["Yes", "no", "No.", "Yes, it is", "y", "The answer is yes", "Not sure", "", " yes"])
        metric.update(prediction, question)
        doc = {"answer": question.references[0], "category": question.category, "question_id": question.meta["pair"]}
        for key, row in theirs.mme_process_results(doc, [prediction]).items():
            rows[key].append(row)
    scores = metric.compute()
    for name in ("perception", "cognition"):
        assert scores[f"{name}_lmms_eval"] == pytest.approx(
            theirs.mme_aggregate_results(rows[f"mme_{name}_score"]), rel=1e-14
        )


OPTIONS = ["cat", "dog", "a cat", "5", "DNA", "", "yes it is"]
choices = st.lists(st.one_of(st.sampled_from(OPTIONS), words), min_size=2, max_size=5)


@cases
@given(predictions=many, options=choices)
def test_mmmu_letters_are_those_of_lmms_eval(lmms_eval, predictions, options):
    module = lmms_eval("tasks/mmmu/utils.py")
    texts, letters = module.get_multi_choice_info(options)
    for prediction in [*predictions, f"I would say that it may be {options[0]} in the end"]:
        ours = mmmu_letter(prediction, options, "lmms_eval")
        if ours is not None:
            assert module.parse_multi_choice_response(prediction, letters, texts) == ours
            continue
        # Nothing was found: theirs draws at random, so over some seeds it answers more than one letter.
        drawn = set()
        for seed in range(60):
            random.seed(seed)
            drawn.add(module.parse_multi_choice_response(prediction, letters, texts))
            if len(drawn) > 1:
                break
        assert len(drawn) > 1


@cases
@given(predictions=many, answers=st.lists(outputs, min_size=1, max_size=3))
def test_mmmu_open_answers_are_those_of_lmms_eval(lmms_eval, predictions, answers):
    module = lmms_eval("tasks/mmmu/utils.py")
    for prediction in [*predictions, f"So the answer is {answers[0]}", f"x = {answers[-1]}."]:
        theirs = module.parse_open_response(prediction)
        ours = mmmu_candidates(prediction)
        assert {repr(c) for c in ours} == {repr(c) for c in theirs}
        assert mmmu_open_match(ours, answers) == module.eval_open(answers, theirs)


def test_mmmu_accuracy_is_that_of_lmms_eval(lmms_eval):
    module, draw = lmms_eval("tasks/mmmu/utils.py"), random.Random(0)
    subjects = ["Accounting", "Art_Theory", "Math", "Pharmacy", "Psychology", "Materials"]
    questions, docs = [], []
    for number in range(300):
        subject, is_open = draw.choice(subjects), draw.random() < 0.3
        gold = draw.choice(["5", "0.33", "red", "1,000"]) if is_open else draw.choice("ABCD")
        options = [] if is_open else ["cat", "dog", "red fox", "5"]
        key = f"validation_{subject}_{number}"
        questions.append(ask(key, references=(gold,), choices=tuple(options) or None, category=subject))
        kind = "open" if is_open else "multiple-choice"
        docs.append({"id": key, "question_type": kind, "answer": gold, "options": repr(options)})
    metric, rows = MMMU(questions), []
    for question, doc in zip(questions, docs, strict=True):
        prediction = draw.choice(["(A)", "B", "The answer is (C).", "D.", "so it is 5", "0.333", "x = 1000", "red"])
        metric.update(prediction, question)
        rows.append(module.mmmu_process_results(doc, [prediction])["mmmu_acc"])
    scores = metric.compute()
    unread = sum(v == 0 for v in metric.column("num_unparsed"))
    assert unread < 300, "some outputs name no letter"
    readable = [i for i, v in enumerate(metric.column("num_unparsed")) if v == 0]
    judged, _ = module.evaluate_mmmu([rows[i] for i in readable])
    for i in readable:
        assert (judged[docs[i]["id"]] == "Correct") == bool(metric.column("accuracy_lmms_eval")[i])
    assert scores["accuracy"] <= 1


@cases
@given(predictions=many)
def test_slake_answers_are_normalised_as_by_lmms_eval(lmms_eval, predictions):
    theirs = lmms_eval("tasks/slake/utils.py").normalize_answer
    for prediction in [*predictions, *(p.upper() for p in predictions)]:
        assert normalise_slake(prediction) == theirs(prediction)
