"""Requests that are answered together get what each would get alone."""

from __future__ import annotations

import io
import random
import threading
import time

import pytest
import torch
from limits import patient
from PIL import Image
from serving_parts import Asker, png, processor_of, user

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.serving import answering
from dragonfly_lit.serving.prompts import Message, TooLongError
from dragonfly_lit.serving.rows import SeparateRows, SharedRows
from dragonfly_lit.serving.sampling import Sampling
from dragonfly_lit.serving.tickets import Done, Failed, FullError, LateError, Piece, StoppedError
from dragonfly_lit.serving.words import AnswerText
from dragonfly_lit.spec.samples import turn_of_parts

MODELS = {
    "front": ({}, {}),
    "in place": ({}, {"images": "in_place"}),
    "zoom by the question": ({"zoom": {"score": "question"}}, {}),
    "nothing selected": ({"zoom": {"high": False}}, {}),
    "qwen3": ({"text": {"model_type": "qwen3"}}, {}),
}


def alone(model, processor, messages, num: int) -> list[int]:
    """The tokens of transformers' generate, one question at a time."""
    turns = [turn_of_parts(m.role, [None if isinstance(p, bytes) else p for p in m.parts]) for m in messages]
    images = [Image.open(io.BytesIO(p)).convert("RGB") for m in messages for p in m.parts if isinstance(p, bytes)]
    inputs = processor(text=[processor.format.text(turns)], images=[images or None], return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=num, do_sample=False)
    words = ids[0, inputs["input_ids"].shape[1] :].tolist()
    ends = {processor.ids.end_of_turn, processor.ids.end}
    return [word for word in words if word not in ends]


def conversations(draw: random.Random, pictures: list[bytes], number: int):
    for n in range(number):
        words = f"{'what is ' * draw.randint(1, 9)}{n}?"
        parts: list[str | bytes] = [*draw.sample(pictures, draw.randint(0, 2)), words]
        draw.shuffle(parts)
        before = [user("earlier?", png(9)), Message(role="assistant", parts=("this",))] if draw.random() < 0.2 else []
        system = [Message(role="system", parts=("Be brief.",))] if draw.random() < 0.3 else []
        yield [*system, *before, user(*parts)]


@pytest.mark.parametrize("rows", [SharedRows, SeparateRows])
@pytest.mark.parametrize("name", MODELS)
def test_random_arrivals_get_token_for_token_what_each_gets_alone(name, rows):
    fields, of_processor = MODELS[name]
    model = tiny_model(5, **fields)
    processor, draw = processor_of(model, **of_processor), random.Random(name)
    asker = Asker(model, processor, max_rows=4, max_waiting=99, cache_tokens=1600, prefix_tokens=700)
    assert type(asker.engine.answering.rows) is SharedRows
    if rows is SeparateRows:
        asker.engine.answering.rows = SeparateRows(model)
    jobs = [
        (messages, draw.randint(1, 14), draw.choice([1, 1, 2]), draw.random() * 0.3, draw.random() < 0.15)
        for messages in conversations(draw, [png(n) for n in range(3)], 16)
    ]
    answers = {}

    def ask(number: int) -> None:
        messages, num_tokens, num, wait, leaves = jobs[number]
        time.sleep(wait)
        fields = {"max_tokens": num_tokens, "num": num, "stream": number % 2 == 0, "sampling": Sampling(logprobs=0)}
        ticket, events, ended = asker.submit(*messages, **fields)
        if leaves:
            ticket.cancel()
            return
        assert ended.wait(patient(60))
        answers[number] = events

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asker.engine.stop()
    assert len(answers) == sum(not leaves for *_, leaves in jobs)
    for number, events in answers.items():
        messages, num_tokens, num, *_ = jobs[number]
        expected = alone(model, processor, messages, num_tokens)
        assert isinstance(events[-1], Done)
        for choice in range(num):
            told = [e for e in events if isinstance(e, Piece) and e.choice == choice]
            assert [token.word for piece in told for token in piece.tokens] == expected
            assert "".join(piece.text for piece in told) == processor.tokenizer.decode(
                expected, skip_special_tokens=True
            )
            assert [piece.reason for piece in told[:-1]] == [None] * (len(told) - 1)
            assert told[-1].reason == ("length" if len(expected) == num_tokens else "stop")
        assert events[-1].num_answered == num * len(expected)


def test_rows_that_come_and_go_see_nothing_of_each_other(tiny):
    """Keys and values of a row are bit for bit those of its own prompt, wherever others put it."""
    draw, rows = random.Random(0), SharedRows(tiny, 10**6)
    caches = {}

    def cache_of(number: int):
        ids = torch.arange(3 + 5 * number)[None] % 200
        return tiny(input_ids=ids, use_cache=True).past_key_values

    held: list[int] = []
    with torch.inference_mode():
        for number in range(30):
            cache = cache_of(number % 7)
            caches[number] = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
            rows.join(cache, 40)
            held.append(number)
            if len(held) > 3:
                row = draw.randrange(len(held))
                rows.leave(row)
                held[row] = held[-1]
                held.pop()
            for row, one in enumerate(held):
                length = caches[one][0][0].shape[2]
                for layer, (keys, values) in enumerate(caches[one]):
                    assert torch.equal(rows._keys[layer][row, :, :length], keys[0])
                    assert torch.equal(rows._values[layer][row, :, :length], values[0])


