"""Images from the web, and only from hosts that whoever started the server has named.

A name is looked up once and every address of it must be public; the connection goes to an address that was looked at,
so a name cannot mean another one a moment later. A redirect is a new address and looked at likewise.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

MAX_REDIRECTS = 3
SECONDS = 15.0
"""For all of it, redirects too."""
CHUNK = 64 * 1024
PORTS = {"http": 80, "https": 443}
_TRANSLATED = ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48", "192.88.99.0/24")
"""Networks whose addresses mean one of IPv4, which may be private, or lead to where they are translated."""
_LOCAL = ("fec0::/10", "3fff::/20", "168.63.129.16/32")
"""Local and reserved ones that not every Python knows of; the last one is a cloud's own inside its machines."""
_REFUSED = tuple(map(ipaddress.ip_network, (*_TRANSLATED, *_LOCAL)))
_REDIRECTS = (301, 302, 303, 307, 308)


class Fetcher:
    """Fetches the file at an address.

    Args:
        hosts: names that images may come from, as they are written in addresses; a name's subdomains are others.
        max_bytes: of a file.
        is_allowed: whether an address of the internet may be connected to; by default public ones.
    """

    def __init__(
        self, hosts: Iterable[str], *, max_bytes: int, is_allowed: Callable[[str], bool] | None = None
    ) -> None:
        self.hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self.max_bytes, self.is_allowed = max_bytes, is_allowed or is_public
        for host in self.hosts:
            if not host or set(host) & set("/:@*? "):
                raise ValueError(f"--allow-urls {host!r} is not the name of a host. Write it as in images.example.org.")

    def __call__(self, url: str) -> bytes:
        """The file at `url`.

        Raises:
            ValueError: it may not be fetched, or could not be.
        """
        end = time.monotonic() + SECONDS
        for _ in range(MAX_REDIRECTS + 1):
            found = self._get(self._checked(url), end)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise ValueError(f"the image was redirected more than {MAX_REDIRECTS} times.")

    def _checked(self, url: str) -> SplitResult:
        if len(url) > 8192 or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise ValueError("the address of the image is too long or has characters that an address does not have.")
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in PORTS or parts.username is not None or port not in (None, PORTS[parts.scheme]):
            raise ValueError(f"the image at {url[:80]!r} is not fetched: give http or https, without user or port.")
        if (parts.hostname or "").rstrip(".") not in self.hosts:
            raise ValueError(
                f"the image at {url[:80]!r} is not fetched: this server fetches from other hosts, or none."
            )
        return parts

    def _get(self, parts: SplitResult, end: float) -> bytes | str:
        """The file, or where it has gone."""
        host = parts.hostname or ""
        connection = _Pinned(host, self._address(host, PORTS[parts.scheme]), secure=parts.scheme == "https", end=end)
        # A timeout of a socket is of one read, and a host may send a byte at a time.
        watch = threading.Timer(_left(end), connection.abort)
        watch.start()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", target, headers={"accept": "image/*", "accept-encoding": "identity"})
            response = connection.getresponse()
            place = response.getheader("location")
            if response.status in _REDIRECTS and place:
                return place
            if response.status != 200:
                raise ValueError(f"the host of the image answered with {response.status}.")
            found = self._read(response)
            _left(end)  # what was cut off at the end of its time looks like a whole file
            return found
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"the image could not be fetched: {type(error).__name__}.") from error
        finally:
            watch.cancel()
            connection.close()

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        parts, size = [], 0
        while True:
            part = response.read1(CHUNK)
            if not part:
                return b"".join(parts)
            size += len(part)
            if size > self.max_bytes:
                raise ValueError(f"the image is larger than {self.max_bytes} bytes.")
            parts.append(part)

    def _address(self, host: str, port: int) -> tuple[str, int]:
        try:
            found = [entry[4] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            raise ValueError("the host of the image is not known.") from error
        if not found or not all(self.is_allowed(str(address[0])) for address in found):
            raise ValueError("the host of the image has an address that is not public, and nothing is fetched there.")
        return str(found[0][0]), int(found[0][1])


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was looked up before, under the name that it was looked up by."""

    def __init__(self, host: str, address: tuple[str, int], *, secure: bool, end: float) -> None:
        super().__init__(host, address[1])
        self.default_port = address[1]  # a Host header names no port but an unusual one
        self._pinned, self._secure, self._end = address, secure, end

    def connect(self) -> None:
        left = _left(self._end)
        plain = socket.create_connection(self._pinned, timeout=left)
        self.sock = (
            ssl.create_default_context().wrap_socket(plain, server_hostname=self.host) if self._secure else plain
        )

    def abort(self) -> None:
        """End whatever is waited for."""
        with suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def is_public(address: str) -> bool:
    """Whether an address is one of the internet that anybody may reach: no private, local, shared or reserved one."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is not None:
        return is_public(str(known.ipv4_mapped))
    if any(known in network for network in _REFUSED):
        return False
    return known.is_global and not known.is_multicast and not known.is_reserved
