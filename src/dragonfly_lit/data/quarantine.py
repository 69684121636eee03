"""What becomes of a sample that cannot be used: raised, or written down, counted and limited."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.io import disk

MAX_TOO_LONG = 100
MANY_IN_A_ROW = 100
"""A source of which so many in a row, and as many as it has, are bad gives nothing, however high its limits are."""

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Quarantine:
    """Skipped samples, one JSON a line: source, shard, key, place, reason; several processes may append.

    An error that nobody foresaw is a fault of ours: its type stands in the line, its traceback in the log, once.

    Attributes:
        path: the file; None only logs.
        max_rate: share of a source's samples that may be skipped.
        max_run: samples of a source that may be skipped in a row.
        held: whether nothing is written yet: data are opened before the folder of their run is.
    """

    path: Path | None = None
    max_rate: float = 0.01
    max_run: int = 10
    held: bool = False
    _waiting: list[str] = field(default_factory=list, repr=False)
    _seen: set[tuple[str, str, str, str]] = field(default_factory=set, repr=False)
    _unforeseen: Counter[str] = field(default_factory=Counter, repr=False)
    _too_long: dict[str, int] = field(default_factory=dict, repr=False)
    _runs: dict[str, int] = field(default_factory=dict, repr=False)

    def write(self, source: str, error: BadSampleError) -> None:
        """Write a bad sample down, once a process."""
        place = (source, error.shard, error.key, error.place)
        if place in self._seen:
            return
        self._seen.add(place)
        fields = {"source": source, "shard": error.shard, "key": error.key, "place": error.place}
        kind = {"type": error.kind} if error.kind else {}
        line = json.dumps({**fields, **kind, "reason": error.reason})
        log.warning("skipped: %s", line)
        if error.kind:
            self._count(error)
        self._waiting.append(f"{line}\n")
        if not self.held:
            self.release()

    def release(self) -> None:
        """Write what was held, and from now on everything at once."""
        lines, self._waiting, self.held = self._waiting, [], False
        if self.path is not None and lines:
            with disk.naming(self.path):
                self._append(self.path, "".join(lines).encode())

    def _append(self, path: Path, line: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)  # one write: lines of several workers stay whole
        finally:
            os.close(file)

    def _count(self, error: BadSampleError) -> None:
        self._unforeseen[error.kind] += 1
        if self._unforeseen[error.kind] == 1:
            whose = "The source's own reader made it" if error.source else "Please report it with this traceback"
            log.error("%s was not foreseen. %s.", error.kind, whose, exc_info=error)
        else:
            log.error("samples skipped for errors that were not foreseen: %s", dict(self._unforeseen))

    def too_long(self, source: str, error: BadSampleError) -> None:
        """Write a sample down that does not fit; it is left out whatever `on_error` says.

        Raises:
            ValueError: a hundred in a row do not fit: it is the limit that is wrong.
        """
        self.write(source, error)
        run = self._too_long[source] = self._too_long.get(source, 0) + 1
        if run >= MAX_TOO_LONG:
            raise ValueError(f"source {source}: {run} samples in a row are too long; the last: {error}") from None

    def good(self, source: str) -> None:
        """A sample of `source` was used: its run of skipped ones is over."""
        self._runs[source] = self._too_long[source] = 0

    def skip(self, source: str, error: BadSampleError, *, size: int, num_read: int, num_skipped: int) -> None:
        """Write a bad sample of a source down that may be skipped.

        Args:
            source: its name.
            error: what is wrong.
            size: samples that the source has.
            num_read: samples read from the source so far, this one included.
            num_skipped: those of them that were skipped.

        Raises:
            ValueError: too many in a row, or too large a share; or whatever the limits are, as many in a row as there
                are, so that nothing would ever come.
        """
        self.write(source, error)
        run = self._runs[source] = self._runs.get(source, 0) + 1
        where = f"see {self.path}" if self.path is not None else "see the log"
        if run > self.max_run:
            raise ValueError(
                f"source {source}: {run} samples running were skipped, more than max_skip_run={self.max_run}; "
                f"the last: {error} ({where}). Repair the source or raise data.max_skip_run."
            ) from None
        if run >= max(size, MANY_IN_A_ROW):
            raise ValueError(
                f"source {source}: {run} samples running were skipped, and it has {size}; the last: {error} ({where}). "
                "Nothing of it can be used: repair it, or take it out."
            ) from None
        if num_skipped > self.max_run and num_skipped > self.max_rate * num_read:
            raise ValueError(
                f"source {source}: {num_skipped} of {num_read} samples were skipped, more than max_skip_rate="
                f"{self.max_rate}; the last: {error} ({where}). Repair the source or raise data.max_skip_rate."
            ) from None