def test_an_image_is_looked_at_once_however_often_it_is_asked_about(tiny, asker, monkeypatch):
    seen, real = [], type(tiny).encode_images

    def encode(self, pixels, *more):
        seen.append(len(pixels))
        return real(self, pixels, *more)

    monkeypatch.setattr(type(tiny), "encode_images", encode)
    asked = [asker.submit(user(png(n % 2), f"question {n}?"), max_tokens=4) for n in range(6)]
    assert all(ended.wait(patient(60)) for *_, ended in asked)
    assert seen == [1, 1]
    assert asker.engine.prefixes.hits == 4
    events = asker.ask(user(png(0), "another?"), max_tokens=2)
    assert len(asker.prompts.make([user(png(0), "x")]).crops) == 0
    assert seen == [1, 1]
    assert events[-1].known == tiny.layout.num_tokens
    assert events[-1].zoom[0]["kept"] is not None


def test_what_is_kept_of_images_is_bounded_and_the_last_ones_are_kept(tiny):
    tokens = tiny.layout.num_tokens
    asker = Asker(tiny, processor_of(tiny), prefix_tokens=2 * tokens)
    for n in (0, 1, 0, 2):
        asker.ask(user(png(n), "what?"), max_tokens=1)
    known = [bool(asker.prompts.make([user(png(n), "what?")]).prefix) for n in range(3)]
    asker.engine.stop()
    assert known == [True, False, True]


def test_sampling_depends_on_the_seed_and_on_nobody_else(asker):
    sampling = Sampling(temperature=1.5, top_p=0.9, seed=7)
    question = user(png(1), "what is it?")
    one = asker.text(question, sampling=sampling, max_tokens=12)
    others = [asker.submit(user(f"{n}?" * n), max_tokens=9, sampling=Sampling(temperature=1.0)) for n in range(1, 4)]
    assert asker.text(question, sampling=sampling, max_tokens=12) == one
    assert all(ended.wait(patient(60)) for *_, ended in others)
    assert asker.text(question, sampling=Sampling(temperature=1.5, seed=8), max_tokens=12) != one
    greedy = asker.text(question, max_tokens=12)
    assert asker.text(question, sampling=Sampling(temperature=1.5, top_p=0.0, seed=1), max_tokens=12) == greedy
    several = asker.ask(question, sampling=sampling, max_tokens=12, num=3)
    texts = ["".join(e.text for e in several[:-1] if e.choice == n) for n in range(3)]
    assert texts[0] == one
    assert len(set(texts)) == 3


def test_more_requests_than_places_are_turned_away_with_a_time(asker):
    places = [asker.engine.place() for _ in range(12)]
    for place in places:
        place.__enter__()
    with pytest.raises(FullError) as caught, asker.engine.place():
        pass
    assert 1 <= caught.value.retry_after <= 60
    places[0].__exit__(None, None, None)
    with asker.engine.place():
        pass


def test_a_request_that_is_cancelled_gives_its_rows_to_others(asker):
    asker.engine.answering.ends = set()  # random weights may end early
    ticket, _, ended = asker.submit(user("long?"), max_tokens=1500, num=4)
    time.sleep(0.3)
    start = asker.engine.counts.steps
    assert asker.engine.num_active == 4
    ticket.cancel()
    assert asker.text(user("short?"), max_tokens=3)
    assert asker.engine.counts.steps - start < 400
    assert not ended.is_set()
    assert asker.engine.counts.cancelled == 1


def test_a_late_request_fails_and_the_next_one_is_answered(asker):
    asker.engine.answering.ends = set()
    events = asker.ask(user("long?"), max_tokens=2000, seconds=0.2)
    assert isinstance(events[-1].error, LateError)
    waiting = [asker.submit(user("w?"), max_tokens=1900, seconds=0.3) for _ in range(6)]
    assert all(ended.wait(patient(60)) for *_, ended in waiting)
    assert all(isinstance(events[-1].error, LateError) for _, events, _ in waiting)
    assert asker.text(user("short?"), max_tokens=3)


def test_what_breaks_one_request_ends_no_other(asker, monkeypatch):
    real = type(asker.engine.answering.reader).read

    def read(self, prompt):
        if len(prompt) % 2:
            raise RuntimeError("odd")
        return real(self, prompt)

    monkeypatch.setattr(type(asker.engine.answering.reader), "read", read)
    odd, even = ("x", "xx") if len(asker.prompts.make([user("x")])) % 2 else ("xx", "x")
    long = asker.submit(user(even), max_tokens=60)
    assert isinstance(asker.ask(user(odd), max_tokens=3)[-1], Failed)
    assert long[2].wait(patient(60))
    assert isinstance(long[1][-1], Done)


