"""Bytes of remote files: asked for again when a server stalls, cuts or is busy, refused in one line when it lies."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from dragonfly_lit.data.failures import (
    NoRangesError,
    RemoteError,
    asked_to_wait,
    cause_of,
    is_final,
    refusal,
    told,
)

CHUNK = 8 * 2**20
PATIENCE = 600.0
"""Seconds without a byte after which a file is given up, once its server has answered before."""
FIRST_TRIES = 3
"""How often a server is asked that has never answered: its name may be misspelt."""
STALLED = 60.0
"""Seconds in which not a single byte comes, after which a connection is given up and the request made again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before a failed request is made again, doubled each time."""
_STATES = (
    "blob_id",
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "Digest",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
)

Item = TypeVar("Item")
log = logging.getLogger(__name__)
_answered: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class FarFile:
    """A remote file as its store describes it.

    Attributes:
        url: to read it from.
        name: below what the names of all files of a source begin with.
        num_bytes: that it has.
        state: what the store changes when the file does (ETag, checksum, time); empty where it says nothing.
        sha256: of its content, where the store says it.
        fixed: whether the URL can never have another content: it names a commit.
    """

    url: str
    name: str
    num_bytes: int
    state: str
    sha256: str = ""
    fixed: bool = False

    @property
    def key(self) -> str:
        """What a copy of it is kept by; the commit in a URL is left out, since a push changes it for every file."""
        return f"{'' if self.fixed and self.state else self.url}\n{self.state}\n{self.num_bytes}"

    def is_as(self, now: FarFile) -> bool:
        """Whether it is still the same, as far as the store tells; a listing may tell less than an answer.

        Args:
            now: the file as it is now.
        """
        told = self.state.partition(" ")[0] == now.state.partition(" ")[0]
        return self.num_bytes == now.num_bytes and (not told or self.state == now.state)

    @property
    def suffix(self) -> str:
        """Of its name, with the dot."""
        return f".{self.name.rpartition('.')[2]}"

    def __str__(self) -> str:
        return self.url


def options_of(url: str) -> dict[str, Any]:
    """What the client of a URL's scheme is made with."""
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout  # with fsspec's client for http

        # A large file may take hours; a connection on which nothing comes is given up.
        return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=STALLED, sock_read=STALLED)}}
    return {}


def system_of(url: str) -> tuple[Any, str]:
    """The client of a URL's scheme, and the path as it calls it."""
    return fsspec.url_to_fs(url, **options_of(url))


class _Patience:
    """When a request that failed is made again, and when it is given up."""

    def __init__(self, url: str):
        self.url, self.host = url, "{0.scheme}://{0.netloc}".format(urlsplit(url))
        self.tries, self.since = 0, time.monotonic()

    def progressed(self) -> None:
        """Something came: what fails from now on is a new failure."""
        _answered.add(self.host)
        self.tries, self.since = 0, time.monotonic()

    def failed(self, error: BaseException) -> None:
        """Return when it is time to ask again.

        Raises:
            RemoteError: asking again would not help, or nothing has come for too long.
        """
        self.tries += 1
        waited = time.monotonic() - self.since
        given_up = self.tries >= FIRST_TRIES and (waited > PATIENCE or self.host not in _answered)
        if is_final(error) or given_up:
            raise refusal(self.url, error) from cause_of(error)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self.tries - 1)) * random.SystemRandom().uniform(0.5, 1.0)
        pause = min(max(pause, asked_to_wait(error)), PATIENCE)
        log.warning("%s: %s; asked again in %.1f s.", self.url, told(error), pause)
        time.sleep(pause)


def retrying(url: str, ask: Callable[[], Item]) -> Item:
    """What `ask` gives; it is asked again where the server stalls, cuts or is busy.

    Args:
        url: of the file, for messages.
        ask: makes the request.

    Raises:
        RemoteError: it cannot be had; names the URL and the cause.
    """
    patience = _Patience(url)
    while True:
        try:
            got = ask()
        except RemoteError:
            raise
        except Exception as error:  # the client of each protocol has kinds of its own
            patience.failed(error)
        else:
            patience.progressed()
            return got


