"""Images that clients have uploaded for their questions: in memory alone, for a while, and each for its owner alone."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What a client has sent.

    Attributes:
        name: that the client gives it; nothing is opened by it.
        purpose: that the client gives it.
        data: the file.
        seconds: that it is to be kept; None is as long as files are.
    """

    name: str
    purpose: str
    data: bytes
    seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An upload that is kept.

    Attributes:
        id: that nobody can guess.
        upload: what was sent.
        created: in seconds since 1970.
        expires: likewise.
    """

    id: str
    upload: Upload
    created: int
    expires: int


class NoFileError(Exception):
    """There is no such file, or it is somebody else's: which of both is not told."""

    def __init__(self, file_id: str) -> None:
        super().__init__(f"there is no file {file_id[:60]!r}: it was never here, was deleted, or has expired.")


class FilesFullError(Exception):
    """Somebody has as many files here as may be."""


class Files:
    """Keeps uploads; may be asked by several threads.

    Args:
        max_files: that one owner may have at a time.
        max_bytes: that the files of one owner may have together.
        seconds: that a file is kept at most.
        clock: seconds since 1970.
    """

    def __init__(
        self, *, max_files: int, max_bytes: int, seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.max_files, self.max_bytes, self.seconds, self._clock = max_files, max_bytes, seconds, clock
        self._held: dict[str, dict[str, Stored]] = {}
        self._lock = Lock()

    def add(self, owner: str, upload: Upload) -> Stored:
        """Keep a file.

        Raises:
            FilesFullError: its owner has no room for it.
        """
        with self._lock:
            self._forget_old()
            own = self._held.setdefault(owner, {})
            size = sum(len(stored.upload.data) for stored in own.values()) + len(upload.data)
            if len(own) >= self.max_files or size > self.max_bytes:
                raise FilesFullError(
                    f"a client may have {self.max_files} files of {self.max_bytes} bytes together here, and this one "
                    f"is beyond. Delete some by DELETE /v1/files/ID; all of them go after {self.seconds:g} s."
                )
            now = self._clock()
            seconds = self.seconds if upload.seconds is None else min(upload.seconds, self.seconds)
            stored = Stored(
                id=f"file-{secrets.token_hex(16)}", upload=upload, created=int(now), expires=int(now + seconds)
            )
            own[stored.id] = stored
            return stored

    def get(self, owner: str, file_id: str) -> Stored:
        """A file of this owner.

        Raises:
            NoFileError: the owner has none of this id.
        """
        with self._lock:
            self._forget_old()
            found = self._held.get(owner, {}).get(file_id)
        if found is None:
            raise NoFileError(file_id)
        return found

    def delete(self, owner: str, file_id: str) -> None:
        """Forget a file of this owner.

        Raises:
            NoFileError: the owner has none of this id.
        """
        with self._lock:
            self._forget_old()
            if self._held.get(owner, {}).pop(file_id, None) is None:
                raise NoFileError(file_id)

    def of(self, owner: str) -> list[Stored]:
        """The files of this owner, the first one first."""
        with self._lock:
            self._forget_old()
            return list(self._held.get(owner, {}).values())

    def forget_old(self) -> None:
        """Give back the memory of files whose time is over, though nobody asks."""
        with self._lock:
            self._forget_old()

    def _forget_old(self) -> None:
        now = self._clock()
        for own in self._held.values():
            for file_id in [stored.id for stored in own.values() if now >= stored.expires]:
                del own[file_id]
