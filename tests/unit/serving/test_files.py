"""Images are uploaded, asked about by their id, and gone again: OpenAI's own client, and clients that mean no good."""

from __future__ import annotations

import json
import os
import tempfile
import time

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import patient
from serving_parts import Asker, png, processor_of, running, user

from dragonfly_lit.serving import application
from dragonfly_lit.serving.errors import ApiError
from dragonfly_lit.serving.files import Files, FilesFullError, NoFileError, Upload
from dragonfly_lit.serving.gate import Limits
from dragonfly_lit.serving.uploads import read_upload

openai = pytest.importorskip("openai")

KEYS = ("0123456789abcdef-one", "0123456789abcdef-two")


def client_of(server, key: str = "none"):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client(served):
    return client_of(served)


def ask(client, *parts: dict, **fields):
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "what is it?"}]}]
    return client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, **fields)


def part_of(file_id: str) -> dict:
    return {"type": "file", "file": {"file_id": file_id}}


def test_an_uploaded_image_is_asked_about_as_one_in_the_message(client, tiny):
    asker = Asker(tiny, processor_of(tiny))
    expected = asker.text(user(png(1), png(2), "what is it?"), max_tokens=8)
    asker.engine.stop()
    first = client.files.create(file=("one.png", png(1)), purpose="vision")
    second = client.files.create(file=("two.png", png(2)), purpose="user_data")
    assert (first.object, first.bytes, first.filename, first.purpose) == ("file", len(png(1)), "one.png", "vision")
    assert first.status == "processed"
    as_input = {"type": "input_image", "file_id": second.id, "detail": "auto"}
    for _ in range(2):
        answer = ask(client, part_of(first.id), as_input)
        assert answer.choices[0].message.content == expected
    assert answer.usage.prompt_tokens_details.cached_tokens > 0
    stream = ask(client, part_of(first.id), part_of(second.id), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == expected
    for file in (first, second):
        assert client.files.delete(file.id).deleted


def test_files_are_listed_read_and_deleted(client):
    made = [client.files.create(file=(f"{n}.png", png(n)), purpose="vision") for n in range(3)]
    ids = [one.id for one in made]
    assert [one.id for one in client.files.list()] == ids[::-1]
    assert [one.id for one in client.files.list(order="asc", limit=2)] == ids, "over two pages"
    assert [one.id for one in client.files.list(purpose="user_data")] == []
    assert client.files.retrieve(ids[0]).filename == "0.png"
    answer = client.files.content(ids[1])
    assert answer.content == png(1)
    assert answer.response.headers["content-type"] == "application/octet-stream"
    client.files.delete(ids[1])
    assert [one.id for one in client.files.list()] == [ids[2], ids[0]]
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="there is no file"):
            gone(ids[1])
    with pytest.raises(openai.BadRequestError, match="there is no file"):
        ask(client, part_of(ids[1]))
    for one in (ids[0], ids[2]):
        client.files.delete(one)
    for query, status, param in (
        ("limit=0", 400, "limit"),
        ("order=up", 400, "order"),
        ("x=1", 400, "x"),
        ("limit=1&limit=2", 400, "limit"),
        ("after=file-x", 404, "after"),
    ):
        response = httpx.get(f"{client.base_url}files?{query}")
        assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert httpx.get(f"{client.base_url}files/file-x").json()["error"]["param"] == "id"


def test_a_file_is_its_owners_alone(tiny):
    with running(tiny, api_key=KEYS, hosts=None, limits=Limits(files=2)) as server:
        one, two = (client_of(server, key) for key in KEYS)
        file = one.files.create(file=("one.png", png(1)), purpose="vision")
        assert ask(one, part_of(file.id))
        assert list(two.files.list()) == []
        unknown = _error(lambda: two.files.retrieve("file-" + "0" * 32))
        for other in (two.files.retrieve, two.files.content, two.files.delete):
            assert _error(lambda other=other: other(file.id)) == unknown.replace("0" * 32, file.id[5:])
        with pytest.raises(openai.BadRequestError, match="there is no file"):
            ask(two, part_of(file.id))
        with pytest.raises(openai.AuthenticationError):
            client_of(server, "0123456789abcdef-xxx").files.list()
        # One client's files take no other's room.
        one.files.create(file=("two.png", png(2)), purpose="vision")
        with pytest.raises(openai.BadRequestError, match="may have 2 files") as caught:
            one.files.create(file=("three.png", png(3)), purpose="vision")
        assert caught.value.code == "files_full"
        assert two.files.create(file=("three.png", png(3)), purpose="vision").bytes == len(png(3))


