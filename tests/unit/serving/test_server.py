"""The server as its clients see it: OpenAI's own client, and clients that mean no good."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from dataclasses import asdict, replace

import httpx
import pytest
from limits import patient
from serving_parts import Asker, png, processor_of, running, url, user

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.serving.gate import Limits
from dragonfly_lit.serving.prompts import Message
from dragonfly_lit.serving.rows import SharedRows

openai = pytest.importorskip("openai")

KEY = "0123456789abcdef-key"


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def image(seed: int) -> dict:
    return {"type": "image_url", "image_url": {"url": url(seed)}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def ask(client, *parts, **fields):
    messages = fields.pop("messages", None) or [{"role": "user", "content": list(parts)}]
    return client.chat.completions.create(model="tiny", messages=messages, **{"max_tokens": 8, **fields})


@pytest.fixture(scope="module")
def expected(tiny):
    """What the engine says when it is asked directly."""
    asker = Asker(tiny, processor_of(tiny))
    yield asker.text
    asker.engine.stop()


def test_the_client_gets_what_the_engine_says(client, expected, tiny):
    answer = ask(client, image(1), image(2), text("what differs?"))
    choice = answer.choices[0]
    assert choice.message.content == expected(user(png(1), png(2), "what differs?"), max_tokens=8)
    assert choice.finish_reason in ("stop", "length")
    assert answer.model == "tiny"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = ask(client, image(1), image(2), text("what differs?"), extra_body={"zoom": True})
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    assert len(again.zoom[0]["kept"]) < len(again.zoom[0]["scores"])
    assert set(again.seconds) == {"prepared", "queued", "first_token", "total"}
    assert sum(again.image_tokens.values()) == tiny.layout.num_tokens


ZOOMS = [{"top_k": 2}, {"top_k": None}, {"score": "max"}, {"score": "question"}, {"low": False}, {"high": False},
         {"medium": False, "top_k": None}, {"regions": "raster", "top_k": 1, "low": False}]  # fmt: skip


@pytest.mark.parametrize("changes", ZOOMS, ids=str)
def test_another_zoom_is_what_a_model_of_that_zoom_sees(client, tiny, changes):
    """The same weights under another zoom, and the model's own zoom afterwards as before."""
    before = ask(client, image(4), text("what?"))
    zoom = replace(tiny.layout.zoom, **changes)
    other = tiny_model(3, zoom=asdict(zoom))
    other.load_state_dict(tiny.state_dict())
    asker = Asker(other, processor_of(other))
    events = asker.ask(user(png(4), "what?"), max_tokens=8)
    asker.engine.stop()
    answer = ask(client, image(4), text("what?"), extra_body={"zoom": changes})
    assert answer.choices[0].message.content == events[0].text
    assert answer.zoom == list(events[-1].zoom)
    assert sum(answer.image_tokens.values()) == other.layout.num_tokens
    assert ask(client, image(4), text("what?")).choices[0].message.content == before.choices[0].message.content


@pytest.mark.parametrize("changes", [{"top_k": 3}, {"top_k": 0}, {"score": "x"}, {"pool": 2}, {"medium": False}])
def test_a_zoom_that_is_none_is_refused(client, changes):
    with pytest.raises(openai.BadRequestError, match="zoom"):
        ask(client, image(4), text("what?"), extra_body={"zoom": changes})


def test_a_conversation_goes_on(client, expected):
    history = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [image(1), text("what?")]},
        {"role": "assistant", "content": "A shape."},
        {"role": "user", "content": "which one?"},
    ]
    told = [
        Message(role="system", parts=("Be brief.",)),
        user(png(1), "what?"),
        Message(role="assistant", parts=("A shape.",)),
        user("which one?"),
    ]
    assert ask(client, messages=history).choices[0].message.content == expected(*told, max_tokens=8)


