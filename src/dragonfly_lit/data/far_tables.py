"""Parquet and Arrow of a web server, a store or a hub: row groups are read by their bytes, as they are needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dragonfly_lit.data.failures import RemoteError, refusal
from dragonfly_lit.data.far import FOLDER, gives_ranges
from dragonfly_lit.data.fetching import FarFile, facts_of, opened, retrying
from dragonfly_lit.data.first_use import Known
from dragonfly_lit.data.remote import CHANGED, TRIES
from dragonfly_lit.data.tables import (
    File,
    Group,
    Tables,
    as_arrow,
    check_columns,
    ends_of,
    groups,
    look_at_parquet,
    opened_arrow,
    row_at,
)

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = ".arrow"
Read = TypeVar("Read")


class FarTables(Tables):
    """The rows of remote tables, numbered in the order of the files.

    Of Parquet the groups that are needed are read; Arrow, and files of a server that gives whole files only, are copied
    into the cache.
    """

    def _look_at(self, files: Sequence[File]) -> Iterator[tuple[Group, int]]:
        far = [file for file in files if isinstance(file, FarFile)]
        self._whole = {file for file in far[:1] if file.suffix != ARROW and not gives_ranges(file)}
        if self._whole:
            self._whole = set(far)
        found = Known(self._cache.folder / FOLDER, "table 1", self._find_out).of(far, self.path)
        self._told = {file: json.loads(content or b"") for file, content in zip(far, found, strict=True)}
        for file, told in self._told.items():
            check_columns(file, told["names"])
            if file.suffix != ARROW:
                yield from groups(file, file.key, told["rows"], told["state"])
            elif told["rows"][0]:
                yield Group(file=file, number=None, first=0, state=told["state"]), told["rows"][0]

    def _find_out(self, file: FarFile) -> bytes:
        """Columns, rows and state of a file; of one that is copied also its checksum."""
        if file.suffix == ARROW:
            told = self._on_copy(file, "", _look_at_arrow)
        elif file in self._whole:
            told = self._on_copy(file, "", _look_at_copy)
        else:
            told = {**_asked(file, lambda remote: _parquet(remote, file.num_bytes)), "sha256": ""}
        return json.dumps(told).encode()

    def _as_arrow(self, group: Group) -> pa.Buffer:
        file = group.file
        assert isinstance(file, FarFile)
        if file in self._whole:
            return self._on_copy(file, self._told[file]["sha256"], lambda copy: as_arrow(copy, group))
        return _asked(file, lambda remote: as_arrow(remote, group))

    def _row_of_arrow(self, group: Group, place: int) -> dict[str, Any]:
        file = group.file
        assert isinstance(file, FarFile)
        return self._on_copy(file, self._told[file]["sha256"], lambda copy: row_at(copy, place, checked=True))

    def _on_copy(self, file: FarFile, sha256: str, read: Callable[[Path], Read]) -> Read:
        for _ in range(TRIES):
            copy = self._cache.copy(file, sha256)
            try:
                return read(copy)
            except FileNotFoundError:  # it had to go, to make place for another
                continue
            except (OSError, ValueError) as error:
                raise refusal(file.url, error) from error
        raise RemoteError(f"{file.url} does not stay in {self._cache.folder}. Raise data.cache_gb.")


def _asked(file: FarFile, read: Callable[[Any], Read]) -> Read:
    """What is read of an open file, if it is still the file that was listed when that is done."""

    def ask() -> Read:
        try:
            with opened(file.url) as remote:
                return read(remote)
        except OSError as error:
            if type(error) is OSError and error.errno is None and error.__cause__ is None:
                raise refusal(file.url, error) from error  # pyarrow's own: these bytes are damaged
            raise

    got = retrying(file.url, ask)
    if not file.fixed and not file.is_as(facts_of(file.url, file.name)):
        raise RemoteError(f"{file.url} changed while it was read. {CHANGED}")
    return got


def _parquet(file: Any, size: int) -> dict[str, Any]:
    names, rows, state = look_at_parquet(file, size)
    return {"names": names, "rows": rows, "state": state}


def _look_at_copy(copy: Path) -> dict[str, Any]:
    with copy.open("rb") as file:
        told = _parquet(file, copy.stat().st_size)
        file.seek(0)
        return {**told, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _look_at_arrow(copy: Path) -> dict[str, Any]:
    with copy.open("rb") as file, opened_arrow(copy) as batches:
        names, rows = list(batches.schema.names), sum(batch.num_rows for batch in batches)
        state = ends_of(file, copy.stat().st_size)
        file.seek(0)
        return {
            "names": names,
            "rows": [rows],
            "state": state,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
