"""Several draws a question, and every rotation of its choices: worked cases, and the same bytes after kills."""

import json
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import pytest
import torch
from test_runner_resume import PROCESSOR, SETTINGS, Words, asked, go, model, picture, predictions, timeless  # noqa: F401

from dragonfly_lit.evaluation import answers as store
from dragonfly_lit.evaluation import robustness
from dragonfly_lit.evaluation.asking import all_right, asks, majority, pass_at, rotated
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.evaluation.metrics.base import Score
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
from dragonfly_lit.evaluation.perturb import Perturbation
from dragonfly_lit.evaluation.prompts import CHOICES, PromptBook, Template
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.requests import GenerationRequest
from dragonfly_lit.evaluation.runner import run, score_predictions
from dragonfly_lit.evaluation.shots import shots
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.processing.images import decode
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.prompts import question_text, render
from dragonfly_lit.spec.records import Turn


@dataclass(frozen=True, kw_only=True)
class Choices(Words):
    metric_type: ClassVar = MultipleChoice

    def read(self, folder):
        for row, question in enumerate(super().read(folder)):
            yield replace(question, choices=("red", "blue", "green"), references=("ABC"[row % 3],))

    def metric(self, questions, judged=None):
        return MultipleChoice(questions)


def marked(*scores: float, parsed=None) -> list[Score]:
    said = parsed or [str(score) for score in scores]
    return [
        Score(parsed=read, score=score, lenient_parsed=read, lenient_score=score, values={"accuracy": score})
        for read, score in zip(said, scores, strict=True)
    ]


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_choices_of_k_draws_with_a_right_one(right, k):
    scores = marked(*[1.0] * right, *[0.0] * (5 - right))
    subsets = [any(score.score for score in subset) for subset in combinations(scores, k)]
    assert pass_at(k, scores) == pytest.approx(sum(subsets) / len(subsets))


def test_the_majority_is_of_what_was_read():
    assert majority(marked(0, 1, 1, parsed=["cat", "dog", "dog"])) == 1
    assert majority(marked(1, 0, parsed=["dog", "cat"])) == 1, "the first of equals"
    assert majority(marked(0, 0, 1, parsed=[None, None, "dog"])) == 1, "what could not be read has no vote"
    assert majority(marked(0, 0, parsed=[None, None])) == 0


def test_rotations_move_the_letter_of_the_answer():
    question = Question(id="q", task="t", text="?", choices=("w", "x", "y"), references=("B",))
    turned = [rotated(question, by) for by in range(3)]
    assert [one.choices for one in turned] == [("w", "x", "y"), ("x", "y", "w"), ("y", "w", "x")]
    assert [one.references for one in turned] == [("B",), ("A",), ("C",)]
    assert all(one.choices["ABC".index(one.references[0])] == "x" for one in turned)


def test_a_question_is_right_only_when_all_its_rotations_are():
    assert all_right(marked(1, 1, 0)).score == 0
    assert all_right(marked(1, 1, 1)).values == {"accuracy": 1}
    unread = replace(marked(0)[0], values={"accuracy": 0.0, "num_unparsed": 1.0})
    read = replace(marked(1)[0], values={"accuracy": 1.0, "num_unparsed": 0.0})
    assert all_right([read, unread]).values == {"accuracy": 0, "num_unparsed": 1}


def circular(tmp_path, said):
    benchmark = Choices(circular=True)
    wanted = asks(benchmark, benchmark.questions(tmp_path), SETTINGS)
    given = [{"id": a.question.id, "turn": a.turn, "prediction": said(a.question)} for a in wanted]
    path = predictions(tmp_path / "p.jsonl", given)
    return score_predictions(benchmark, path, tmp_path / "out", settings=SETTINGS)["benchmarks"]["words"]


def test_always_the_first_letter_gets_nothing_in_circular_evaluation(tmp_path):
    entry = circular(tmp_path, lambda question: "A")
    assert entry["scores"]["accuracy"] == 0
    assert entry["unparsed"]["official"] == 0
    assert (entry["asked"]["draws"], entry["asked"]["circular"]) == (1, True)
    entry = circular(tmp_path, lambda question: question.references[0])
    assert entry["scores"]["accuracy"] == 1
    assert len((tmp_path / "out/answers/words.jsonl").read_text().splitlines()) == 17 * 3