def test_a_stream_is_the_same_answer_in_pieces(client):
    whole = ask(client, image(3), text("what is it?"), max_tokens=24, n=2, logprobs=True, top_logprobs=3)
    chunks = list(
        ask(
            client,
            image(3),
            text("what is it?"),
            max_tokens=24,
            n=2,
            logprobs=True,
            top_logprobs=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for index in range(2):
        own = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == whole.choices[index].message.content
        assert own[-1].finish_reason == whole.choices[index].finish_reason
        tokens = [token for choice in own if choice.logprobs for token in choice.logprobs.content]
        assert [t.token for t in tokens] == [t.token for t in whole.choices[index].logprobs.content]
        assert all(len(t.top_logprobs) == 3 and t.logprob == t.top_logprobs[0].logprob for t in tokens)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 6


def test_stop_seed_and_temperature_do_what_they_say(client):
    whole = ask(client, text("say something"), max_tokens=30).choices[0].message.content
    stop = whole[4:6]
    stopped = ask(client, text("say something"), max_tokens=30, stop=[stop, "never there"]).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"
    drawn = [ask(client, text("say"), temperature=1.5, top_p=0.9, seed=s).choices[0].message.content for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_models_health_and_numbers(client, served):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "dragonfly_lit"
    with pytest.raises(openai.NotFoundError, match="Use 'tiny'"):
        client.models.retrieve("gpt-4")
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    numbers = httpx.get(f"{served.url}/metrics").text
    for name in ('requests_total{status="200"}', "answered_tokens_total", "first_token_seconds_bucket", "known_images"):
        assert f"dragonfly_{name}" in numbers


def test_a_temperature_next_to_nothing_takes_the_likeliest_token_and_spoils_nobody(client, served):
    expected = ask(client, text("what?")).choices[0].message.content
    for temperature in (5e-324, 1e-300, 1e-40, 1e-7):
        for top_p in (1.0, 0.5, 1e-300):
            answer = ask(client, text("what?"), temperature=temperature, top_p=top_p, seed=1)
            assert answer.choices[0].message.content == expected
    assert served.engine.counts.failed == 0


PLACES = [
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    ({"messages": [{"role": "user", "content": [image(1), {"type": "audio"}]}]}, "messages.0.content.1"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "messages.0.content.0.image_url",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages.0.content.0.file.file_id"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ""}, "stop.0"),
    ({"stop": [5]}, "stop.0"),
    ({"stop": 5}, "stop"),
    ({"zoom": 5}, "zoom"),
    ({"zoom": {"q": 1}}, "zoom.q"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"n": 100}, "n"),
    ({"max_tokens": 2**30}, "max_tokens"),
    ({"max_tokens": int("9" * 4000)}, "max_tokens"),
]


@pytest.mark.parametrize(("wrong", "param"), PLACES, ids=[param for _, param in PLACES])
def test_what_is_wrong_is_named_as_its_sender_knows_it(client, wrong, param):
    fields = {"messages": [{"role": "user", "content": "x"}], "extra_body": wrong}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", **fields)
    assert caught.value.param == param
    assert len(caught.value.message) < 400


WRONG = {
    "temperature": {"temperature": 3},
    "top_p": {"top_p": -0.1},
    "n": {"n": 0},
    "max_tokens": {"max_tokens": 0},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "tools": {"extra_body": {"tools": []}},
    "messages": {"messages": [{"role": "assistant", "content": "me first"}]},
    "top_logprobs": {"top_logprobs": 2},
    "stop": {"stop": [""]},
}


@pytest.mark.parametrize("param", WRONG)
def test_what_is_not_done_is_refused_by_name(client, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, text("x"), **WRONG[param])
    assert caught.value.body["param"].split(".")[0] == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "address",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/x.png",
        "https://example.org/x.png",
        "A" * 100,
        "",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,aGFsbG8=",
        "data:text/plain,hello",
    ],
)
def test_an_image_that_is_none_is_refused_and_no_file_is_opened(client, address):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, {"type": "image_url", "image_url": {"url": address}}, text("what?"))
    assert len(str(caught.value)) < 700
    assert "root:" not in str(caught.value)


