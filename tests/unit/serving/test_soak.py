"""Many clients, some of them hostile or gone: everything is answered or refused, and nothing is left behind."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter

import httpx
import pytest
from limits import patient
from serving_parts import running, url

from dragonfly_lit.serving.gate import Limits

psutil = pytest.importorskip("psutil")


def asked(draw: random.Random) -> dict:
    parts = [{"type": "image_url", "image_url": {"url": url(draw.randrange(6))}}] * draw.randint(0, 2)
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": f"{draw.random()}?"}]}],
        "max_tokens": draw.randint(1, 20),
        "stream": draw.random() < 0.5,
        "n": draw.choice([1, 1, 2]),
        "temperature": draw.choice([0.0, 1.0]),
    }


def raw(port: int, data: bytes, *, read: bool) -> None:
    """Send bytes and leave, at once or after some of the answer."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(120)  # an answer takes 60 s at most, so this is a hang
        connection.sendall(data)
        if read:
            connection.recv(100)


def one(server, draw: random.Random, seen: Counter) -> None:
    """One client does one thing."""
    kind = draw.choice(["ask"] * 6 + ["leave", "leave reading", "half", "garbage", "hostile"])
    body = json.dumps(asked(draw)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if kind == "ask":
        status = httpx.post(
            f"{server.url}/v1/chat/completions",
            content=body,
            headers={"content-type": "application/json"},
            timeout=patient(120),
        ).status_code
        assert status in (200, 429)
        seen[status] += 1
    elif kind in ("leave", "leave reading"):
        raw(server.port, whole, read=kind == "leave reading")
    elif kind == "half":
        raw(server.port, whole[: draw.randrange(len(whole))], read=False)
    elif kind == "garbage":
        raw(server.port, draw.randbytes(500) + b"\r\n\r\n", read=True)
    else:
        damaged = bytearray(body)
        for _ in range(5):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        status = httpx.post(
            f"{server.url}/v1/chat/completions",
            content=bytes(damaged),
            headers={"content-type": "application/json"},
            timeout=patient(120),
        ).status_code
        assert status in (200, 400, 404, 429)


def storm(server, clients: int, each: int, seed: int) -> Counter:
    seen, failures = Counter(), []

    def client(number: int) -> None:
        draw = random.Random(1000 * seed + number)
        try:
            for _ in range(each):
                one(server, draw, seen)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patient(300))
    assert failures == []
    end = time.monotonic() + patient(60)
    engine = server.engine
    while (engine._places or engine.num_active or engine.num_waiting) and time.monotonic() < end:
        time.sleep(0.05)
    assert (engine._places, engine.num_active, engine.num_waiting) == (0, 0, 0)
    assert engine.answering.rows.lengths == []
    return seen


def soak(model, clients: int, each: int, rounds: int) -> None:
    process = psutil.Process()
    limits = Limits(seconds=60.0, tokens=64)
    with running(model, max_rows=4, max_waiting=16, prefix_tokens=700, header_seconds=5.0, limits=limits) as server:
        storm(server, clients, each, 0)  # libraries allocate what they keep
        gc.collect()
        memory, handles, threads = process.memory_info().rss, [], []
        for number in range(1, rounds + 1):
            seen = storm(server, clients, each, number)
            assert seen[200] > 0
            time.sleep(0.3)
            gc.collect()
            handles.append(process.num_fds())
            threads.append(threading.active_count())
        assert httpx.get(f"{server.url}/health").status_code == 200
        # Half of a request is sent away after 5 s; its socket may be open until then.
        end = time.monotonic() + patient(20)
        while len(server.listener.server_state.connections) > 0 and time.monotonic() < end:
            time.sleep(0.1)
        assert len(server.listener.server_state.connections) == 0
        assert max(threads) - min(threads) <= 1
        assert handles[-1] - handles[0] <= 8
        assert process.memory_info().rss - memory < 64 * 2**20


def test_a_small_storm_leaves_nothing_behind(tiny, caplog):
    soak(tiny, clients=12, each=4, rounds=2)
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.slow
def test_a_storm_of_two_hundred_clients_leaves_nothing_behind(tiny):
    soak(tiny, clients=200, each=3, rounds=3)


SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: [
  { type: "image_url", image_url: { url: process.argv[3] } }, { type: "text", text: "what is it?" } ] }];
const whole = await client.chat.completions.create({ model: "tiny", messages, max_tokens: 8 });
let text = "";
const stream = await client.chat.completions.create({ model: "tiny", messages, max_tokens: 8, stream: true });
for await (const chunk of stream)
  text += chunk.choices[0]?.delta?.content ?? "";
let status = 0;
try { await client.chat.completions.create({ model: "none", messages }); } catch (error) { status = error.status; }
console.log(JSON.stringify([whole.choices[0].message.content === text, whole.object, status]));
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm, for OpenAI's JavaScript client, is not installed")
def test_the_javascript_client_is_answered_as_well(tiny, tmp_path):
    (tmp_path / "package.json").write_text('{"type": "module"}')
    install = subprocess.run(
        ["npm", "install", "openai@6"], cwd=tmp_path, capture_output=True, text=True, timeout=patient(300)
    )
    if install.returncode:
        pytest.skip("npm finds no registry with OpenAI's client")
    (tmp_path / "ask.js").write_text(SCRIPT)
    with running(tiny) as server:
        told = subprocess.run(
            ["node", "ask.js", f"{server.url}/v1", url(1)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=patient(120),
            env=dict(os.environ),
        )
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == [True, "chat.completion", 404]
