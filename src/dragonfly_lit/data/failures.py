"""What an error of a store's client means: whether it is worth asking again, and how it is told in one line."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

BUSY = (408, 425, 429, 500, 502, 503, 504)
CLIENTS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
"""Extras that bring the client of a scheme."""


class RemoteError(ValueError):
    """A remote file that cannot be had, or is not what it was: not a sample's fault, so nothing is skipped for it."""


class NoRangesError(RemoteError):
    """The server gives whole files only."""


def is_final(error: BaseException) -> bool:
    """Whether the same request would fail again: a file that is not there, a wrong key, a client that is missing."""
    if (status := _status(error)) is not None:
        return status not in BUSY
    if isinstance(error, FileNotFoundError):
        return error.__cause__ is None  # else of a client that calls every failure so
    return isinstance(  # NotImplementedError: what a client cannot do it never will
        error, (ImportError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, ValueError)
    )


def is_absent(error: BaseException) -> bool:
    """Whether an error says that there is no such file."""
    cause = error.__cause__ if isinstance(error, RemoteError) else error
    return cause is not None and (isinstance(cause, FileNotFoundError) or _status(cause) in (404, 410))


def told(error: BaseException) -> str:
    """What an error says, in one line."""
    told = cause_of(error)
    if isinstance(told, FileNotFoundError):
        return "FileNotFoundError: there is no such file"
    said = " ".join(str(told).split()).rstrip(".") or "no reason given"
    return f"{type(told).__name__}: {said}"


def refusal(url: str, error: BaseException) -> RemoteError:
    """What a file that cannot be had is refused with.

    Args:
        url: of the file.
        error: of its client.
    """
    extra = CLIENTS.get(urlsplit(url).scheme)
    if isinstance(error, ImportError) and extra:
        return RemoteError(f"{url} cannot be read: its client is not installed: pip install 'dragonfly_lit[{extra}]'")
    return RemoteError(f"{url} cannot be read: {told(error)}.")


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(8):
        if one is None:
            return
        yield one
        one = one.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, of whichever client."""
    for one in _chain(error):
        for status in (getattr(one, "status", None), getattr(getattr(one, "response", None), "status_code", None)):
            if isinstance(status, int) and 400 <= status < 600:
                return status
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # botocore's
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(status, int) and 400 <= status < 600:
                return status
    return None


def cause_of(error: BaseException) -> BaseException:
    """What really happened where a client calls every failure a missing file."""
    if not isinstance(error, FileNotFoundError) or error.__cause__ is None or _status(error) in (404, 410):
        return error
    return error.__cause__


def asked_to_wait(error: BaseException) -> float:
    """Seconds that a busy server asks for."""
    for one in _chain(error):
        headers = getattr(one, "headers", None) or getattr(getattr(one, "response", None), "headers", None)
        value = headers.get("Retry-After") if hasattr(headers, "get") else None  # type: ignore[union-attr]
        if not value:
            continue
        with suppress(ValueError, TypeError):
            return max(0.0, float(value))
        with suppress(ValueError, TypeError):
            return max(0.0, email.utils.parsedate_to_datetime(str(value)).timestamp() - time.time())
    return 0.0