def test_the_context_is_a_limit_that_is_told(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, text("x" * 4000))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="the context is 2048"):
        ask(client, text("x"), max_tokens=2048)
    with pytest.raises(openai.BadRequestError, match="eot_id"):
        ask(client, text("<|eot_id|>"))


HOSTILE = {
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b'{"model":' + b"[" * 100_000,
    "half a character": b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}',
    "no UTF-8": b'{"model":"tiny","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "numbers": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"seed":1e400}',
    "not a number": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "huge": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"max_tokens":' + b"9" * 5000 + b"}",
    "zeros": b"\0" * 1000,
    "empty": b"",
    "a million numbers": b'{"model":"tiny","x":[' + b"0," * 1_000_000 + b"0]}",
    "a million keys": b"{" + b",".join(b'"%x":0' % n for n in range(1_000_000)) + b"}",
    "a million lists": b'{"model":' + b"[[]," * 1_000_000 + b"0]}",
    "many messages": b'{"model":"tiny","messages":[' + b'{"role":"user","content":"x"},' * 3000 + b"{}]}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_a_400_and_the_server_lives(served, name):
    headers = {"content-type": "application/json"}
    response = httpx.post(
        f"{served.url}/v1/chat/completions", content=HOSTILE[name], headers=headers, timeout=patient(30)
    )
    assert response.status_code == 400
    assert len(response.json()["error"]["message"]) < 700
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_a_body_of_many_values_costs_no_more_than_its_bytes(served):
    """Values in JSON become objects of many times their size, and errors about each of them."""
    start = time.process_time()
    for body in (HOSTILE["a million keys"], b'{"metadata":{' + b",".join(b'"%x":0' % n for n in range(60_000)) + b"}}"):
        headers = {"content-type": "application/json"}
        assert httpx.post(f"{served.url}/v1/chat/completions", content=body, headers=headers).status_code == 400
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions%0A", "/v1/chat/completions%0a%0a", "/v1/files%0A", "/health%0A"]
)
def test_no_spelling_of_a_path_goes_around_the_gate(tiny, path):
    with running(tiny, max_rows=1, max_waiting=0) as server, server.engine.place():
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
        assert httpx.post(server.url + path, json=body).status_code == 404


def test_other_methods_paths_and_forms_are_answered_in_the_same_form(served):
    for method, path, status in (("GET", "/v1/chat/completions", 405), ("POST", "/v1/x", 404), ("GET", "/../x", 404)):
        response = httpx.request(method, served.url + path)
        assert response.status_code == status
        assert response.json()["error"]["message"]
    # What a page of another site can send without asking.
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}]})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = httpx.post(f"{served.url}/v1/chat/completions", content=body, headers={"content-type": kind})
        assert response.status_code == 415
        assert "access-control-allow-origin" not in response.headers
    for host in ("evil.example", "127.0.0.1.evil.example:80", "", "[::1]x"):
        assert httpx.get(f"{served.url}/v1/models", headers={"host": host}).status_code == 403


def test_a_client_that_goes_away_is_not_answered_further(served):
    engine = served.engine
    ends, engine.answering.ends = engine.answering.ends, set()
    try:
        for stream in (True, False):
            before = engine.counts.cancelled
            connection = http.client.HTTPConnection("127.0.0.1", served.port)
            body = {
                "model": "tiny",
                "messages": [{"role": "user", "content": "x"}],
                "max_tokens": 1900,
                "stream": stream,
            }
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            wait_until(lambda: engine.num_active == 1)
            connection.sock.close()
            connection.close()
            wait_until(lambda before=before: engine.counts.cancelled == before + 1)
            wait_until(lambda: engine.num_active == 0 and engine._places == 0)
    finally:
        engine.answering.ends = ends


