"""Files of a remote folder in a bounded local cache, keyed by full URL and checksum."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dragonfly_lit.data.failures import RemoteError
from dragonfly_lit.data.fetching import FarFile, chunks, facts_of

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "https", "http", "hf", "memory")
PART = ".part-"
CHANGED = "Start again, and it is indexed anew; a checkpoint of the old data is then refused."
TRIES = 5
"""A copy may go, to make place for another, before it is opened."""
_COPY = re.compile("[0-9a-f]{64}")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(://|:)")
log = logging.getLogger(__name__)


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
    return b"".join(chunks(url, limit))


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
        path = self._path(f"{url}\n{sha256}")
        if _touched(path):
            return path
        with self._one_at_a_time(path):
            return self._download(url, path, num_bytes, sha256, "dataset.json lists", "Index it again.")

    def copy(self, file: FarFile, sha256: str) -> Path:
        """The local copy of a file as its store describes it, downloaded where it is not there yet.

        Args:
            file: to copy.
            sha256: of its content, where it was read before; without one, and without the store's word, the store is
                asked once more whether the file is still the same when it has come.

        Raises:
            RemoteError: it cannot be had, has changed, or alone exceeds the cache.
        """
        path = self._path(file.key)
        if _touched(path):
            return path
        with self._one_at_a_time(path):
            known = sha256 or file.sha256
            copy = self._download(file.url, path, file.num_bytes, known, "was there before", CHANGED)
            if not known and not file.fixed and not file.is_as(facts_of(file.url, file.name)):
                copy.unlink(missing_ok=True)
                raise RemoteError(f"{file.url} changed while it was read. {CHANGED}")
            return copy

    def _download(self, url: str, path: Path, num_bytes: int, sha256: str, known: str, way_out: str) -> Path:
        """Fetch a file to its place in the cache, unless somebody else just has; its checksum must be the known one."""
        if _touched(path):
            return path
        if num_bytes > self.max_bytes:
            raise RemoteError(f"{url} has {num_bytes} bytes, the cache {self.max_bytes}. Raise data.cache_gb.")
        with self._place(url, num_bytes) as copy:
            digest = hashlib.sha256()
            with copy.open("r+b") as file:
                for chunk in chunks(url, num_bytes, num_bytes):
                    digest.update(chunk)
                    file.write(chunk)
            if sha256 and digest.hexdigest() != sha256:
                raise RemoteError(f"{url} is not the file that {known}: its checksum differs. {way_out}")
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
        # By a lock of another kind than that of copies: what is made of a copy may have to fetch it once more.
        with self._one_at_a_time(path, "made"):
            return path if _touched(path) else self._make(what, path, make)

    def _make(self, what: str, path: Path, make: Callable[[], Any]) -> Path:
        content = memoryview(make())
        if content.nbytes > self.max_bytes:
            raise RemoteError(f"{what} has {content.nbytes} bytes, the cache {self.max_bytes}. Raise data.cache_gb.")
        with self._place(what, content.nbytes) as copy:
            with copy.open("r+b") as file:
                file.write(content)
            os.replace(copy, path)
        return path

    @contextmanager
    def _one_at_a_time(self, path: Path, kind: str = "lock") -> Iterator[None]:
        """Other processes that want the same copy wait for this one, so that nothing is fetched twice."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{kind}-{path.name[:2]}").open("w") as file:
            with suppress(OSError):  # a file system without locks: a file may then be fetched twice
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, key: str) -> Path:
        return self.folder / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()

    @contextmanager
    def _place(self, url: str, num_bytes: int) -> Iterator[Path]:
        """A file of `num_bytes` to download into; it goes unless it was renamed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        copy = self.folder / f"{PART}{os.getpid()}-{secrets.token_hex(8)}"
        waited_until = time.monotonic() + self.patience
        waits = False
        while not self._reserve(copy, num_bytes):
            if not waits:
                log.warning("%s waits for a place in %s, into which others download.", url, self.folder)
                waits = True
            # While others write, the place may come free; a download of theirs may take hours.
            if time.monotonic() > waited_until and time.time() - self._last_write() > self.patience:
                raise RemoteError(
                    f"{url} finds no place in {self.folder}: others download into all of its {self.max_bytes} bytes. "
                    "Raise data.cache_gb, or read with fewer data.num_workers."
                )
            time.sleep(0.1)
        try:
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def _last_write(self) -> float:
        """When any download that is going on has last written."""
        times = [0.0]
        for path in self.folder.glob(f"{PART}*"):
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
        return max(times)

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