def test_a_step_that_fails_is_told_and_the_engine_goes_on(asker, monkeypatch):
    expected = asker.text(user("what?"), max_tokens=6)
    real, calls = SharedRows.step, []

    def step(self, words):
        calls.append(words)
        if len(calls) == 2:
            raise RuntimeError("memory")
        return real(self, words)

    monkeypatch.setattr(SharedRows, "step", step)
    assert isinstance(asker.ask(user("what?"), max_tokens=6)[-1], Failed)
    assert asker.text(user("what?"), max_tokens=6) == expected


class Broken(AnswerText):
    """A text that breaks at its third token."""

    def push(self, word: int) -> str:
        if len(self._words) == 2:
            raise RuntimeError("no such token")
        return super().push(word)


@pytest.mark.parametrize("how", ["its numbers", "its text"])
def test_a_row_that_breaks_in_a_step_ends_no_other(asker, monkeypatch, how):
    """Three requests are one pass; one of them, of two answers, breaks in the middle."""
    asker.engine.answering.ends = set()
    expected = [asker.text(user(f"{n}?"), max_tokens=12) for n in range(3)]
    seeds = {Sampling(seed=n, temperature=1.0 if n == 1 else 0.0): n for n in range(3)}
    if how == "its text":
        real_row = answering.Row.__init__

        def made(self, ticket, index, tokenizer) -> None:
            real_row(self, ticket, index, tokenizer)
            if ticket.request.num == 2 and index == 1:
                self.text = Broken(tokenizer)

        monkeypatch.setattr(answering.Row, "__init__", made)
    else:
        real = answering.choose_all

        def choose(logits, samplers, never):
            bad = [sampler.sampling.temperature > 0 and len(samplers) == 4 for sampler in samplers]
            return real(logits.masked_fill(torch.tensor(bad)[:, None], float("nan")), samplers, never)

        monkeypatch.setattr(answering, "choose_all", choose)
    asked = [
        asker.submit(user(f"{n}?"), max_tokens=12, num=2 if n == 1 else 1, stream=True, sampling=sampling)
        for sampling, n in seeds.items()
    ]
    assert all(ended.wait(patient(60)) for *_, ended in asked)
    kinds = [[type(event) for event in events if not isinstance(event, Piece)] for _, events, _ in asked]
    assert kinds == [[Done], [Failed], [Done]]
    for n in (0, 2):
        assert "".join(event.text for event in asked[n][1] if isinstance(event, Piece)) == expected[n]
    assert asker.engine.counts.failed == 1
    assert asker.text(user("0?"), max_tokens=12) == expected[0]
    assert asker.engine.answering.rows.lengths == []


def test_an_answer_that_goes_on_holds_no_pixels(asker):
    asker.engine.answering.ends = set()
    ticket, _, _ = asker.submit(user(png(1), png(2), "what?"), max_tokens=1200)
    end = time.monotonic() + patient(60)
    while asker.engine.counts.steps == 0 and time.monotonic() < end:
        time.sleep(0.01)
    assert ticket.request.prompt.crops == ()
    assert len(ticket.request.prompt) > 2 * asker.model.layout.num_tokens
    ticket.cancel()


def test_a_listener_that_is_gone_ends_only_its_own_request(asker):
    from dragonfly_lit.serving.tickets import Request

    def gone(_) -> None:
        raise RuntimeError("closed")

    asker.engine.submit(Request(prompt=asker.prompts.make([user("a?")]), listener=gone, stream=True, max_tokens=50))
    assert asker.text(user("b?"), max_tokens=3)


def test_what_can_never_fit_is_refused_at_once(asker):
    with pytest.raises(ValueError, match="the context is 2048 tokens"):
        asker.submit(user("x"), max_tokens=5000)
    with pytest.raises(ValueError, match="n=5 answers are more than the 4"):
        asker.submit(user("x"), num=5)
    with pytest.raises(TooLongError, match="the conversation takes"):
        asker.prompts.make([user("x" * 3000)])
    with pytest.raises(ValueError, match="9 images are more than the 8"):
        asker.prompts.make([user(*[png(1)] * 9, "x")])
    with pytest.raises(ValueError, match="eot_id"):
        asker.prompts.make([user("<|eot_id|>")])


def test_an_engine_that_goes_down_ends_what_it_can_and_fails_the_rest(tiny):
    asker = Asker(tiny, processor_of(tiny), max_rows=1)
    asker.engine.answering.ends = set()
    short, long = asker.submit(user("a"), max_tokens=5), asker.submit(user("b"), max_tokens=2000)
    asker.engine.retire(1.0)
    assert short[2].wait(patient(30))
    assert long[2].wait(patient(30))
    assert isinstance(short[1][-1], Done)
    assert isinstance(long[1][-1].error, StoppedError)
    with pytest.raises(StoppedError):
        asker.submit(user("c"))
    asker.engine.stop()


def test_a_model_that_cannot_attend_in_place_is_served_row_by_row(caplog):
    model = tiny_model(3)
    handle = model.get_decoder().register_forward_hook(lambda *_: None)
    asker = Asker(model, processor_of(model))
    asker.engine.stop()
    handle.remove()
    assert type(asker.engine.answering.rows) is SeparateRows
    assert "one after the other, token by token" in caplog.text