def wait_until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + patient(seconds)
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_server_says_when_to_come_back(tiny, monkeypatch):
    real = SharedRows.step

    def slow(self, words):
        time.sleep(0.02)
        return real(self, words)

    monkeypatch.setattr(SharedRows, "step", slow)  # nobody is ready before the time is over
    with running(tiny, max_rows=1, max_waiting=1, limits=Limits(seconds=2.0)) as server:
        server.engine.answering.ends = set()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        results = []

        def one() -> None:
            try:
                ask(client, text("x"), max_tokens=1900)
            except openai.APIStatusError as error:
                results.append(error)

        threads = [threading.Thread(target=one) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        full = [error for error in results if error.status_code == 429]
        assert len(full) == 4
        assert all(1 <= int(error.response.headers["retry-after"]) <= 60 for error in full)
        late = [error for error in results if error.status_code == 504]
        assert [error.response.headers["x-should-retry"] for error in late] == ["false"] * 2
        wait_until(lambda: server.engine._places == 0)
        assert ask(client, text("x"), max_tokens=2).usage.completion_tokens == 2


def test_a_key_is_asked_for_and_nothing_is_said_without_it(tiny):
    with running(tiny, api_key=KEY, hosts=None) as server:
        for key in ("", "wrong-key-0123456789", KEY[:-1], KEY + "x"):
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key or "x", max_retries=0)
            with pytest.raises(openai.AuthenticationError):
                ask(client, text("x"))
        for path in ("/v1/models", "/metrics", "/nothing"):
            assert httpx.get(server.url + path).status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        assert ask(client, text("x")).object == "chat.completion"


def test_any_of_several_keys_opens(tiny):
    keys = (KEY, "another-key-0123456")
    with running(tiny, api_key=keys, hosts=None) as server:
        statuses = [
            httpx.get(f"{server.url}/v1/models", headers={"authorization": given}).status_code
            for given in (*(f"Bearer {key}" for key in keys), f"Bearer {KEY}{keys[1]}", f"Basic {KEY}", KEY, "")
        ]
        assert statuses == [200, 200, 401, 401, 401, 401]


def test_bodies_pixels_and_images_have_limits(tiny):
    limits = Limits(body=20_000, pixels=64 * 60, images=2, tokens=16, body_seconds=1.0)
    with running(tiny, limits=limits, header_seconds=1.0) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert ask(client, image(0), text("x"))
        with pytest.raises(openai.BadRequestError, match=r"image 1: .* says it has 67x64 pixels") as caught:
            ask(client, image(1), text("x"))
        assert "data.max_pixels" not in str(caught.value), "a client has no configuration"
        with pytest.raises(openai.BadRequestError, match="3 images are more than the 2"):
            ask(client, image(0), image(0), image(0), text("x"))
        with pytest.raises(openai.BadRequestError, match="more than the 16"):
            ask(client, text("x"), max_tokens=17)
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client, text("x" * 30_000))
        assert caught.value.status_code == 413
        chunked = httpx.post(
            f"{server.url}/v1/chat/completions",
            content=iter([b"x" * 9000] * 9),
            headers={"content-type": "application/json"},
        )
        assert chunked.status_code == 413
        slow = {
            "head": b"GET /health HTTP/1.1\r\nHost: loc",
            "body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{",
            "nothing": b"",
        }
        for sent in slow.values():
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(sent)
                connection.settimeout(20)
                while connection.recv(1000):
                    pass  # an error or nothing, and then the end
        wait_until(lambda: server.engine._places == 0)


def test_what_goes_down_ends_what_was_begun(tiny):
    with running(tiny) as server:
        server.engine.answering.ends = set()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = ask(client, text("x"), max_tokens=300, stream=True)
        first = next(stream)
        server.listener.handle_exit(15, None)
        chunks = [first, *stream]
    assert chunks[-1].choices[0].finish_reason == "length"
