"""Nothing is fetched but from hosts that were named, at public addresses, wherever a redirect leads."""

import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_lit.serving import fetching
from dragonfly_lit.serving.fetching import Fetcher, is_public

PRIVATE = [
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
    "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "2001:db8::1", "not an address", "", "::127.0.0.1", "fec0::1", "feff::1", "3fff::1", "100::1", "192.88.99.1",
    "168.63.129.16", "::ffff:168.63.129.16", "fd00:ec2::254", "0.1.2.3",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are(address):
    assert is_public(address)


@given(st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4, network="192.168.0.0/16"))
def test_a_private_address_is_not_public_in_any_of_its_forms(address):
    assert not is_public(str(address))
    assert not is_public(f"::ffff:{address}")


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/x",
        "http://good.example.evil/x",
        "http://good.example@evil/x",
        "http://evil@good.example/x",
        "http://good.example:22/x",
        "ftp://good.example/x",
        "file:///etc/passwd",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://good.example\\@evil/",
        "http://good.example/\r\nHost: evil",
        "http://good.example:x/",
        "http:///x",
        "http://sub.good.example/",
        "http://go\u00f6d.example/",
    ],
)
def test_addresses_that_are_not_fetched(url, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("nothing is looked up"))
    with pytest.raises(ValueError, match=r"not fetched|too long or has characters"):
        Fetcher(["good.example"], max_bytes=1000)(url)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        self.server.seen.append((self.headers["host"], self.path))
        if name.startswith("to="):
            self.send_response(302)
            self.send_header("location", name[3:].replace("|", "/"))
            self.end_headers()
            return
        if name == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            with suppress(OSError):
                while not self.server.ended:
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            return
        self.send_response(404 if name == "missing" else 200)
        self.end_headers()
        self.wfile.write(b"x" * (5000 if name == "large" else 10))

    def log_message(self, *_): ...


@pytest.fixture
def host(monkeypatch):
    """A web server that `good.example` and `other.example` lead to, and what it was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.ended, server.lookups = [], False, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses = {"good.example": "127.0.0.1", "inside.example": "10.1.2.3"}

    look_up_number = socket.getaddrinfo

    def look_up(name, port, *more, **named):
        if name == "127.0.0.1":
            return look_up_number(name, port, *more, **named)
        server.lookups.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses[name], server.server_port))]

    real = socket.create_connection
    monkeypatch.setattr(fetching.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(fetching.socket, "create_connection", lambda address, **k: real(("127.0.0.1", address[1]), **k))
    yield server
    server.ended = True
    server.shutdown()
    server.server_close()


def fetcher(hosts=("good.example", "inside.example"), **fields):
    return Fetcher(hosts, max_bytes=1000, is_allowed=lambda address: address == "127.0.0.1", **fields)


def test_an_image_is_fetched_from_the_address_that_was_looked_at(host):
    assert fetcher()("http://good.example/a.png?b=1") == b"x" * 10
    assert host.seen == [("good.example", "/a.png?b=1")]
    assert host.lookups == ["good.example"], "the connection looks up nothing again"
    assert fetcher()("http://good.example/to=|a.png") == b"x" * 10
    assert fetcher()("http://good.example/to=to=to=x") == b"x" * 10, "three redirects are followed"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("missing", "answered with 404"),
        ("large", "larger than 1000"),
        ("to=http:||other.example|x", "not fetched"),
        ("to=http:||inside.example|x", "not public"),
        ("to=file:|||etc|passwd", "not fetched"),
        ("to=to=to=to=x", "more than 3 times"),
    ],
)
def test_what_a_host_may_not_lead_to(host, path, why):
    with pytest.raises(ValueError, match=why):
        fetcher()(f"http://good.example/{path}")


def test_a_host_that_sends_a_byte_at_a_time_is_left(host, monkeypatch):
    monkeypatch.setattr(fetching, "SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(ValueError, match="could not be fetched"):
        fetcher()("http://good.example/drip")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("host", ["", "http://x", "x:80", "*.x", "a b"])
def test_a_host_that_is_none_is_refused_at_the_start(host):
    with pytest.raises(ValueError, match="--allow-urls"):
        Fetcher([host], max_bytes=1)
