"""Errors of a disk in words: which path could not be written, why, and what to free."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REASONS = {
    errno.ENOSPC: ("its disk is full", "Free space there"),
    errno.EDQUOT: ("your quota on its disk is used up", "Delete files of yours there, or have it raised"),
    errno.EFBIG: ("it would exceed the limit of a file's size", "Raise the limit (ulimit -f), or use another disk"),
    errno.EROFS: ("its disk is read-only", "Use another folder"),
    errno.EIO: ("its disk reports an error", "Look at it (dmesg), or use another disk"),
    errno.EACCES: ("permission is denied", "Change its permissions, or use another folder"),
    errno.EPERM: ("it is not permitted", "Change its permissions, or use another folder"),
    errno.EMFILE: ("this process has too many open files", "Raise the limit (ulimit -n), or use fewer workers"),
}
"""By error number: why, and the way out."""
FEW_FILES = 100
"""A disk with room for fewer is full of files (of inodes), whatever the bytes."""
OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""What the kernel says of a write without saying of which file."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the disk that names no file, or a hidden one beside `path`, names `path` outside of the block.

    Libraries wrap such errors in others of their own: the error of the disk behind them is raised in their place.

    Args:
        path: what is written in the block, a file or a folder.

    Raises:
        OSError: with the error's number, its words, and a path.
    """
    try:
        yield
    except Exception as error:
        found = behind(error)
        if found is None:
            raise
        name = found.filename
        if name is None or (path.name in str(name) and Path(str(name)).parent == path.parent):
            name = str(path)
        if found is error and name == found.filename:
            raise
        raise OSError(found.errno, os.strerror(found.errno or 0), str(name)) from error


def behind(error: BaseException) -> OSError | None:
    """The error of writing that `error` is, or that a library has wrapped in it; None where there is none."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in OF_WRITING:
            return error
        # Libraries in Rust put the number into their message.
        match = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
        if match and int(match[1]) in OF_WRITING:
            return OSError(int(match[1]), os.strerror(int(match[1])))
        following = error.__cause__ or error.__context__
        if following is None:
            break
        error = following
    return None


def explain(error: OSError, *, go_on: str = "") -> str | None:
    """One line for an error of the disk: the path, why it cannot be written, what to do; or the path and the reason.

    None for an error that neither is of the disk nor names a file.

    Args:
        error: as the kernel or `naming` has raised it.
        go_on: what to do when that is mended.
    """
    if error.errno not in REASONS:
        if error.filename is None or isinstance(error.filename, int) or not error.strerror:
            return None
        return f"{os.fsdecode(error.filename)}: {error.strerror[0].lower()}{error.strerror[1:]}."
    reason, way_out = REASONS[error.errno]
    path = None if error.filename is None or isinstance(error.filename, int) else Path(os.fsdecode(error.filename))
    if path is None:
        return f"A file cannot be written or read: {reason}. {way_out}.{go_on}"
    if error.errno == errno.ENOSPC:
        with suppress(OSError):
            reason, way_out = _fullness(path, reason, way_out)
    verb = "written" if error.errno in OF_WRITING - {errno.EIO} else "used"
    return f"{path} cannot be {verb}: {reason}. {way_out}.{go_on}"


def _fullness(path: Path, reason: str, way_out: str) -> tuple[str, str]:
    """A disk can be full of bytes or of files; what was half written has been taken away by now."""
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    found, megabytes = os.statvfs(folder), shutil.disk_usage(folder).free / 1e6
    if found.f_files and found.f_favail < FEW_FILES:
        return f"{reason} ({megabytes:,.1f} MB and {found.f_favail} files are free now)", "Delete files there"
    return f"{reason} ({megabytes:,.1f} MB are free now)", way_out
