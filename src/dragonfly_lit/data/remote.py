"""Files of a remote folder in a bounded local cache, keyed by full URL and checksum."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "https", "http", "hf", "memory")
PART = ".part-"
CHUNK = 8 * 2**20
_COPY = re.compile("[0-9a-f]{64}")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(://|:)")


def is_remote(path: str) -> bool:
    """Whether `path` is a URL.

    Raises:
        ValueError: a scheme that is not read, `pipe:` above all: a data set never runs a command.
    """
    match = _URL.match(path)
    if match is None or os.path.exists(path):
        return False
    if match[1].lower() == "file":
        raise ValueError(f"path {path!r}: name a local folder by its plain path.")
    if match[1].lower() not in SCHEMES or match[2] != "://" or "::" in path:
        raise ValueError(
            f"path {path!r}: the scheme {match[1]!r} is not read (a URL is data, never a command). "
            f"Use a folder, or {'://, '.join(SCHEMES[:-1])}://"
        )
    return True


def read_bytes(url: str, limit: int) -> bytes:
    """A small remote file as it is.

    Args:
        url: of the file.
        limit: bytes that it may have; a server that goes on beyond is not listened to.

    Raises:
        ValueError: it cannot be read, or is longer; the message names the URL and the cause.
    """
    return b"".join(_chunks(url, limit))


def _chunks(url: str, limit: int) -> Iterator[bytes]:
    """The bytes of a remote file, at most `limit` of them."""
    num_bytes = 0
    try:
        with fsspec.open(url, "rb") as remote:
            while chunk := remote.read(min(CHUNK, limit + 1 - num_bytes)):  # type: ignore[union-attr]
                num_bytes += len(chunk)
                if num_bytes > limit:
                    raise ValueError(f"{url} has more than the {limit} bytes that it may have.")
                yield chunk
    except Exception as error:  # the client of each protocol has kinds of its own
        if isinstance(error, ValueError) and str(error).startswith(url):
            raise
        reason = str(error).rstrip(".") or "no reason given"
        raise ValueError(f"{url} cannot be read: {type(error).__name__}: {reason}.") from error


class Cache:
    """Local copies of remote files; the least recently used go before they exceed `max_bytes`.

    Several processes may share a folder: copies appear by a rename and vanish by an unlink, and nobody keeps one open.
    A download takes its whole place before it starts, so that all together never exceed the limit; one that finds none
    waits until another download is done and its copy may go.

    Args:
        folder: of the copies.
        max_bytes: that they, and downloads that are going on, may take.
        patience: seconds to wait for the downloads of others.
    """

    def __init__(self, folder: Path, max_bytes: int, patience: float = 600.0):
        self.folder, self.max_bytes, self.patience = folder, max_bytes, patience

    def fetch(self, url: str, sha256: str, num_bytes: int) -> Path:
        """The local copy of `url`, downloaded and verified where it is not there yet.

        Raises:
            ValueError: what came is not what `sha256` and `num_bytes` say, or it alone exceeds the cache.
        """
        if num_bytes > self.max_bytes:
            raise ValueError(f"{url} has {num_bytes} bytes, the cache {self.max_bytes}. Raise data.cache_gb.")
        path = self._path(f"{url}\n{sha256}")
        if _touched(path):
            return path
        with self._place(url, num_bytes) as copy:
            digest = hashlib.sha256()
            with copy.open("r+b") as file:
                for chunk in _chunks(url, num_bytes):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                raise ValueError(
                    f"{url} is not the file that dataset.json lists: its checksum differs. Index it again."
                )
            os.replace(copy, path)
        return path

    def made(self, what: str, key: str, make: Callable[[], Any]) -> Path:
        """The local copy of what is costly to make, made where it is not there yet.

        Args:
            what: it is, for messages.
            key: changes when the copy would.
            make: gives its content: bytes, or whatever has them as a buffer.

        Raises:
            ValueError: it alone exceeds the cache.
        """
        path = self._path(key)
        if _touched(path):
            return path
        content = memoryview(make())
        if content.nbytes > self.max_bytes:
            raise ValueError(f"{what} has {content.nbytes} bytes, the cache {self.max_bytes}. Raise data.cache_gb.")
        with self._place(what, content.nbytes) as copy:
            with copy.open("r+b") as file:
                file.write(content)
            os.replace(copy, path)
        return path

    def _path(self, key: str) -> Path:
        return self.folder / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()

    @contextmanager
    def _place(self, url: str, num_bytes: int) -> Iterator[Path]:
        """A file of `num_bytes` to download into; it goes unless it was renamed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        copy = self.folder / f"{PART}{os.getpid()}-{secrets.token_hex(8)}"
        waited_until = time.monotonic() + self.patience
        while not self._reserve(copy, num_bytes):
            if time.monotonic() > waited_until:
                raise ValueError(
                    f"{url} finds no place in {self.folder}: others download into all of its {self.max_bytes} bytes. "
                    "Raise data.cache_gb, or read with fewer data.num_workers."
                )
            time.sleep(0.1)
        try:
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def _reserve(self, copy: Path, num_bytes: int) -> bool:
        """Make `copy`, with its size, where there is room or old copies can make room for it."""
        with self._alone():
            going_on, copies = 0, []
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if path.name.startswith(PART):
                        if _is_abandoned(path, status.st_mtime):
                            path.unlink()
                        else:
                            going_on += status.st_size
                    elif _COPY.fullmatch(path.name):
                        copies.append((status.st_mtime_ns, status.st_size, path))
            if going_on + num_bytes > self.max_bytes:
                return False
            excess = sum(size for _, size, _ in copies) + going_on + num_bytes - self.max_bytes
            for _, size, path in sorted(copies):
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= size
            with copy.open("wb") as file:
                file.truncate(num_bytes)
            return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as file:
            with suppress(OSError):  # a file system without locks: the limit then holds for one process
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _touched(path: Path) -> bool:
    """Whether a copy is there; it then counts as used just now."""
    with suppress(FileNotFoundError):
        os.utime(path)
        return True
    return False


def _is_abandoned(path: Path, written: float) -> bool:
    """Whether the process that downloaded into `path` is gone, or has written nothing for an hour."""
    idle = time.time() - written
    pid = path.name.removeprefix(PART).partition("-")[0]
    return idle > 3600 or (idle > 60 and not _lives(pid))


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # another user's
        return True
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    return True