def _error(call) -> str:
    with pytest.raises(openai.NotFoundError) as caught:
        call()
    return caught.value.message


def test_ids_are_long_and_never_the_same():
    files = Files(max_files=500, max_bytes=10**6, seconds=10.0)
    ids = {files.add("x", Upload(name="a", purpose="vision", data=b"1")).id for _ in range(500)}
    assert len(ids) == 500
    assert {len(one) for one in ids} == {len("file-") + 32}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 60), st.integers(0, 40), st.booleans()), max_size=40))
def test_what_is_kept_is_bounded_by_number_bytes_and_age(steps):
    """Against a plain list of what should be there."""
    now, model, held = 0.0, [], {}
    files = Files(max_files=3, max_bytes=100, seconds=60.0, clock=lambda: now)
    for owner, size, wait, deletes in steps:
        now += wait
        model = [one for one in model if one[2] > now]
        own = [one for one in model if one[0] == owner]
        if deletes and own:
            files.delete(owner, held[own[0]])
            model.remove(own[0])
        upload = Upload(name="x", purpose="vision", data=b"x" * size, seconds=size if size % 2 else None)
        own = [one for one in model if one[0] == owner]
        fits = len(own) < 3 and sum(len(held_data) for _, held_data, *_ in own) + size <= 100
        try:
            stored = files.add(owner, upload)
            assert fits
            entry = (owner, upload.data, now + min(60, upload.seconds or 60), stored.id)
            model.append(entry)
            held[entry] = stored.id
        except FilesFullError:
            assert not fits
        for name in "ab":
            assert [one.id for one in files.of(name)] == [entry[3] for entry in model if entry[0] == name]
    now += 1000
    files.forget_old()
    assert not any(files._held.values())
    with pytest.raises(NoFileError):
        files.get("a", "file-x")


def test_an_old_file_is_forgotten_though_nobody_asks(tiny, monkeypatch):
    monkeypatch.setattr(application, "SWEEP_SECONDS", 0.05)
    with running(tiny) as server:
        client = client_of(server)
        life = {"anchor": "created_at", "seconds": 1}
        file = client.files.create(file=("one.png", png(1)), purpose="vision", expires_after=life)
        assert file.expires_at == file.created_at + 1
        end = time.monotonic() + patient(20)
        while any(server.files._held.values()):
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)


