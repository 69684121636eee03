"""The command: what it refuses before it loads anything, and a life of it from start to SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from limits import patient
from serving_parts import processor_of

from dragonfly_lit.app import load
from dragonfly_lit.io.parsers import serve_parser
from dragonfly_lit.serving import command

KEY = "0123456789abcdef-key"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("served") / "my-model"
    tiny.save_pretrained(folder)
    processor_of(tiny).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.nip.io", ""])
def test_another_host_needs_a_key(folder, host, monkeypatch):
    monkeypatch.delenv(command.KEY_VARIABLE, raising=False)
    with pytest.raises(ValueError, match="there is no API key"):
        command.main(["--model", str(folder), "--host", host])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "LOCALHOST"])
def test_this_machine_needs_none(host):
    assert command._is_loopback(host)


@pytest.mark.parametrize("key", ["", "short", "with space 0123456789", "0123456789abcdef\u00e9", "two\nlines-0123456"])
def test_a_key_that_is_none_is_refused(folder, tmp_path, key):
    (tmp_path / "key").write_text(key)
    with pytest.raises(ValueError, match="must hold one key of at least 16"):
        command.main(["--model", str(folder), "--api-key-file", str(tmp_path / "key")])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--port", "70000"], "--port 70000 must be at most 65535"),
        (["--max-answers", "0"], "--max-answers 0 must be at least 1"),
        (["--timeout", "nan"], "--timeout nan must be at least 1"),
        (["--drain", "inf"], "--drain inf must have an end"),
        (["--file-seconds", "inf"], "--file-seconds inf must have an end"),
        (["--allow-urls", "http://x"], "--allow-urls 'http://x' is not the name of a host"),
        (["--host", "127.0.0.1", "--port", "TAKEN"], "Give another port"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_loaded(folder, arguments, why, monkeypatch):
    monkeypatch.setattr(load, "load_for_inference", lambda *a, **k: pytest.fail("loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments = [str(taken.getsockname()[1]) if word == "TAKEN" else word for word in arguments]
        with pytest.raises(ValueError, match=re.escape(why)):
            command.main(["--model", str(folder), *arguments])


def test_a_key_file_that_is_no_text_is_named(folder, tmp_path):
    (tmp_path / "key").write_bytes(b"\xff\xfe0123456789abcdef")
    with pytest.raises(ValueError, match=r"--api-key-file .*key must hold one key"):
        command.main(["--model", str(folder), "--api-key-file", str(tmp_path / "key")])


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        command.main(["--model", str(tmp_path / "none")])


def test_what_is_not_installed_is_named_with_the_way_out(folder, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "fastapi" else True)
    with pytest.raises(ValueError, match=r"serve needs fastapi: pip install 'dragonfly_lit\[serve\]'"):
        command.main(["--model", str(folder)])


def test_the_defaults_are_for_this_machine_alone():
    args = serve_parser().parse_args(["--model", "x"])
    assert (args.host, args.allow_urls, args.api_key_file) == ("127.0.0.1", [], None)


def test_it_answers_until_it_is_asked_to_stop(folder, tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    arguments = [
        "serve",
        "--model",
        str(folder),
        "--port",
        "0",
        "--device",
        "cpu",
        "--api-key-file",
        str(tmp_path / "key"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "dragonfly_lit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert address, line + process.stderr.read()
        assert line.startswith("my-model on cpu in float32")
        headers = {"authorization": f"Bearer {KEY}"}
        client = httpx.Client(
            base_url=address[0], headers=headers, timeout=patient(60), transport=httpx.HTTPTransport(retries=9)
        )
        assert client.get("models").json()["data"][0]["id"] == "my-model"
        body = {"model": "my-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        assert client.post("chat/completions", json=body).json()["object"] == "chat.completion"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=patient(60))
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out == "stopped.\n"
    assert "Traceback" not in err
