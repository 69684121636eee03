"""Files of a remote folder in a bounded local cache, keyed by full URL and checksum."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import fsspec

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "https", "http", "hf", "memory")
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


def read_bytes(url: str) -> bytes:
    """A small remote file as it is.

    Raises:
        ValueError: it cannot be read; the message names the URL and the cause.
    """
    try:
        with fsspec.open(url, "rb") as file:
            return file.read()  # type: ignore[union-attr]
    except (OSError, ImportError) as error:
        raise ValueError(f"{url} cannot be read: {type(error).__name__}: {error}") from error


class Cache:
    """Local copies of remote files; the least recently used go when they exceed `max_bytes`.

    Several processes may share a folder: copies appear by a rename and vanish by an unlink, and a reader
    that has opened one keeps it.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes

    def fetch(self, url: str, sha256: str, num_bytes: int) -> Path:
        """The local copy of `url`, downloaded and verified where it is not there yet.

        Raises:
            ValueError: what came is not what `sha256` says, or it alone exceeds the cache.
        """
        if num_bytes > self.max_bytes:
            raise ValueError(f"{url} has {num_bytes} bytes, the cache {self.max_bytes}. Raise cache_gb.")
        name = hashlib.sha256(f"{url}\n{sha256}".encode()).hexdigest()
        path = self.folder / name
        if path.exists():
            with suppress(FileNotFoundError):
                os.utime(path)
                return path
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(num_bytes)
        digest = hashlib.sha256()
        with NamedTemporaryFile(dir=self.folder, prefix=".part-", delete=False) as copy:
            try:
                with fsspec.open(url, "rb") as remote:
                    while chunk := remote.read(8 * 2**20):  # type: ignore[union-attr]
                        digest.update(chunk)
                        copy.write(chunk)
            except (OSError, ImportError) as error:
                os.unlink(copy.name)
                raise ValueError(f"{url} cannot be read: {type(error).__name__}: {error}") from error
        if digest.hexdigest() != sha256:
            os.unlink(copy.name)
            raise ValueError(f"{url} is not the file that dataset.json lists: its checksum differs. Index it again.")
        os.replace(copy.name, path)
        return path

    def _make_room(self, num_bytes: int) -> None:
        copies = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                copies.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in copies) + num_bytes - self.max_bytes
        for _, size, path in sorted(copies):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