def test_draws_give_means_pass_at_k_and_the_vote(tmp_path):
    settings = replace(SETTINGS, temperature=0.7, draws=3)
    gold = {question.id: question.references[0] for question in Words().questions(tmp_path)}
    given = [
        {"id": key, "turn": turn, "prediction": answer if turn < (2 if key == "w0" else 1) else "maybe"}
        for key, answer in gold.items()
        for turn in range(3)
    ]
    path = predictions(tmp_path / "p.jsonl", given)
    entry = score_predictions(Words(), path, tmp_path / "out", settings=settings)["benchmarks"]["words"]
    assert entry["scores"]["accuracy"] == pytest.approx((16 / 3 + 2 / 3) / 17)
    assert entry["scores"]["pass@1"] == pytest.approx(entry["scores"]["accuracy"])
    assert entry["scores"]["pass@3"] == 1
    assert entry["scores"]["pass@2"] == pytest.approx((16 * 2 / 3 + 1) / 17)
    assert entry["scores"]["majority"] == 1 / 17
    assert entry["intervals"]["pass@3"][0] < 1
    assert "pass@3" in entry["wilson"]


@pytest.mark.parametrize("way", ["circular", "draws", "loglikelihood", "text", "shots", "perturb"])
def test_a_kill_changes_no_byte_whichever_way_is_asked(tmp_path, model, asked, monkeypatch, way):  # noqa: F811
    changes = {
        "circular": {"task": Choices(circular=True, num=7)},
        "draws": {"task": Words(num=7), "temperature": 0.7, "draws": 3},
        "loglikelihood": {"task": Choices(num=21), "scoring": "loglikelihood"},
        "text": {"task": Longer(num=21), "scoring": "loglikelihood", "likelihood_of": "text"},
        "shots": {"task": Split(num=21), "shots": 1},
        "perturb": {"task": Words(num=21), "perturb": Perturbation(kind="jpeg", strength=5)},
    }[way]
    go(tmp_path / "whole", model, **changes)
    assert len(asked) == 21
    real, left = store.append, [1]

    def dies(path, answers):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, answers)

    with monkeypatch.context() as patch:
        patch.setattr(store, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "killed", model, **changes, batch_tokens=900)
    asked.clear()
    go(tmp_path / "killed", model, **changes)
    assert 0 < len(asked) < 21
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")
    for file in ("answers/words.jsonl", "results.md"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_draws_differ_and_the_first_is_that_of_a_single_one(tmp_path, model, asked):  # noqa: F811
    go(tmp_path, model, temperature=3.0)
    alone = [a.output for a in store.read(tmp_path / "answers/words.jsonl").values()]
    asked.clear()
    go(tmp_path, model, temperature=3.0, draws=4)
    lines = [json.loads(line) for line in (tmp_path / "answers/words.jsonl").read_text().splitlines()]
    assert len(asked) == 17 * 3, "the first draw is there already"
    assert [line["output"] for line in lines if line["turn"] == 0] == alone
    assert len({line["output"] for line in lines if line["id"] == "w1"}) > 1


@pytest.mark.parametrize(
    ("benchmark", "changes", "message"),
    [
        (Words(circular=True), {}, "circular=true: the questions of words have no choices"),
        (Choices(circular=True), {"temperature": 1.0, "draws": 2}, r"sampling.n=2: words is asked in every rotation"),
        (BENCHMARKS["mm_vet"](), {"temperature": 1.0, "draws": 2}, r"sampling.n=2: a judge scores mm_vet"),
        (
            Choices(circular=True),
            {"scoring": "loglikelihood", "likelihood_of": "text"},
            "circular=true: with likelihood.of=text the prompt of words shows no choices",
        ),
    ],
)
def test_what_cannot_be_asked_like_that_is_named(tmp_path, benchmark, changes, message):
    questions = [] if benchmark.judged else benchmark.questions(tmp_path)
    with pytest.raises(ValueError, match=message):
        asks(benchmark, questions, replace(SETTINGS, **changes))


def test_draws_need_a_temperature():
    with pytest.raises(ValueError, match=r"sampling\.n=3: the likeliest answer is always the same"):
        replace(SETTINGS, draws=3)


# Likelihoods of choices


def test_the_likeliest_letter_is_the_answer_in_one_pass(tmp_path, model, monkeypatch):  # noqa: F811
    decoded = []
    for name in ("_decode", "_decode_in_place"):
        monkeypatch.setattr(BatchGenerator, name, lambda self, *args: decoded.append(args))
    go(tmp_path, model, task=Choices(num=7), scoring="loglikelihood")
    assert decoded == []
    lines = [json.loads(line) for line in (tmp_path / "answers/words.jsonl").read_text().splitlines()]
    tokens = PROCESSOR.tokenizer.convert_tokens_to_ids(["A", "B", "C"])
    for line, question in zip(lines, Choices(num=7).questions(tmp_path), strict=True):
        images = [decode(data) for data in question.read_images()]
        inputs = PROCESSOR(text=[question_text(line["prompt"])], images=[images or None], return_tensors="pt")
        with torch.inference_mode():
            alone = model(**inputs).logits[0, -1].log_softmax(-1)[tokens]
        assert line["likelihoods"] == pytest.approx(alone.tolist(), abs=1e-3)
        assert line["output"] == "ABC"[line["likelihoods"].index(max(line["likelihoods"]))]


TEXTS = ("red", "a much longer blue, with words", "green", "red", "")


def alone_of(answering, prompt: str, images: list, text: str) -> list[float]:
    """One choice after its prompt in one pass: the logarithm of each of its tokens, and of the end of its turn."""
    answered = f"{question_text(prompt)}{text}<|eot_id|>"
    ids = [
        PROCESSOR(text=[each], images=[images or None], return_tensors="pt")
        for each in (question_text(prompt), answered)
    ]
    before = ids[0]["input_ids"].shape[1]
    with torch.inference_mode():
        likely = answering(**ids[1]).logits[0].float().log_softmax(-1)
    whole = ids[1]["input_ids"][0]
    return [float(likely[place - 1, whole[place]]) for place in range(before, len(whole))]


@dataclass(frozen=True, kw_only=True)
class Longer(Choices):
    def read(self, folder):
        for row, question in enumerate(super().read(folder)):
            yield replace(question, choices=TEXTS[: 2 + row % 4], references=("AB"[row % 2],))


@pytest.mark.parametrize("length", ["tokens", "characters", "none"])
@pytest.mark.parametrize("zoom", [{}, {"score": "question"}])
def test_the_likeliest_text_is_that_of_one_by_one(tmp_path, length, zoom):
    answering = tiny_model(seed=3, zoom=zoom).eval()
    task = Longer(num=9)
    for batch_tokens in (1, 3000, 100_000):
        out = tmp_path / str(batch_tokens)
        texts = {"likelihood_of": "text", "likelihood_length": length, "batch_tokens": batch_tokens}
        go(out, answering, task=task, scoring="loglikelihood", **texts)
        lines = [json.loads(line) for line in (out / "answers/words.jsonl").read_text().splitlines()]
        for line, question in zip(lines, task.questions(tmp_path), strict=True):
            assert line["prompt"] == question.text, "the question alone"
            images = [decode(data) for data in question.read_images()]
            expected = []
            for choice in question.choices:
                tokens = alone_of(answering, line["prompt"], images, choice)
                sums = {"tokens": sum(tokens) / len(tokens), "none": sum(tokens[:-1])}
                sums["characters"] = sums["none"] / max(1, len(choice))
                expected.append(sums[length])
            assert line["likelihoods"] == pytest.approx(expected, abs=2e-5)
            first = "ABCDE"[line["likelihoods"].index(max(line["likelihoods"]))]
            assert line["output"] == first != "D", "of two equal choices the first one"


def test_a_prompt_is_read_once_for_all_its_choices(tmp_path, model, monkeypatch):  # noqa: F811
    read = []
    forward = BatchGenerator._forward
    monkeypatch.setattr(
        BatchGenerator, "_forward", lambda self, ids, *a, **m: read.append(ids.shape) or forward(self, ids, *a, **m)
    )
    go(tmp_path, model, task=Longer(num=1), scoring="loglikelihood", likelihood_of="text")
    lengths = [len(PROCESSOR.tokenizer.encode(text, add_special_tokens=False)) for text in TEXTS[:2]]
    assert [shape[0] for shape in read] == [1, 1, 2], "the images, the rest of the prompt, then a row a choice"
    assert read[-1][1] == max(lengths)


def test_results_say_that_texts_were_compared(tmp_path, model):  # noqa: F811
    results = go(tmp_path, model, task=Longer(num=4), scoring="loglikelihood", likelihood_of="text")
    entry = results["benchmarks"]["words"]
    assert entry["prompt"]["set"] == "question alone"
    assert entry["prompt"]["text"] == "{context}{question}"
    assert "whose text is likeliest (mean over its tokens" in (tmp_path / "results.md").read_text()


def test_lengths_are_of_texts_alone():
    for changes in ({}, {"scoring": "loglikelihood"}):
        with pytest.raises(ValueError, match=r"likelihood\.length=none: only texts of choices have lengths") as error:
            replace(SETTINGS, likelihood_length="none", **changes)
        assert "\n" not in str(error.value)


@dataclass(frozen=True, kw_only=True)
class Edited(Longer):
    """The same questions, of which the first has another choice."""

    def read(self, folder):
        for row, question in enumerate(super().read(folder)):
            yield question if row else replace(question, choices=(*question.choices[:-1], "an edited choice"))


def test_an_edited_choice_that_no_prompt_shows_is_asked_anew(tmp_path, model, asked):  # noqa: F811
    texts = {"scoring": "loglikelihood", "likelihood_of": "text"}
    go(tmp_path, model, task=Longer(num=6), **texts)
    asked.clear()
    go(tmp_path, model, task=Edited(num=6), **texts)
    assert asked == ["w0"]


def test_rotated_texts_have_keys_of_their_own(tmp_path, model, asked):  # noqa: F811
    shown = PromptBook(name="own", default=Template(text="{question}"), templates={"words": Template(text=CHOICES)})
    texts = {"scoring": "loglikelihood", "likelihood_of": "text", "prompts": shown}
    go(tmp_path, model, task=Choices(num=4, circular=True), **texts)
    assert len(set(asked)) == len(store.read(tmp_path / "answers/words.jsonl")) == 4 * 3


def test_likelihoods_need_choices(tmp_path, model):  # noqa: F811
    with pytest.raises(ValueError, match="scoring=loglikelihood: question w0 of words has no choices"):
        go(tmp_path, model, scoring="loglikelihood")


# Examples


@dataclass(frozen=True, kw_only=True)
class Split(Words):
    splits: ClassVar = ("test", "train")

    def read(self, folder):
        for question in super().read(folder):
            text = question.text if self.split == "test" else f"train {question.text}"
            yield replace(question, id=f"{self.split}-{question.id}", text=text)


def spy_of_requests(monkeypatch):
    seen, real = [], BatchGenerator.plan
    monkeypatch.setattr(BatchGenerator, "plan", lambda self, all_: (seen.extend(all_), real(self, all_))[1])
    return seen


def test_examples_come_first_with_their_images_and_answers(tmp_path, model, monkeypatch):  # noqa: F811
    seen = spy_of_requests(monkeypatch)
    results = go(tmp_path, model, task=Split(num=6), shots=2, shots_seed=5, batch_tokens=4000)
    assert results["benchmarks"]["words"]["asked"]["shots_seed"] == 5
    chosen = shots(Split(num=6), replace(SETTINGS, shots=2, shots_seed=5, data_root=tmp_path))
    assert all(shot.question.id.startswith("train-") for shot in chosen)
    assert len({request.examples for request in seen}) == 1
    assert seen[0].examples == tuple((shot.prompt, shot.question.references[0]) for shot in chosen)
    num_images = sum(len(shot.question.images) for shot in chosen)
    for request, question in zip(seen, Split(num=6).questions(tmp_path), strict=True):
        assert len(request.image_keys) == len(request.read_images()) == num_images + len(question.images)
    answers = store.read(tmp_path / "answers/words.jsonl").values()
    assert [len(answer.zoom or ()) for answer in answers] == [len(answer.images) for answer in answers]
    assert chosen != shots(Split(num=6), replace(SETTINGS, shots=2, shots_seed=6, data_root=tmp_path))


@dataclass(frozen=True, kw_only=True)
class Placed(Split):
    """Two images a question, which its words name in either order."""

    numbers_images: ClassVar = True

    def read(self, folder):
        for row, question in enumerate(super().read(folder)):
            first, second = (1, 2) if row % 2 else (2, 1)
            text = f"{question.text}<image {first}> or <image {second}>?"
            yield replace(question, text=text, images=(picture(row), picture(row + 50)))


def test_examples_have_their_images_where_their_words_name_them(tmp_path, model, monkeypatch):  # noqa: F811
    seen = spy_of_requests(monkeypatch)
    settings = replace(SETTINGS, shots=3, batch_tokens=4000)
    in_place = DragonflyProcessor(PROCESSOR.image_processor, PROCESSOR.tokenizer, images="in_place")
    run([Placed(num=6)], model=model, processor=in_place, out=tmp_path, settings=settings)
    chosen = shots(Placed(num=6), replace(settings, data_root=tmp_path))
    assert len({shot.prompt.index("<image 1>") < shot.prompt.index("<image 2>") for shot in chosen}) == 2, "both orders"
    turns = seen[0].turns()
    images = seen[0].read_images()
    for number, shot in enumerate([*chosen, None]):
        question = shot.question if shot else Placed(num=6).questions(tmp_path)[0]
        prompt = shot.prompt if shot else question.text
        turn, own = turns[2 * number], list(images[2 * number : 2 * number + 2])
        expected = (
            list(question.images) if prompt.index("<image 1>") < prompt.index("<image 2>") else [*question.images][::-1]
        )
        assert own == expected
        words = prompt.replace("<image 1>", "").replace("<image 2>", "")
        assert (turn.text, turn.places) == (words, (words.index(" or ?"), words.index("?")))
    answers = store.read(tmp_path / "answers/words.jsonl").values()
    assert [len(answer.zoom) for answer in answers] == [2] * 6


def test_the_prompt_of_examples_is_a_conversation():
    request = GenerationRequest(id="q", prompt="Who?", examples=(("What?", "A cat"),))
    assert render(request.turns(), answer_next=True) == render(
        [Turn(role="user", text="What?"), Turn(role="assistant", text="A cat"), Turn(role="user", text="Who?")],
        answer_next=True,
    )


def test_examples_that_cannot_be_had_are_named(tmp_path, model):  # noqa: F811
    with pytest.raises(ValueError, match="shots=2: words has no split beside 'test' to take examples from"):
        go(tmp_path, model, shots=2)
    with pytest.raises(ValueError, match=r"shots=20: the split train of words has 6 questions"):
        go(tmp_path, model, task=Split(num=6), shots=20)
    with pytest.raises(ValueError, match=r"not 'dev'"):
        go(tmp_path, model, task=Split(num=6), shots=2, shots_split="dev")
    asks_first = tiny_model(seed=3, zoom={"score": "question"})
    with pytest.raises(ValueError, match=r"zoom\.score=question.*Give shots=0"):
        go(tmp_path, asks_first, task=Split(num=6), shots=2)


# Worse images


@pytest.mark.parametrize(
    ("kind", "strength", "size"), [("jpeg", 10, (40, 30)), ("downscale", 4, (10, 8)), ("crop", 0.2, (32, 24))]
)
def test_images_get_worse_as_said(kind, strength, size):
    data = picture(3)
    worse = decode(Perturbation(kind=kind, strength=strength).of(data))
    assert worse.size == size
    if kind == "crop":
        assert worse.tobytes() == decode(data).crop((4, 3, 36, 27)).tobytes()
    assert worse.tobytes() != decode(data).tobytes()


@pytest.mark.parametrize(("kind", "strength"), [("jpeg", 0), ("downscale", 0.5), ("crop", 1), ("blur", 1)])
def test_strengths_that_make_no_sense_are_named(kind, strength):
    with pytest.raises(ValueError, match=r"perturb\.(kind=blur|strengths: " + kind + ")"):
        Perturbation(kind=kind, strength=strength)


def test_worse_images_have_answers_of_their_own_and_a_curve(tmp_path, model, asked, monkeypatch):  # noqa: F811
    seen = spy_of_requests(monkeypatch)
    results = {"none": go(tmp_path / "out", model)}
    asked.clear()
    way = Perturbation(kind="downscale", strength=2)
    results["2"] = go(tmp_path / "out", model, perturb=way)
    assert len(asked) == 17
    assert results["2"]["benchmarks"]["words"]["asked"]["perturb"] == "downscale2"
    request = next(request for request in seen[17:] if request.image_keys)
    assert decode(request.read_images()[0]).size == (20, 15)
    assert results["2"]["benchmarks"]["words"]["data"] == results["none"]["benchmarks"]["words"]["data"]
    files = robustness.write(tmp_path, "downscale", results)
    found = json.loads((tmp_path / "curve.json").read_text())
    assert found["strengths"] == ["none", "2"]
    assert len(found["benchmarks"]["words"]["scores"]) == 2
    assert "| words | accuracy | 17 |" in (tmp_path / "curve.md").read_text()
    assert {"curve.svg", "curve.png"} <= {file.name for file in files}