def test_nothing_is_written(client, monkeypatch, tmp_path):
    """Not even a large one, which libraries like to put into a temporary file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    opened, real = [], os.open
    monkeypatch.setattr(
        os, "open", lambda path, flags, *a, **k: opened.append((path, flags)) or real(path, flags, *a, **k)
    )
    large = png(1) + b"\0" * 3_000_000
    file = client.files.create(file=("../../etc/x.png", large), purpose="vision")
    assert file.filename == "../../etc/x.png", "a name is a name, and no path"
    assert client.files.content(file.id).content == large
    client.files.delete(file.id)
    assert list(tmp_path.iterdir()) == []
    assert [path for path, flags in opened if flags & (os.O_WRONLY | os.O_RDWR)] == []


def form(*parts: tuple[str, bytes], boundary: bytes = b"BB") -> bytes:
    told = b"".join(
        b"--" + boundary + b"\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return told + b"--" + boundary + b"--\r\n"


FILE, PURPOSE = ('name="file"; filename="a.png"', png(1)), ('name="purpose"', b"vision")
HOSTILE = {
    "nothing": b"",
    "no end": form(FILE, PURPOSE)[:-10],
    "no parts": b"--BB--\r\n",
    "garbage": b"\0\xff" * 5000,
    "no name": form(("x=1", b"x"), PURPOSE),
    "no file name": form(('name="file"', png(1)), PURPOSE),
    "no purpose": form(FILE),
    "another purpose": form(FILE, ('name="purpose"', b"fine-tune")),
    "half a character": form(FILE, ('name="purpose"', b"\xed\xa0\x80")),
    "two files": form(FILE, FILE, PURPOSE),
    "an unknown part": form(FILE, PURPOSE, ('name="x\ud83d"'.encode("utf-8", "replace").decode(), b"x")),
    "many parts": form(*[(f'name="{n}"', b"") for n in range(9000)]),
    "a long name": form((f'name="file"; filename="{"a" * 300}"', png(1)), PURPOSE),
    "a long head": form((f'name="file"; filename="{"a" * 9000}"', png(1)), PURPOSE),
    "many heads": form(("name=a" + "\r\nX-A: b" * 999, b"x")),
    "no image": form(('name="file"; filename="a.png"', b"hello"), PURPOSE),
    "an empty file": form(('name="file"; filename="a.png"', b""), PURPOSE),
    "half an image": form(('name="file"; filename="a.png"', png(1)[:60]), PURPOSE),
    "damaged base64": form(('name="file"; filename="a.png"\r\nContent-Transfer-Encoding: base64', b"!!"), PURPOSE),
    "an endless life": form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"9" * 99)),
    "a long number": form(
        FILE,
        PURPOSE,
        ('name="expires_after[anchor]"', b"created_at"),
        ('name="expires_after[seconds]"', b"0" * 98 + b"60 and more"),
    ),
    "no end behind all that is needed": form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"60"))[:-10],
    "a life of its own": form(
        FILE, PURPOSE, ('name="expires_after[seconds]"', b"-1"), ('name="expires_after[anchor]"', b"created_at")
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_upload_is_a_400_in_openais_form(served, name):
    headers = {"content-type": "multipart/form-data; boundary=BB"}
    response = httpx.post(f"{served.url}/v1/files", content=HOSTILE[name], headers=headers, timeout=patient(30))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 500
    assert "\n" not in error["message"]
    assert not any(served.files._held.values())


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_form_is_an_upload_or_an_error_of_ours(data):
    body = bytearray(form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"60")))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        body = body or bytearray(b"-")
    kind = data.draw(
        st.sampled_from(["multipart/form-data; boundary=BB", 'multipart/form-data; boundary="BB"', "x; a"])
    )
    told: Exception | None = None
    try:
        upload = read_upload(kind, bytes(body))
    except ApiError as error:
        told = error
    if isinstance(told, ApiError):
        assert told.status == 400
        assert "\n" not in str(told)
        assert json.dumps(told.body, ensure_ascii=False).encode()
    else:
        assert upload.purpose in ("vision", "user_data")
        assert upload.name.isprintable()


def test_other_kinds_sizes_and_pages_are_refused(tiny):
    limits = Limits(body=20_000, pixels=64 * 60, file_bytes=3000, body_seconds=1.0)
    with running(tiny, limits=limits) as server:
        client, url = client_of(server), f"{server.url}/v1/files"
        headers = {"content-type": "multipart/form-data; boundary=BB"}
        body = form(('name="file"; filename="a.png"', png(0)), PURPOSE)
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
            assert httpx.post(url, content=body, headers={"content-type": kind}).status_code == 415
        for kind in (
            "multipart/form-data",
            "multipart/form-data; boundary=",
            f"multipart/form-data; boundary={'x' * 999}",
        ):
            assert httpx.post(url, content=body, headers={"content-type": kind}).status_code == 400
        for origin in ("http://evil.example", "null", f"http://127.0.0.1:{server.port + 1}"):
            response = httpx.post(url, content=body, headers={**headers, "origin": origin})
            assert (response.status_code, response.json()["error"]["code"]) == (403, "unknown_origin")
        assert httpx.post(url, content=body, headers={**headers, "origin": server.url}).status_code == 200
        assert httpx.request("OPTIONS", url, headers={"origin": "http://evil.example"}).status_code == 405
        with pytest.raises(openai.BadRequestError, match=r"the file is not taken: .* says it has 67x64 pixels"):
            client.files.create(file=("a.png", png(1)), purpose="vision")
        with pytest.raises(openai.APIStatusError) as caught:
            client.files.create(file=("a.png", b"x" * 30_000), purpose="vision")
        assert caught.value.status_code == 413
        with pytest.raises(openai.BadRequestError, match="of 3000 bytes together"):
            client.files.create(file=("a.png", png(0) + b"\0" * 5000), purpose="vision")


def test_uploads_wait_for_a_place_as_questions_do(tiny):
    with running(tiny, max_rows=1, max_waiting=1) as server:
        places = [server.engine.place() for _ in range(2)]
        for place in places:
            place.__enter__()
        with pytest.raises(openai.RateLimitError) as caught:
            client_of(server).files.create(file=("a.png", png(1)), purpose="vision")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        for place in places:
            place.__exit__(None, None, None)
        assert client_of(server).files.create(file=("a.png", png(1)), purpose="vision").id


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {}},
        {"type": "file", "file": {"file_id": 5}},
        {"type": "input_image"},
        {"type": "file", "file": {"file_data": "data:image/png;base64,xx"}},
        {"type": "input_image", "file_id": "file-x", "image_url": "data:,x"},
        part_of("../../etc/passwd"),
        part_of("file-" + "0" * 32),
        part_of(""),
        part_of("x" * 100_000),
    ],
)
def test_a_part_that_names_no_file_is_refused(client, part):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, part)
    assert len(caught.value.message) < 500
