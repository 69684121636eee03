"""One command at a time in a folder: a lock that the kernel takes back when its process ends, however that happens.

What holds: on a local disk, always. On NFS the server keeps the lock (Linux sends `flock` as a byte-range lock), so two
machines see each other, unless the folder is mounted with `nolock` or `local_lock`: then one machine's processes see
each other only. A machine that dies keeps its lock until the server notices. A file system that knows no locks (Lustre
without `-o flock`) gives a warning, and the command goes on without one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_FILE = ".dragonfly.lock"
"""In the locked folder, so that it moves with it; a name that nobody else uses. Whoever ends well takes it away; after
a kill it stays, free."""
PATIENCE_SECONDS = 2.0
"""How long a lock that is held is tried again: its process may just be ending, or another one only looks."""
POLL_SECONDS = 0.05
HELD = (errno.EAGAIN, errno.EACCES)
UNKNOWN_TO_FILE_SYSTEM = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

log = logging.getLogger(__name__)
_held: set[int] = set()
"""Descriptors of this process's locks."""


class FolderInUseError(ValueError):
    """Another process works in the folder."""


@contextmanager
def locked(folder: Path, *, way_out: str, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Nobody else has `folder` locked within the block; it is made where it is missing, and goes again if it is empty.

    Processes that this one starts or forks do not keep the lock when it has died. Folders in it are locked on their
    own: whoever moves `folder` asks `in_use_below` first.

    Args:
        folder: to lock.
        way_out: what the user can do while another command works there; ends the error's line.
        patience: seconds in which a lock that is held is tried again.

    Raises:
        FolderInUseError: another process has it locked; names its pid, host, command and since when.
        OSError: the folder cannot be written.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    descriptor = _take(folder, way_out, patience)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # else this is a fork that has closed it
            _held.discard(descriptor)
            # While the lock is held: who has opened this file meanwhile sees that it has lost its name, and tries anew.
            with suppress(OSError):
                if _has_name(descriptor, folder / LOCK_FILE):
                    os.unlink(folder / LOCK_FILE)
                    for one in made:
                        one.rmdir()
            os.close(descriptor)


def in_use(folder: Path) -> str | None:
    """Who has `folder` locked, in words; None where nobody has."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _who(descriptor) if error.errno in HELD else None
    finally:
        os.close(descriptor)
    return None


def in_use_below(folder: Path) -> str | None:
    """Who has a folder inside `folder` locked, and which, in words; None where nobody has."""
    for path in sorted(folder.rglob(LOCK_FILE)):
        if path.parent != folder and (who := in_use(path.parent)) is not None:
            return f"{path.parent} is in use by {who}"
    return None


def _take(folder: Path, way_out: str, patience: float) -> int:
    """The descriptor that holds the lock."""
    until = time.monotonic() + patience
    while True:
        path = folder / LOCK_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError):
            if (os.path.lexists(folder) and not folder.is_dir()) or time.monotonic() > until + PATIENCE_SECONDS:
                raise
            continue  # the folder was moved or taken away this moment
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = _who(descriptor)
            if error.errno in UNKNOWN_TO_FILE_SYSTEM:
                log.warning("%s: its file system has no locks, so a second command there is not noticed.", folder)
                return descriptor
            os.close(descriptor)
            if error.errno not in HELD:
                raise OSError(error.errno, error.strerror, str(path)) from None
            if time.monotonic() > until:
                raise FolderInUseError(f"{folder} is in use by {who}. {way_out}") from None
            time.sleep(POLL_SECONDS)
            continue
        if _has_name(descriptor, path):
            _describe(descriptor)
            return descriptor
        os.close(descriptor)  # of a folder that was moved, or of a lock that was given back: not this one's any more


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(descriptor: int) -> None:
    fields = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": textwrap.shorten(" ".join(sys.argv), 160, placeholder=" ..."),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with suppress(OSError):  # the lock holds without words: a full disk is told by what is written next
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(fields).encode() + b"\n", 0)


def _who(descriptor: int) -> str:
    try:
        fields = json.loads(os.pread(descriptor, 4096, 0))
        return "process {pid} on {host} since {since} ({command})".format(**fields)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has not written its name yet


def _leave_to_parent() -> None:
    """In a fork: a loader worker or a helper that outlives its process must not keep the lock."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_leave_to_parent)