def chunks(url: str, limit: int, expected: int | None = None) -> Iterator[bytes]:
    """The bytes of a remote file in order; behind a cut the rest is asked for.

    Args:
        url: of the file.
        limit: bytes that it may have; a server that goes on beyond is not listened to.
        expected: bytes that it must have; None takes what comes.

    Raises:
        RemoteError: it cannot be read, or has more or fewer bytes.
    """
    patience, place, ranges, ended_short = _Patience(url), 0, True, 0
    while True:
        skipped = 0 if ranges else place  # a server of whole files sends once more what has come
        try:
            with _stream(url) if place == 0 or not ranges else opened(url, place) as remote:
                while chunk := _read(url, remote, min(CHUNK, limit + 1 - place + skipped)):
                    again = min(skipped, len(chunk))
                    skipped, chunk = skipped - again, chunk[again:]
                    if not chunk:
                        continue
                    place += len(chunk)
                    if place > limit:
                        raise RemoteError(f"{url} has more than the {limit} bytes that it may have.")
                    patience.progressed()
                    ended_short = 0
                    yield chunk
            if expected is None or place == expected:
                return
            ended_short += 1
            if ended_short == FIRST_TRIES:
                raise RemoteError(f"{url} ends after {place} of the {expected} bytes that its server says it has.")
        except NoRangesError:
            ranges = False
        except RemoteError:
            raise
        except Exception as error:  # the client of each protocol has kinds of its own
            patience.failed(error)


def read_range(url: str, start: int, stop: int) -> bytes:
    """The bytes of a remote file from `start` up to `stop`.

    Args:
        url: of the file.
        start: of the first byte.
        stop: behind the last one.

    Raises:
        NoRangesError: its server gives whole files only.
        RemoteError: they cannot be had.
    """

    def ask() -> bytes:
        with opened(url, start) as remote:
            content = _read(url, remote, stop - start)
        if len(content) < stop - start:
            raise OSError(f"only {len(content)} of {stop - start} bytes came")
        return content

    return retrying(url, ask)


def facts_of(url: str, name: str = "") -> FarFile:
    """A remote file as its store describes it now.

    Args:
        url: of the file.
        name: of the file in its source; the last part of the URL's path unless given.

    Raises:
        RemoteError: it is not there, or its size is not said.
    """

    def ask() -> dict[str, Any]:
        system, path = system_of(url)
        system.invalidate_cache(path)
        return system.info(path)

    return far_file(url, name or urlsplit(url).path.rpartition("/")[2], retrying(url, ask))


def far_file(url: str, name: str, info: dict[str, Any], *, fixed: bool = False) -> FarFile:
    """A remote file of which fsspec says `info`.

    Raises:
        RemoteError: it says no size.
    """
    if info.get("size") is None:
        raise RemoteError(f"{url}: its server does not say how many bytes it has, so it cannot be checked.")
    lfs = info.get("lfs") or {}
    sha256 = str((lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", "")) or "")
    told = {"sha256": sha256, **{name: info.get(name) for name in _STATES}}
    state = next((f"{name} {one}" for name, one in told.items() if one), "")
    return FarFile(url=url, name=name, num_bytes=int(info["size"]), state=state, sha256=sha256, fixed=fixed)


@contextmanager
def opened(url: str, start: int = 0) -> Iterator[Any]:
    """A remote file to seek in, which asks for exactly what is read.

    Args:
        url: of the file.
        start: where reading begins.

    Raises:
        NoRangesError: its server gives whole files only.
    """
    system, path = system_of(url)
    with system.open(path, "rb", cache_type="none") as file:
        if start:
            try:
                file.seek(start)
            except (ValueError, NotImplementedError) as error:  # of fsspec's files that only stream, by their client
                raise _no_ranges(url) from error
        yield file


def _read(url: str, file: Any, size: int) -> bytes:
    try:
        return file.read(size)
    except ValueError as error:
        if "range requests" not in str(error):
            raise
        raise _no_ranges(url) from error


def _no_ranges(url: str) -> NoRangesError:
    return NoRangesError(f"{url}: its server gives whole files only.")


def _stream(url: str) -> Any:
    """A remote file from its start, by one request where the protocol has such."""
    whole: dict[str, Any] = {"block_size": 0} if urlsplit(url).scheme in ("http", "https", "hf") else {}
    return fsspec.open(url, "rb", **options_of(url), **whole)
